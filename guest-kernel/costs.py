"""costs.py SOURCE OBJECTS CONFIG COUNTED: COSTS.md, on standard output. Called by `costs`, whose head explains the method."""

import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill

# The tables of places that are patched, with the bytes of an entry: struct alt_instr, jump_entry, static_call_site of 6.12.
PLACES = {".altinstructions": 14, "__jump_table": 16, ".static_call_sites": 8}
# Who patches, and where the kernel's table begins and ends.
PATCHING = {
    ".altinstructions": ("alternative_instructions", "__alt_instructions", "__alt_instructions_end"),
    "__jump_table": ("jump_label_init", "__start___jump_table", "__stop___jump_table"),
    ".static_call_sites": ("static_call_init", "__start_static_call_sites", "__stop_static_call_sites"),
}

# What of an object file is no part of the kernel that is loaded.
NOT_LOADED = re.compile(r"\.(bss|comment|note|debug|modinfo|orc_|discard|rela?|symtab|strtab|shstrtab|export_symbol|gnu)")

# obj-$(CONFIG_X) += a.o b/  and  name-$(CONFIG_X) := a.o
ASSIGNED = re.compile(r"^\s*(?P<of>[\w.-]+?)-(?P<when>y|objs|\$\((?P<option>CONFIG_\w+)\))\s*[:+]?=\s*(?P<what>.*)$")


@dataclass
class Cost:
    """What objects add: bytes, instructions of initcalls, places that are patched by table."""

    bytes: int = 0
    initcalls: int = 0
    places: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))

    def add(self, other: "Cost", sign: int = 1) -> None:
        self.bytes += sign * other.bytes
        self.initcalls += sign * other.initcalls
        for table, count in other.places.items():
            self.places[table] += sign * count

    def take(self, other: "Cost") -> None:
        self.add(other, -1)


def assignments(makefile: Path) -> list[tuple[str, str | None, list[str]]]:
    """What goes into what, and by which option."""
    text = makefile.read_text(errors="replace").replace("\\\n", " ")
    found = filter(None, (ASSIGNED.match(line.split("#")[0]) for line in text.splitlines()))
    return [(one["of"], one["option"], one["what"].split()) for one in found]


def owners(source: Path, objects: Path, folder: Path = Path(), owner: str | None = None) -> dict[Path, str | None]:
    """The object files below a folder that were built, each with the innermost option that brings it."""
    makefile = next((path for name in ("Kbuild", "Makefile") if (path := source / folder / name).exists()), None)
    if makefile is None:
        return {}
    lines = assignments(makefile)
    parts = defaultdict(list)
    for of, option, what in lines:
        parts[of].append((option, what))
    found: dict[Path, str | None] = {}

    def bring(name: str, option: str | None) -> None:
        if name.endswith("/"):
            if (objects / folder / name).is_dir():
                found.update(owners(source, objects, folder / name, option))
        elif name.endswith(".o"):
            whole = name.removesuffix(".o")
            for inner, what in parts.get(whole, []) if whole not in ("obj", "lib") else []:
                for part in what:
                    bring(part, inner or option)
            if (objects / folder / name).exists() and whole not in parts:
                found.setdefault(folder / name, option)

    for of in ("core", "drivers", "libs", "net", "obj", "lib"):
        for option, what in parts.get(of, []):
            for name in what:
                bring(name, option or owner)
    return found


def sections(path: Path) -> Cost:
    cost = Cost()
    for line in subprocess.run(["size", "-A", "-d", path], check=True, capture_output=True, text=True).stdout.splitlines()[2:]:
        name, *numbers = line.split() or [""]
        if name.startswith((".", "__", "_")) and not NOT_LOADED.match(name) and numbers:
            cost.bytes += int(numbers[0])
            if name in PLACES:
                cost.places[name] += int(numbers[0]) // PLACES[name]
    return cost


def functions_called(path: Path) -> set[str]:
    """The initcalls of an object file: `__initcall__kmod_ipv6__1106_1323_inet6_init6`."""
    symbols = subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r" __initcall__kmod_\w+?__\d+_\d+_(\w+?)(?:early|rootfs|[0-7]s?)$", symbols, re.MULTILINE))


def counted(output: str) -> list[tuple[int, int, int]]:
    """Each function that was stopped at, its first argument, and the instructions until it returned."""
    found = re.findall(
        r"function (0x[0-9a-f]+) (0x[0-9a-f]+)\n.*?instruction count = (\d+).*?instruction count = (\d+)", output, re.DOTALL
    )
    return [(int(address, 16), int(argument, 16), int(after) - int(before)) for address, argument, before, after in found]


