"""draw.py KIND DIRECTORY SVG: a flame graph of those of DIRECTORY/samples that are in the phases of DIRECTORY/KIND-*.json."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

WIDTH, ROW, TOP, LETTER = 1200, 17, 44, 6.3
# Less of the whole is not drawn.
LEAST = 0.002
COLORS = {"phase": "#94a3b8", "thread": "#60a5fa", "guest": "#34d399", "kernel": "#fb923c", "program": "#fde047"}

# comm, which may have spaces, thread, time
HEAD = re.compile(r"^(?P<comm>.*?)\s+(?P<thread>\d+)\s+(?P<seconds>\d+)\.(?P<nanoseconds>\d{9}):")
# address, function with or without offset, file
FRAME = re.compile(r"^\s+[0-9a-f]+ (?P<name>.*?)(\+0x[0-9a-f]+)? \((?P<file>.*)\)$")

# The interrupt that takes a sample ends the guest's turn: what was the guest's is seen here, where KVM lets it come in.
ENTERS_GUEST = {"kvm_arch_vcpu_ioctl_run", "vcpu_enter_guest", "vcpu_enter_guest.constprop.0"}


@dataclass
class Frame:
    """A function in a stack, how many ns it was there, and what it has called."""

    kind: str = "phase"
    time: int = 0
    calls: dict[str, "Frame"] = field(default_factory=dict)

    def add(self, stack: list[tuple[str, str]], time: int) -> None:
        self.time += time
        if stack:
            (name, kind), *rest = stack
            self.calls.setdefault(name, Frame(kind)).add(rest, time)


class Phases:
    """The phases of the quicker half of all starts, by the host's clock: others had neighbours that took their processor."""

    def __init__(self, timelines: list[Path]) -> None:
        starts = sorted((self._of(path) for path in timelines), key=lambda phases: phases[-1][1] - phases[0][0])
        self.starts = starts[: (len(starts) + 1) // 2]
        self.phases = [phase for start in self.starts for phase in start]

    def _of(self, path: Path) -> list[tuple[int, int, str]]:
        timeline = json.loads(path.read_text())["timeline"]
        begin = min(mark["at_ns"] for mark in timeline["marks"])
        phases = []
        for phase in timeline["phases"]:
            phases.append((begin, begin + phase["duration_ns"], phase["name"]))
            begin += phase["duration_ns"]
        return phases

    def at(self, nanoseconds: int) -> tuple[int, str] | None:
        """When the phase of this moment began, and its name."""
        return next(((begin, name) for begin, end, name in self.phases if begin <= nanoseconds < end), None)


def samples(text: str) -> Iterator[tuple[str, int, list[tuple[str, str]]]]:
    """Of each sample the thread's name, the time in ns, and the stack with its kinds, the caller first."""
    for block in text.split("\n\n"):
        head, *lines = block.strip("\n").split("\n")
        if found := HEAD.match(head):
            frames = [frame for line in lines if (frame := FRAME.match(line))]
            yield found["comm"].strip(), int(found["seconds"]) * 10**9 + int(found["nanoseconds"]), named(frames)


def named(frames: list[re.Match]) -> list[tuple[str, str]]:
    """The functions of a stack, the caller first, and whose they are; of those without a name the file alone."""
    known = [frame for frame in reversed(frames) if frame["name"] != "[unknown]"]
    stack = [(short(frame["name"]), "kernel" if frame["file"].startswith("[") else "program") for frame in known]
    if stack and stack[-1][0] in ENTERS_GUEST:
        return [*stack, ("the guest", "guest")]
    if not stack and frames and not frames[0]["file"].startswith("["):
        return [(f"in {Path(frames[0]['file']).name}", "program")]
    return stack


def short(name: str) -> str:
    """A Rust function without the hash of its instance."""
    return re.sub(r"::h[0-9a-f]{16}$", "", name)


def fold(text: str, phases: Phases) -> Frame:
    """Each sample stands for the time since the one before: the timer is late where the guest runs, or the testbed does not."""
    whole, before = Frame(), 0
    for comm, time, stack in sorted(samples(text), key=lambda sample: sample[1]):
        # What perf itself does is nobody's.
        if comm != "perf" and (phase := phases.at(time)):
            begin, name = phase
            # Nobody calls an idle processor's loop.
            rest = [("idle", "thread")] if comm == "swapper" else [(comm, "thread"), *stack]
            whole.add([(name, "phase"), *rest], time - max(begin, before))
        before = time
    return whole


def draw(whole: Frame, phases: Phases, kind: str) -> str:
    milliseconds = 1 / len(phases.starts) / 1e6
    boxes: list[str] = []
    depth = lay_out(whole, 0.0, 0, WIDTH / whole.time, milliseconds, boxes)
    height = TOP + (depth + 1) * ROW
    title = f"A {kind} start: {whole.time * milliseconds:.0f} ms, mean of {len(phases.starts)}"
    legend = "".join(
        f'<rect x="{8 + 110 * at}" y="26" width="11" height="11" fill="{color}"/><text x="{24 + 110 * at}" y="36">{name}</text>'
        for at, (name, color) in enumerate(COLORS.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="10.5">'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/><text x="8" y="17" font-size="13">{escape(title)}</text>'
        f"{legend}\n" + "\n".join(boxes) + "\n</svg>\n"
    )


def lay_out(frame: Frame, left: float, depth: int, scale: float, milliseconds: float, boxes: list[str]) -> int:
    """Draws what `frame` has called, the phases in the order of time, and gives how deep that goes."""
    deepest = depth
    calls = frame.calls.items() if depth == 0 else sorted(frame.calls.items(), key=lambda call: -call[1].time)
    for name, call in calls:
        width = call.time * scale
        if width >= WIDTH * LEAST:
            boxes.append(box(name, call, left, depth, width, milliseconds))
            deepest = max(deepest, lay_out(call, left, depth + 1, scale, milliseconds, boxes))
        left += width
    return deepest


def box(name: str, call: Frame, left: float, depth: int, width: float, milliseconds: float) -> str:
    top = TOP + depth * ROW
    told = f"{name}: {call.time * milliseconds:.1f} ms"
    letters = int((width - 4) / LETTER)
    shown = name if len(name) <= letters else name[: letters - 1] + "…" if letters > 2 else ""
    text = f'<text x="{left + 2:.1f}" y="{top + 12}">{escape(shown)}</text>' if shown else ""
    return (
        f'<g><title>{escape(told)}</title><rect x="{left:.1f}" y="{top}" width="{max(width - 0.5, 0.5):.1f}" height="{ROW - 1}" '
        f'fill="{COLORS[call.kind]}"/>{text}</g>'
    )


def main() -> int:
    kind, directory, picture = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    phases = Phases(sorted(directory.glob(f"{kind}-*.json")))
    whole = fold((directory / "samples").read_text(), phases)
    if not whole.time:
        print(f"there are no samples of a {kind} start", file=sys.stderr)
        return 1
    picture.write_text(draw(whole, phases, kind))
    print(f"{picture}: {len(phases.starts)} starts")
    return 0


sys.exit(main())
