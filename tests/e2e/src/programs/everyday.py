"""Threads, processes, sockets, memory, files, signals, time."""
import asyncio
import mmap
import multiprocessing
import os
import queue
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

results = queue.Queue()


def add(numbers):
    results.put(sum(numbers))


threads = [threading.Thread(target=add, args=(range(start, 100, 10),)) for start in range(10)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print('threads:', sum(results.get() for _ in threads))

children = [
    subprocess.Popen([sys.executable, '-c', f'print({number} ** 2)'], stdout=subprocess.PIPE)
    for number in range(4)
]
print('subprocesses:', [int(child.communicate()[0]) for child in children])
print('pipeline:', subprocess.check_output('printf "a\\nb\\nc\\n" | wc -l', shell=True).decode().strip())


def serve(listener):
    connection, _ = listener.accept()
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def echo(family, address, payload):
    with socket.create_server(address, family=family) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        received = 0
        with socket.socket(family) as client:
            client.connect(listener.getsockname())
            sender = threading.Thread(target=lambda: (client.sendall(payload), client.shutdown(socket.SHUT_WR)))
            sender.start()
            while data := client.recv(65536):
                received += len(data)
            sender.join()
        thread.join()
        return received


print('TCP:', echo(socket.AF_INET, ('127.0.0.1', 0), bytes(1 << 20)))
print('TCP over IPv6:', echo(socket.AF_INET6, ('::1', 0), b'hello'))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two:
    one.bind(('127.0.0.1', 0))
    two.sendto(b'datagram', one.getsockname())
    print('UDP:', one.recv(100))
left, right = socket.socketpair()
left.send(b'local')
print('Unix:', right.recv(100))

with tempfile.TemporaryFile() as file:
    file.truncate(1 << 28)
    view = mmap.mmap(file.fileno(), 1 << 28)
    for at in range(0, 1 << 28, 4096):
        if at % (1 << 14) == 0:
            view[at] = 1
    print('mapping:', (1 << 28) // 4096)
    view.close()

memory = bytearray(200 << 20)
for at in range(0, len(memory), 4096):
    memory[at] = 1
print('memory:', len(memory))
del memory


def square(number):
    return number * number


with multiprocessing.Pool(2) as pool:
    print('multiprocessing:', pool.map(square, range(5)))

with tempfile.NamedTemporaryFile() as file:
    database = sqlite3.connect(file.name)
    database.execute('create table numbers (number integer)')
    database.executemany('insert into numbers values (?)', ((number,) for number in range(1, 1001)))
    database.commit()
    print('sqlite:', database.execute('select sum(number) from numbers').fetchone()[0])
    database.close()

with tempfile.TemporaryDirectory() as directory:
    for number in range(100):
        with open(os.path.join(directory, str(number)), 'w') as file:
            file.write(str(number))
    print('temporary files:', len(os.listdir(directory)))

caught = []
signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
signal.signal(signal.SIGALRM, lambda number, frame: caught.append(number))
os.kill(os.getpid(), signal.SIGUSR1)
signal.setitimer(signal.ITIMER_REAL, 0.01)
while len(caught) < 2:
    signal.pause() if not caught else time.sleep(0.01)
print('signals:', caught)


async def tasks():
    async def one(number):
        await asyncio.sleep(0.001 * number)
        return number
    return sum(await asyncio.gather(*(one(number) for number in range(5))))


print('asyncio:', asyncio.run(tasks()))
start = time.monotonic()
time.sleep(0.05)
print('time:', 0.05 <= time.monotonic() - start < 5)
