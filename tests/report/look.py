"""look.py PAGE REPORT PICTURE: whether the charts of a report's page are there and say what REPORT, its JSON, says."""

import json
import sys
from pathlib import Path

from browser import Browser

# Where each shape is and what it is called, in pixels of the screen.
CHARTS = """(() => {
    const box = element => { const {x, y, width, height} = element.getBoundingClientRect(); return {x, y, width, height}; };
    const shape = element => ({
        ...box(element), kind: element.tagName, title: element.querySelector('title')?.textContent ?? '',
        text: element.tagName === 'text' ? element.textContent : '',
        color: getComputedStyle(element)[element.tagName === 'path' ? 'stroke' : 'fill'],
    });
    const chart = svg => ({...box(svg), label: svg.getAttribute('aria-label'),
        shapes: [...svg.querySelectorAll('rect, circle, path, text')].map(shape)});
    return [...document.querySelectorAll('section')].map(section => ({
        id: section.id, text: section.innerText, charts: [...section.querySelectorAll('svg')].map(chart)}));
})()"""

# Half of the stroke of a bar, and what rounding to a tenth of a unit makes.
PIXELS = 1.5


class Wrong(Exception):
    """What a reader would not see, or would see wrongly."""


def duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 0.001 else f"{seconds * 1e6:.0f} µs"


def count(value: float) -> str:
    return f"{value:,.0f}"


def of_kind(chart: dict, kind: str) -> list[dict]:
    return [shape for shape in chart["shapes"] if shape["kind"] == kind]


def same(what: str, wanted: object, got: object) -> None:
    if wanted != got:
        raise Wrong(f"{what}: wanted {wanted}, the page has {got}")


def is_seen(chart: dict) -> None:
    """It has a size, and all in it has one and lies in it."""
    if chart["width"] < 200 or chart["height"] < 20:
        raise Wrong(f"{chart['label']} is {chart['width']:.0f} x {chart['height']:.0f} pixels")
    for shape in chart["shapes"]:
        name = f"{chart['label']}: {shape['kind']} {shape['title'] or shape['text']}"
        if shape["width"] <= 0 or shape["height"] <= 0:
            raise Wrong(f"{name} has no size")
        if shape["color"] in ("none", "rgba(0, 0, 0, 0)"):
            raise Wrong(f"{name} has no colour")
        left, right = shape["x"] - chart["x"], shape["x"] + shape["width"] - chart["x"]
        top, bottom = shape["y"] - chart["y"], shape["y"] + shape["height"] - chart["y"]
        if min(left, top) < -PIXELS or right > chart["width"] + PIXELS or bottom > chart["height"] + PIXELS:
            raise Wrong(f"{name} is cut off: {left:.0f} to {right:.0f} of {chart['width']:.0f}, {top:.0f} to {bottom:.0f}")


def are_proportional(what: str, bars: list[dict], values: list[float]) -> None:
    """The widths of bars are to each other as values are."""
    longest = max(range(len(values)), key=lambda at: values[at])
    scale = bars[longest]["width"] / values[longest] if values[longest] else 0
    for bar, value in zip(bars, values, strict=True):
        if abs(bar["width"] - value * scale) > PIXELS:
            raise Wrong(f"{what}: the bar {bar['title']!r} is {bar['width']:.1f} wide, not {value * scale:.1f}")


def times(chart: dict, sides: list[dict]) -> None:
    bars, dots = of_kind(chart, "rect"), of_kind(chart, "circle")
    same("bars of times", [duration(side["time"]["median"]) for side in sides], [bar["title"] for bar in bars])
    are_proportional("times", bars, [side["time"]["median"] for side in sides])
    same("dots of runs", sum(len(side["seconds"]) for side in sides), len(dots))
    middles = [dot["x"] + dot["width"] / 2 for dot in dots]
    for side, bar in zip(sides, bars, strict=True):
        mine, middles = middles[: len(side["seconds"])], middles[len(side["seconds"]) :]
        for seconds, middle in zip(side["seconds"], mine, strict=True):
            wanted = bar["x"] + bar["width"] * seconds / side["time"]["median"]
            if abs(middle - wanted) > PIXELS:
                raise Wrong(f"a run of {duration(seconds)} is at {middle:.1f}, not at {wanted:.1f}")


