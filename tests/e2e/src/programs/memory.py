"""Takes and frees 500 MiB when told so, and holds on to 16 MiB all the time."""
import hashlib
import mmap
import os
import sys

MIB = 1 << 20
kept = os.urandom(16 * MIB)
known = hashlib.sha256(kept).hexdigest()
taken = None

print("begun", flush=True)
for line in sys.stdin:
    if line == "take\n":
        taken = mmap.mmap(-1, 500 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, len(taken), 4096):
            if taken[at:at + 8] != bytes(8):
                sys.exit(f"what was at {at} is somebody's")
            taken[at] = 1
    elif line == "free\n":
        taken.close()
    else:
        sys.exit(f"there is no {line!r}")
    if hashlib.sha256(kept).hexdigest() != known:
        sys.exit("what was kept has changed")
    print(line.strip(), "done", flush=True)
print("ended")
