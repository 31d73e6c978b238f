"""A headless Chromium with one page, led by its DevTools protocol over a pair of pipes."""

import base64
import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path

# Seconds that it may take to answer; an emulated or busy machine starts it slowly.
LIMIT = 60


class Browser:
    """A context: with it ends the browser. `complaints` are what it has written to the page's console."""

    def __init__(self) -> None:
        self.profile = tempfile.TemporaryDirectory(prefix="chromium.", ignore_cleanup_errors=True)
        its_in, self.out = os.pipe()
        self.into, its_out = os.pipe()
        program = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options = ["--remote-debugging-pipe", f"--user-data-dir={self.profile.name}", "about:blank"]
        # It reads orders from descriptor 3 and writes to 4.
        shell = ["sh", "-c", f'exec "$@" 3<&{its_in} 4>&{its_out}', "sh"]
        self.process = subprocess.Popen(
            [*shell, *program, *options], pass_fds=(its_in, its_out), stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        os.close(its_in)
        os.close(its_out)
        self.number = 0
        self.unread = b""
        self.session: dict[str, str] = {}
        self.complaints: list[str] = []
        self.loaded = False

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.into)
        os.close(self.out)
        self.profile.cleanup()

    def open(self, page: Path, width: int, scheme: str) -> None:
        """Shows a file in a window of this width, in the colour scheme "light" or "dark"."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.loaded = False
        self.ask("Page.navigate", url=page.absolute().as_uri())
        self._await(lambda _: self.loaded)

    def evaluate(self, script: str) -> object:
        """The value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"the script failed: {answer['exceptionDetails']}")
        return answer["result"]["value"]

    def picture(self, path: Path) -> None:
        """Writes the whole page as PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def ask(self, method: str, **parameters: object) -> dict:
        self.number += 1
        number = self.number
        order = {"id": number, "method": method, "params": parameters} | self.session
        os.write(self.out, json.dumps(order).encode() + b"\0")
        answer = self._await(lambda message: message.get("id") == number)
        if "error" in answer:
            raise RuntimeError(f"{method} failed: {answer['error']}")
        return answer["result"]

    def _await(self, wanted) -> dict:
        deadline = time.monotonic() + LIMIT
        while True:
            message = self._read(deadline)
            self._note(message)
            if wanted(message):
                return message

    def _note(self, message: dict) -> None:
        match message.get("method"):
            case "Page.loadEventFired":
                self.loaded = True
            case "Log.entryAdded" | "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(message["params"]))

    def _read(self, deadline: float) -> dict:
        while b"\0" not in self.unread:
            if not select.select([self.into], [], [], max(0, deadline - time.monotonic()))[0]:
                raise RuntimeError(f"chromium has not answered for {LIMIT} s")
            piece = os.read(self.into, 1 << 16)
            if not piece:
                raise RuntimeError("chromium has ended")
            self.unread += piece
        message, self.unread = self.unread.split(b"\0", 1)
        return json.loads(message)
