"""The place in which lives happen: a copy of vmrun, a store, a bundle, a volume."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

# A program that does as good as nothing until it is asked to end.
QUIET = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


class Place:
    """`path` and what is in it; `linux` goes over the configuration's field of that name."""

    def __init__(self, vmrun: Path, rootfs: Path, program: str, linux: dict) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="leaks."))
        self.vmrun = Path(shutil.copy2(vmrun, self.path / "vmrun"))
        self.store = self.path / "store"
        self.store.mkdir(mode=0o700)
        self.volume = self.path / "volume"
        self.volume.mkdir()
        self.bundle = self.path / "bundle"
        self.bundle.mkdir()
        subprocess.run(["cp", "-a", rootfs, self.bundle / "rootfs"], check=True)
        self._write_bundle(program, linux)

    def _write_bundle(self, program: str, linux: dict) -> None:
        subprocess.run([self.vmrun, "spec", "--bundle", self.bundle], check=True, stdin=subprocess.DEVNULL)
        path = self.bundle / "config.json"
        config = json.loads(path.read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] = ["sh", "-c", program]
        config["root"]["readonly"] = False
        config["mounts"].append(
            {"destination": "/volume", "type": "bind", "source": str(self.volume), "options": ["rbind", "rw"]}
        )
        config["linux"]["resources"]["memory"] = {"limit": 64 << 20}
        config["linux"].update(linux)
        path.write_text(json.dumps(config))

    def command(self, *words: str) -> list[str]:
        """vmrun's, with the store."""
        return [str(self.vmrun), "--root", str(self.store), *words]

    def remove(self) -> None:
        shutil.rmtree(self.path)
