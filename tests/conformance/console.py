"""console.py SECONDS SOCKET OUTPUT [INPUT]: the engine's end of a terminal.

Listens on SOCKET, takes the terminal's master that a runtime sends, types INPUT once
"ready" has been read, and writes everything that is read to OUTPUT until the other end
is closed.
"""

import array
import os
import socket
import sys


def receive(path: str, seconds: float) -> int:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    listener.settimeout(seconds)
    connection, _ = listener.accept()
    connection.settimeout(seconds)
    _, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return array.array("i", data)[0]
    sys.exit("console: no descriptor came over the socket")


def main() -> None:
    master = receive(sys.argv[2], float(sys.argv[1]))
    typed = (sys.argv[4] if len(sys.argv) > 4 else "").encode().decode("unicode_escape").encode()
    seen = b""
    with open(sys.argv[3], "wb", buffering=0) as output:
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # EIO: nobody holds the other end any more
                break
            if not piece:
                break
            output.write(piece)
            seen += piece
            if typed and b"ready" in seen:
                os.write(master, typed)
                typed = b""


main()
