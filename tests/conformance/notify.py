"""notify.py LIMIT SOCKET OUTPUT: a service manager that writes what it is told to OUTPUT.

It ends when it was told that the service is ready, or after LIMIT seconds.
"""

import socket
import sys

limit, path, output = sys.argv[1:]
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(path)
manager.settimeout(float(limit))
lines = []
while "READY=1" not in lines:
    lines += manager.recv(4096).decode().splitlines()
    with open(output, "w") as file:
        file.write("\n".join(lines) + "\n")
