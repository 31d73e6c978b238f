"""A name server: name_server.py ADDRESS [OTHERS-ADDRESS]. It says "ready" when it serves.

What it does not know, names below "outside.", it asks the other one, over what it was asked by itself.
"""

import socket
import struct
import sys
import threading

SILENT = "silent."


def parse(question):
    """The name that is asked for, its type, and the question as it was."""
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += question[at] + 1
    return ".".join(labels) + ".", struct.unpack_from("!H", question, at + 1)[0], question[12 : at + 5]


def text(length):
    """Strings of a TXT record which are so long together."""
    return b"".join(b"\xff" + b"x" * 255 for _ in range(length // 256))


def records(name, kind, over_tcp):
    """The answers, as pairs of type and data; None if nobody has the name."""
    known = {
        ("web.test.", 1): [(1, socket.inet_aton("10.88.0.7"))],
        ("web.test.", 28): [(28, socket.inet_pton(socket.AF_INET6, "fd00:88::7"))],
        ("7.0.88.10.in-addr.arpa.", 12): [(12, b"\x03web\x04test\x00")],
        ("big.test.", 16): [(16, text(61440 if over_tcp else 8192))],
        ("far.outside.", 1): [(1, socket.inet_aton("10.99.0.9"))],
    }
    if (name, kind) in known:
        return known[name, kind]
    return [] if any(name == other for other, _ in known) else None


def answer(question, over_tcp, other):
    name, kind, asked = parse(question)
    if name == SILENT:
        return None
    if name.endswith(".outside.") and other:
        return ask_other(question, over_tcp, other)
    found = records(name, kind, over_tcp)
    head = struct.pack("!HHHHHH", struct.unpack_from("!H", question)[0], 0x8180 | (3 if found is None else 0), 1, len(found or ()), 0, 0)
    body = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data for kind, data in found or ())
    return head + asked + body


def exactly(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def message(connection):
    return exactly(connection, struct.unpack("!H", exactly(connection, 2))[0])


def ask_other(question, over_tcp, other):
    family = socket.AF_INET6 if ":" in other else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM) as asking:
        asking.settimeout(60)
        asking.connect((other, 53))
        if not over_tcp:
            asking.send(question)
            return asking.recv(65535)
        asking.sendall(struct.pack("!H", len(question)) + question)
        return message(asking)


def serve_datagrams(server, other):
    def one(question, asker):
        said = answer(question, False, other)
        if said is not None:
            server.sendto(said, asker)

    while True:
        question, asker = server.recvfrom(65535)
        threading.Thread(target=one, args=(question, asker), daemon=True).start()


def serve_connection(connection, other):
    with connection:
        try:
            while True:
                said = answer(message(connection), True, other)
                connection.sendall(struct.pack("!H", len(said)) + said)
        except (EOFError, ConnectionError):
            pass


def main(address, other=None):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.bind((address, 53))
    connections = socket.create_server((address, 53), family=family)
    threading.Thread(target=serve_datagrams, args=(datagrams, other), daemon=True).start()
    print("ready", flush=True)
    while True:
        connection, _ = connections.accept()
        threading.Thread(target=serve_connection, args=(connection, other), daemon=True).start()


main(*sys.argv[1:])
