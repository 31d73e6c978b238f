"""What a program finds at a socket of the host's that is mounted at /tmp/host.sock, one line for each thing."""

import os
import socket
import stat
import sys
import threading

PATH = "/tmp/host.sock"
BIG = 4 << 20


def connected():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(PATH)
    return connection


def everything(connection):
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def ask(question, connection=None):
    """The answer to a question that ends with the end of what is sent."""
    connection = connection or connected()
    connection.sendall(question)
    connection.shutdown(socket.SHUT_WR)
    return everything(connection).decode()


def look():
    found = os.stat(PATH)
    print("it is", stat.filemode(found.st_mode), found.st_uid, found.st_gid)


def converse():
    print("answer:", ask(b"echo hello"))
    print("two at a time:", *[ask(b"echo " + word, connection) for word, connection in ((b"b", connected()), (b"a", connected()))])
    connection = connected()
    connection.sendall(b"greet")
    print("before the end of the question:", connection.recv(100).decode())
    connection.shutdown(socket.SHUT_WR)
    print("and after it:", everything(connection).decode())


def pour():
    """More than all buffers hold, both ways at once."""
    connection = connected()
    sender = threading.Thread(target=lambda: (connection.sendall(b"mirror" + b"x" * BIG), connection.shutdown(socket.SHUT_WR)))
    sender.start()
    received = everything(connection)
    sender.join()
    print("of a flood:", len(received) - BIG, received.count(b"x") == BIG)


def many():
    """More at once than the host's queue has room for."""
    answers = []
    threads = [threading.Thread(target=lambda number=number: answers.append(ask(b"echo %d" % number))) for number in range(40)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print("many at once:", sorted(map(int, answers)) == list(range(40)))


def be_left():
    connection = connected()
    connection.sendall(b"leave")
    print("last words:", everything(connection).decode())
    try:
        while True:
            connection.sendall(b"anybody?")
    except (BrokenPipeError, ConnectionResetError):
        print("to one who has left: it is told")


def as_another():
    if os.fork() == 0:
        os.setgid(1000)
        os.setuid(1000)
        try:
            connected()
            print("another user: connected", flush=True)
        except OSError as error:
            print("another user:", type(error).__name__, flush=True)
        os._exit(0)
    os.wait()


def say_and_go():
    """Ends at once; what it has said is the host's to read."""
    connection = connected()
    connection.sendall(b"note " + b"z" * 100000)


for act in sys.argv[1:]:
    globals()[act]()
    sys.stdout.flush()
