"""on-terminal.py SECONDS INPUT CMD...: runs CMD on a new terminal of 33 rows and 99 columns.

INPUT is typed as soon as CMD has written the word "ready". What CMD writes goes to
standard output; the exit status is CMD's, or 124 when the time was over.
"""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

ROWS, COLUMNS = 33, 99


def main() -> int:
    deadline = time.monotonic() + float(sys.argv[1])
    typed, command = sys.argv[2].encode(), sys.argv[3:]
    size_is_set, say_so = os.pipe()
    pid, master = pty.fork()
    if pid == 0:
        # A program that reads its terminal's size at once must find it.
        os.read(size_is_set, 1)
        os.execvp(command[0], command)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    os.write(say_so, b"x")

    seen = b""
    while True:
        readable, _, _ = select.select([master], [], [], max(0, deadline - time.monotonic()))
        if not readable:
            print("on-terminal: the time is over", file=sys.stderr)
            return 124
        try:
            piece = os.read(master, 65536)
        except OSError:  # EIO: nobody holds the other end any more
            piece = b""
        if not piece:
            break
        sys.stdout.buffer.write(piece)
        seen += piece
        if typed and b"ready" in seen:
            os.write(master, typed)
            typed = b""
    sys.stdout.flush()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


sys.exit(main())
