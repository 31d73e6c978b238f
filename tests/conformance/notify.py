"""notify.py LIMIT SOCKET OUTPUT: a service manager that writes what it is told to OUTPUT.

It ends when it was told that the service is ready, or after LIMIT seconds. OUTPUT.sender
is the pid of the process that said so, as the kernel has it. @NAME is a socket without a file.
"""

import socket
import struct
import sys

limit, path, output = sys.argv[1:]
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
manager.bind("\0" + path[1:] if path.startswith("@") else path)
manager.settimeout(float(limit))
open(output, "w").close()
lines = []
while "READY=1" not in lines:
    message, ancillary, *_ = manager.recvmsg(4096, socket.CMSG_SPACE(12))
    lines += message.decode().splitlines()
    for _, kind, data in ancillary:
        if kind == socket.SCM_CREDENTIALS:
            with open(output + ".sender", "w") as file:
                print(struct.unpack("3i", data[:12])[0], file=file)
    with open(output, "w") as file:
        file.write("\n".join(lines) + "\n")
