"""The three columns: where the same program meets a directory, and what it finds there as /data.

  plain   in the directory itself, with the container's root file system as root directory
  crun    in a container of crun's, with the directory as a bind mount
  vmrun   in a sandbox, with the directory as a volume
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# Processes of the host have all of them, and the columns differ by nothing that is not a file's.
CAPABILITIES = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK KILL LEASE LINUX_IMMUTABLE MKNOD SETFCAP SETGID "
    "SETPCAP SETUID SYS_ADMIN SYS_CHROOT SYS_NICE SYS_RESOURCE"
)
NAMESPACES = ("pid", "ipc", "uts", "mount")
DISK_BYTES = 1 << 30
# Of the model, whose other client is on the host.
UNCACHED = {"dev.vmrun.volume.cache": "none"}


def run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, stdin=subprocess.DEVNULL)


def mount(destination: str, kind: str, source: str, *options: str) -> dict:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


class Host:
    """A root file system in memory, and a disk with ext4 on which each column has its directories."""

    def __init__(self, archive: Path, tools: Path, vmrun: Path) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="suites."))
        self.rootfs = self.path / "rootfs"
        self.rootfs.mkdir()
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", self.rootfs)
        run("tar", "-C", self.rootfs, "--numeric-owner", "-xpf", archive)
        for tool in tools.iterdir():
            shutil.copy2(tool, self.rootfs / "bin")
        for folder in "data", "suites":
            (self.rootfs / folder).mkdir()
        self.vmrun = shutil.copy2(vmrun, self.path / "vmrun")
        image = self.path / "image"
        image.touch()
        os.truncate(image, DISK_BYTES)
        # Without a journal, whose commits would be most of what is waited for.
        run("mkfs.ext4", "-qF", "-O", "^has_journal", image)
        self.disk = self.path / "disk"
        self.disk.mkdir()
        run("mount", "-o", "loop", image, self.disk)

    def directory(self, name: str) -> Path:
        directory = self.disk / name
        directory.mkdir(parents=True)
        return directory

    def remove(self) -> None:
        run("umount", "-l", self.disk, self.rootfs)
        shutil.rmtree(self.path)

    def command(self, column: str, directory: Path, program: list[str], annotations: dict[str, str]) -> list[str]:
        """What runs the program in this column."""
        if column == "plain":
            # Mounts of its own end with it.
            inside = 'mount --rbind "$1" "$0/data" && mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && root=$0 && shift'
            inside += ' && exec chroot "$root" env -i PATH=/usr/bin:/bin "$@"'
            return ["unshare", "--mount", "sh", "-c", inside, str(self.rootfs), str(directory), *program]
        bundle = Path(tempfile.mkdtemp(prefix="bundle.", dir=self.path))
        config = self._config(directory, program, annotations)
        (bundle / "config.json").write_text(json.dumps(config))
        runtime = "crun" if column == "crun" else str(self.vmrun)
        return [runtime, "--root", str(self.path / f"store-{column}"), "run", "--bundle", str(bundle), bundle.name]

    def _config(self, directory: Path, program: list[str], annotations: dict[str, str]) -> dict:
        capabilities = [f"CAP_{name}" for name in CAPABILITIES.split()]
        return {
            "ociVersion": "1.0.2",
            "annotations": annotations,
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": program,
                "env": ["PATH=/usr/bin:/bin"],
                "cwd": "/",
                "capabilities": {kind: capabilities for kind in ("bounding", "effective", "permitted")},
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 4096}],
            },
            "root": {"path": str(self.rootfs), "readonly": False},
            "mounts": [
                mount("/proc", "proc", "proc"),
                mount("/dev", "tmpfs", "tmpfs", "mode=755"),
                mount("/data", "bind", str(directory), "rbind", "rw"),
            ],
            "linux": {
                "resources": {"devices": [{"allow": True, "access": "rwm"}], "memory": {"limit": 512 << 20}},
                "namespaces": [{"type": kind} for kind in NAMESPACES],
            },
        }