def symbols(objects: Path) -> list[tuple[int, str]]:
    """The kernel's, each with its address."""
    lines = (line.split(maxsplit=2) for line in (objects / "System.map").read_text().splitlines())
    return [(int(address, 16), name) for address, _, name in lines]


def instructions(objects: Path, output: str) -> dict[str, int]:
    """Of each initcall, and of each function that patches, by its name."""
    names = defaultdict(set)
    for address, name in symbols(objects):
        names[address].add(name)
    result: dict[str, int] = defaultdict(int)
    for address, argument, count in counted(output):
        for name in names[argument if "do_one_initcall" in names[address] else address]:
            result[name] += count
    return result


def kernel(objects: Path, calls: dict[str, int]) -> Cost:
    """All of it. Its tables are inside other sections."""
    whole, at = sections(objects / "vmlinux"), {name: address for address, name in symbols(objects)}
    whole.initcalls = sum(calls.get(name, 0) for name in functions_called(objects / "vmlinux"))
    for table, (_, begin, end) in PATCHING.items():
        whole.places[table] = (at[end] - at[begin]) // PLACES[table]
    return whole


def reasons(config: Path) -> dict[str, str]:
    """The options that are on, as the fragments have them, each with its reason."""
    found = {}
    for path in sorted(config.glob("*.config")):
        for line in path.read_text().splitlines():
            if option := re.match(r"(CONFIG_\w+)=(?!n\b)\S+\s*(?:#\s*(.*))?$", line):
                found[option[1]] = option[2] or ""
    return found


def costs(source: Path, objects: Path, calls: dict[str, int]) -> dict[str | None, Cost]:
    by_option: dict[str | None, Cost] = defaultdict(Cost)
    folders = [Path(), Path("arch/x86")]
    found = {path: option for folder in folders for path, option in owners(source, objects, folder).items()}
    for path, option in found.items():
        cost = sections(objects / path)
        cost.initcalls = sum(calls.get(name, 0) for name in functions_called(objects / path))
        by_option[option].add(cost)
    return by_option


HEAD = """# What each option costs

Made by [`guest-kernel/costs`](costs), whose head explains the method; of Linux {version}. Bytes are those of the object files that an
option brings, code and data. Instructions are of one start: those of its initcalls, and its part of those that patch the kernel, by
the number of its places ({places} places and {patching:.1f} million instructions in all). What an option does in objects of others is not
in its row, and neither is what it makes others do. The last row is the rest of the kernel.

| option | bytes | initcalls, thousand instructions | places | patching, thousand instructions | why |
|---|--:|--:|--:|--:|---|"""


LARGEST = """The largest initcalls, whoever brings them:

| initcall | thousand instructions |
|---|--:|"""


def main() -> int:
    source, objects, config, output = (Path(word) for word in sys.argv[1:5])
    calls = instructions(objects, output.read_text())
    if any(calls.get(name, 0) == 0 for name, *_ in PATCHING.values()):
        print("the debugger did not stop where the kernel patches itself", file=sys.stderr)
        return 1
    by_option, why, total = costs(source, objects, calls), reasons(config), kernel(objects, calls)
    patching = sum(calls[name] for name, *_ in PATCHING.values()) / 1e6
    each = {table: calls[name] / max(1, total.places[table]) for table, (name, *_) in PATCHING.items()}

    def row(name: str, cost: Cost, reason: str) -> str:
        patching = sum(count * each[table] for table, count in cost.places.items())
        return (
            f"| {name} | {cost.bytes:,} | {cost.initcalls / 1e3:,.1f} | {sum(cost.places.values())} "
            f"| {patching / 1e3:,.1f} | {reason} |"
        )

    version = (objects / "include/config/kernel.release").read_text().strip()
    print(HEAD.format(version=version, places=sum(total.places.values()), patching=patching))
    named = sorted((option for option in why if option in by_option), key=lambda option: -by_option[option].bytes)
    for option in named:
        print(row(f"`{option.removeprefix('CONFIG_')}`", by_option[option], why[option]))
    for option in named:
        total.take(by_option[option])
    print(row("all else", total, "tinyconfig, options that others select, and what the linker adds"))
    without = ", ".join(f"`{option.removeprefix('CONFIG_')}`" for option in why if option not in by_option)
    print(f"\n{fill(f'Without objects of their own, so that only a build without them tells: {without}.', 150)}")
    print(f"\n{LARGEST}")
    for name in sorted(calls.keys() & functions_called(objects / "vmlinux"), key=lambda name: -calls[name])[:12]:
        print(f"| `{name}` | {calls[name] / 1e3:,.1f} |")
    return 0


sys.exit(main())