def phases(chart: dict, side: dict) -> None:
    bars = of_kind(chart, "rect")
    medians = [phase["time"]["median"] for phase in side["phases"]]
    named = [f"{phase['name']}: {duration(phase['time']['median'])}" for phase in side["phases"]]
    same("parts of phases", named, [bar["title"] for bar in bars])
    are_proportional("phases", bars, medians)
    gaps = [after["x"] - (before["x"] + before["width"]) for before, after in zip(bars, bars[1:])]
    if any(abs(gap) > PIXELS for gap in gaps):
        raise Wrong(f"there are gaps between phases: {gaps}")


def distribution(chart: dict, sides: list[dict]) -> None:
    lines = of_kind(chart, "path")
    same("lines", [side["name"] for side in sides], [line["title"] for line in lines])
    for line, side in zip(lines, sides, strict=True):
        if line["height"] < chart["height"] / 2:
            raise Wrong(f"the line of {side['name']} does not go from none to all of the runs")


def counts(chart: dict, sides: list[dict]) -> None:
    bars = of_kind(chart, "rect")
    figures = sorted({figure for side in sides for figure in side["figures"]})
    for figure in figures:
        values = [side["figures"][figure]["median"] for side in sides if figure in side["figures"]]
        mine, bars = bars[: len(values)], bars[len(values) :]
        same(f"bars of {figure}", [count(value) for value in values], [bar["title"] for bar in mine])
        are_proportional(figure, mine, values)
    same("further bars of counts", [], bars)
    if not any(figure.startswith("VM exits: ") for figure in figures):
        raise Wrong("no exits were counted, so that their chart was not seen")


def check(browser: Browser, report: dict) -> None:
    sections = {section["id"]: section for section in browser.evaluate(CHARTS)}
    for section in sections.values():
        for chart in section["charts"]:
            is_seen(chart)
    timed = [side for side in report["sides"] if side["time"]]
    if len(timed) < 2 or not report["comparisons"]:
        raise Wrong("nothing is compared in this report, so that it was not seen")
    times(*sections["times"]["charts"], timed)
    phases(*sections["phases"]["charts"], next(side for side in timed if side["phases"]))
    distribution(*sections["distribution"]["charts"], timed)
    counts(*sections["counts"]["charts"], timed)
    for comparison in report["comparisons"]:
        said = f"{comparison['of']} takes {comparison['ratio']['value']:.2f} times as long as {comparison['against']}"
        if said not in sections["times"]["text"]:
            raise Wrong(f"the page does not say: {said}")
    for side in report["sides"]:
        if side["failure"] and side["failure"].split("\n")[0] not in browser.evaluate("document.body.innerText"):
            raise Wrong(f"the page does not say why {side['name']} was left out")
    if browser.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
        raise Wrong("the page is wider than the window")


def main() -> int:
    page, report, picture = (Path(word) for word in sys.argv[1:4])
    for width, scheme in ((1280, "light"), (1280, "dark"), (500, "light")):
        try:
            with Browser() as browser:
                browser.open(page, width, scheme)
                browser.picture(picture.with_name(f"{picture.stem}-{width}-{scheme}.png"))
                check(browser, json.loads(report.read_text()))
                if browser.complaints:
                    raise Wrong(f"the console has: {browser.complaints}")
        except (Wrong, RuntimeError) as why:
            print(f"FAILED: {width} pixels, {scheme}: {why}")
            return 1
        print(f"{width} pixels, {scheme}: the charts are there and right")
    return 0


sys.exit(main())
