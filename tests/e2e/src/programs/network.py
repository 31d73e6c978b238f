"""Serves and asks on the network as it is told, one command a line, and answers with a line.

  serve tcp|udp PORT       answers each connection or datagram with "hello" and what it got
  ask tcp|udp HOST PORT    sends "it" there and says what comes back
  try tcp|udp HOST PORT    the same, and gives up soon
  cat FILE                 its content, lines joined by "|"
"""

import socket
import sys
import threading

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def serve(kind, port):
    listener = socket.socket(socket.AF_INET6, KINDS[kind])
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", port))
    if kind == "tcp":
        listener.listen()
    threading.Thread(target=answer, args=(kind, listener), daemon=True).start()
    return "serving"


def answer(kind, listener):
    while True:
        if kind == "tcp":
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"hello " + connection.recv(100))
        else:
            data, peer = listener.recvfrom(100)
            listener.sendto(b"hello " + data, peer)


def ask(kind, host, port, patience):
    for family, _, _, _, address in socket.getaddrinfo(host, port):
        with socket.socket(family, KINDS[kind]) as asking:
            asking.settimeout(patience)
            asking.connect(address)
            asking.sendall(b"it")
            return asking.recv(100).decode()


def act(verb, *words):
    match verb:
        case "serve":
            return serve(words[0], int(words[1]))
        case "ask":
            return ask(words[0], words[1], int(words[2]), 60)
        case "try":
            return ask(words[0], words[1], int(words[2]), 3)
        case "cat":
            with open(words[0]) as file:
                return "|".join(file.read().splitlines())


print("up", flush=True)
for line in sys.stdin:
    try:
        print(act(*line.split()), flush=True)
    except OSError as error:
        print(f"failed: {error.strerror or error}", flush=True)
