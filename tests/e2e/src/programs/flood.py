"""Sends frames that are none, without end: of every length, and with headers that promise what is not there.

Says "round" each time that it has been through all of them.
"""

import itertools
import socket
import struct

SOL_PACKET, PACKET_VNET_HDR = 263, 15
TO_ALL = b"\xff" * 6 + b"\x02\0\0\0\0\x07"


def opened(with_header):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, with_header)
    raw.bind(("eth0", 0))
    return raw


def send(raw, data):
    try:
        raw.send(data)
    except OSError:
        pass  # The kernel refuses some itself, and has no room for others.


bare, headed = opened(0), opened(1)
lengths = [14, 15, 20, 33, 34, 60, 61, 999, 1513, 1514]
kinds = [0x0800, 0x0806, 0x86DD, 0x8100, 0xFFFF, 0]
# Flags, kind of segments, length of the headers, size of a segment, where a sum begins and goes.
headers = list(itertools.product([0, 1, 2, 255], [0, 1, 3, 4, 0x81], [0, 54, 65535], [0, 1, 1400], [0, 14, 34, 65535], [0, 6, 65535]))
frame = TO_ALL + struct.pack("!H", 0x0800) + b"\x45\0" + bytes(1000)
while True:
    for length, kind in itertools.product(lengths, kinds):
        send(bare, (TO_ALL + struct.pack("!H", kind) + b"\x45" + bytes(1500))[:length])
    for fields in headers:
        send(headed, struct.pack("<BBHHHH", *fields) + frame)
    print("round", flush=True)
