"""Asks a name server over all that it can be asked, and says what it hears. Its address is the first of
/etc/resolv.conf; another one, which is no loopback address, is in OTHER."""

import os
import socket
import struct

SERVER = next(line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver"))
A, TXT = 1, 16


def question(number, name, kind):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\x00" + struct.pack("!HH", kind, 1)


def family(server):
    return socket.AF_INET6 if ":" in server else socket.AF_INET


def over_udp(name, kind, server=SERVER):
    with socket.socket(family(server), socket.SOCK_DGRAM) as asking:
        asking.settimeout(60)
        asking.connect((server, 53))
        asking.send(question(7, name, kind))
        return asking.recv(65535)


def exactly(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        assert more, "cut short"
        data += more
    return data


def over_tcp(*asked, server=SERVER, close=False):
    with socket.create_connection((server, 53), timeout=60) as asking:
        for number, (name, kind) in enumerate(asked):
            one = question(number, name, kind)
            asking.sendall(struct.pack("!H", len(one)) + one)
        if close:
            asking.shutdown(socket.SHUT_WR)
        heard = [exactly(asking, struct.unpack("!H", exactly(asking, 2))[0]) for _ in asked]
        return sorted(heard, key=lambda one: one[:2])


def shown(answer):
    number, flags, _, answers = struct.unpack_from("!HHHH", answer)
    return f"{flags & 15}/{answers}/{len(answer)}"


print("address:", sorted({info[4][0] for info in socket.getaddrinfo("web.test", 80)}))
print("name:", socket.gethostbyaddr("10.88.0.7")[0])
try:
    socket.gethostbyname("nobody.test.")
except socket.gaierror as error:
    print("nobody:", error.errno == socket.EAI_NONAME)
print("UDP:", shown(over_udp("web.test", A)), shown(over_udp("nobody.test", A)), shown(over_udp("big.test", TXT)))
several = [("web.test", A), ("nobody.test", A), ("big.test", TXT)]
print("TCP:", *map(shown, over_tcp(*several)), *map(shown, over_tcp(("web.test", A), close=True)))
if other := os.environ.get("OTHER"):
    print("outside:", shown(over_udp("far.outside", A)), *map(shown, over_tcp(("far.outside", A))))
    print("other:", shown(over_udp("far.outside", A, other)), *map(shown, over_tcp(("far.outside", A), server=other)))
if "OWN" in os.environ:
    # The port is the program's all the same.
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as own, socket.create_server(("", 53)):
        own.bind(("::", 53))
        print("port 53 is free:", shown(over_udp("web.test", A)), *map(shown, over_tcp(("web.test", A))))
