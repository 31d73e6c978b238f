# one_answer.py ADDRESS ANSWER: answers each question for an IPv4 address over UDP with ANSWER.
import ipaddress
import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
answer = ipaddress.ip_address(sys.argv[2]).packed
print("serving", flush=True)
while True:
    query, asker = server.recvfrom(512)
    question = query[12 : query.index(0, 12) + 5]
    head = query[:2] + b"\x81\x80" + b"\x00\x01" * 2 + b"\x00" * 4
    # The name by where it is in the question, an address, for a minute.
    server.sendto(head + question + b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + answer, asker)
