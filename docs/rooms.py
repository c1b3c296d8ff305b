"""Draw docs/rooms.svg: the rooms of the package and what they import. Run `python docs/rooms.py`."""

import ast
import textwrap
import zlib
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "bam"
PICTURE = Path(__file__).with_suffix(".svg")

#: Label of a band -> its rooms. A room may import the rooms before it, in its own band and in earlier ones.
BANDS = {
    "The core, which needs torch alone": (
        "abort files objects tensors private kernels attention snapshot dryrun costs placement surgery"
    ),
    "Networks and data": "pixels models data recipes records",
    "Tasks and training": "explanation tasks training",
    "Reports, export and the command": "paper reports export coverage timm flags cli __main__",
}
LADDER = [room for rooms in BANDS.values() for room in rooms.split()]
CORE = next(iter(BANDS.values())).split()

CAPTION = "A line means that the lower room imports the upper one. Imports that follow from other lines are left out."
STYLE = """
text{font:14px system-ui,sans-serif}.name{font:13px ui-monospace,monospace;text-anchor:middle}
path{fill:none;stroke-width:1.6}
"""
#: Text and paper; then, for each band, its background and its lines.
LIGHT = "#1c2329 #ffffff #eaf2fb #2f6fb3 #e9f5ee #2c8257 #fbf2e0 #9a650a #f3edfa #7a4fae"
DARK = "#e8edf2 #0d1117 #142132 #78b0ee #12261d #6cc598 #2b2211 #deab4f #221a31 #bb97ea"
BOX, ROW, GAP, LABEL, CHARACTER = 30, 74, 20, 186, 7.9  # pixels: heights, the least gap, widths

Graph = dict[str, set[str]]  # room or bend -> those above it that it is joined to
Rows = list[list[str]]
Places = dict[str, float]  # room or bend -> its middle, in pixels from the left


def room_of(path: Path) -> str:
    """The room that a file of the package belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """The rooms that a file imports: at its top, inside functions, or for type checking."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"bam.{alias.name}" for alias in node.names] if node.module == "bam" else [node.module]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("bam.")} - {"__version__"}


def read_rooms() -> Graph:
    """All rooms, each with the rooms that it imports.

    Raises:
        ValueError: if a room is missing in BANDS or exists only there, or imports a room below it.
    """
    imports: Graph = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        imports.setdefault(room_of(path), set()).update(imports_of(path))
    del imports["__init__"]
    for room in sorted(imports.keys() ^ set(LADDER)):
        task = f"add {room}" if room in imports else f"there is no src/bam/{room}: remove it"
        raise ValueError(f"BANDS in docs/rooms.py does not list the rooms of the package: {task}")
    for room in LADDER:
        for other in sorted(imports[room] - set(LADDER[: LADDER.index(room) + 1])):
            raise ValueError(f"{room} imports {other}, which is not above it in BANDS of docs/rooms.py")
    return {room: imports[room] - {room} for room in LADDER}


def reduced(imports: Graph) -> Graph:
    """The imports that do not follow from others: the transitive reduction."""
    reach: Graph = {}
    for room in LADDER:
        reach[room] = imports[room].union(*(reach[other] for other in imports[room]))
    return {room: above.difference(*(reach[other] for other in above)) for room, above in imports.items()}


def layered(imports: Graph) -> tuple[Rows, Graph, list[int]]:
    """The rows of rooms and bends, the lines between adjacent rows, and the first row of each band.

    A line that passes a row has a bend there, so that it keeps clear of the boxes. All lines from a room share bends.
    """
    level: dict[str, int] = {}
    starts = [0]
    for rooms in BANDS.values():
        for room in rooms.split():
            level[room] = max([starts[-1], *(level[other] + 1 for other in imports[room])])
        starts.append(max(level.values()) + 1)
    lines: Graph = {}
    for room in LADDER:
        lines.setdefault(room, set())
        for other in sorted(imports[room]):
            chain = [other, *(f"{other}|{row}" for row in range(level[other] + 1, level[room])), room]
            for upper, lower in pairwise(chain):
                lines.setdefault(lower, set()).add(upper)
    rows: Rows = [[] for _ in range(starts[-1])]
    for name in lines:
        rows[int(name.partition("|")[2] or level[name])].append(name)
    return rows, lines, starts


def crossings(rows: Rows, lines: Graph) -> int:
    """How many pairs of lines cross."""
    total = 0
    for upper, lower in pairwise(rows):
        at = {name: k for k, name in enumerate(upper)}
        ends = [end for name in lower for end in sorted(at[above] for above in lines[name])]
        total += sum(left > right for left, right in combinations(ends, 2))
    return total


def untangled(rows: Rows, lines: Graph, start: int) -> Rows:
    """The rows in an order with few crossings, from one of many starts: each box and bend moves to its best place."""
    rows = [sorted(row, key=lambda name: zlib.crc32(f"{start} {name}".encode())) for row in rows]
    best, patience = list(rows), 3  # moves that change nothing may allow others that help
    while patience:
        for k, name in [(k, name) for k, row in enumerate(rows) for name in row]:
            above, below = rows[max(k - 1, 0) : k], rows[k + 1 : k + 2]
            rest = [other for other in rows[k] if other != name]
            trials = ([*rest[:j], name, *rest[j:]] for j in range(len(rest) + 1))
            rows[k] = min(trials, key=lambda row: crossings([*above, row, *below], lines))
        better = crossings(rows, lines) < crossings(best, lines)
        best, patience = (list(rows), 3) if better else (best, patience - 1)
    return best


def placed(rows: Rows, lines: Graph) -> Places:
    """Everything near what it is joined to, without overlap: each row in turn by weighted least squares.

    Neighbours that would overlap move as one block. Bends weigh more than rooms, so that long lines become straight.
    """
    below = {name: [other for other in lines if name in lines[other]] for name in lines}
    joined = {name: sorted([*lines[name], *below[name]]) or [name] for name in lines}
    places = {name: 100.0 * k for row in rows for k, name in enumerate(row)}
    for row in [*rows, *reversed(rows)] * 60:
        offsets = [0.0]
        for name, following in pairwise(row):
            offsets.append(offsets[-1] + (width(name) + width(following)) / 2 + GAP)
        blocks: list[tuple[float, int, list[int]]] = []  # mean shift, weight, positions in the row
        for k, name in enumerate(row):
            weights = [200 if "|" in name and "|" in other else 1 for other in joined[name]]
            wanted = sum(w * places[other] for w, other in zip(weights, joined[name], strict=True))
            block = (wanted / sum(weights) - offsets[k], sum(weights), [k])
            while blocks and blocks[-1][0] > block[0]:
                shift, weight, members = blocks.pop()
                total = weight + block[1]
                block = ((shift * weight + block[0] * block[1]) / total, total, members + block[2])
            blocks.append(block)
        places |= {row[k]: shift + offsets[k] for shift, _, members in blocks for k in members}
    left = min(places[name] - width(name) / 2 for name in places)
    return {name: round(place - left + LABEL) for name, place in places.items()}


def text_of(room: str) -> str:
    """The text in a room's box: "kernels/" or "files.py"."""
    return f"{room}/" if (PACKAGE / room).is_dir() else f"{room}.py"


def width(name: str) -> int:
    """The width of a room's box; 0 for a bend."""
    return 0 if "|" in name else round(CHARACTER * len(text_of(name))) + 24


def picture() -> str:
    """The SVG: of many orders, one with the fewest crossings, and of these one with the shortest lines."""

    def sideways(places: Places) -> float:
        return sum(abs(places[name] - places[other]) for name, above in lines.items() for other in above)

    rows, lines, starts = layered(reduced(read_rooms()))
    orders = [untangled(rows, lines, start) for start in range(60)]
    fewest = min(crossings(order, lines) for order in orders)
    drawings = [(order, placed(order, lines)) for order in orders if crossings(order, lines) == fewest]
    rows, places = min(drawings, key=lambda drawing: sideways(drawing[1]))
    right = round(max(places[name] + width(name) / 2 for name in places)) + GAP
    bottom = ROW * len(rows) + 24
    shapes = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right} {bottom}">',
        "<title>The rooms of the package and what they import</title>",
        f"<style>{STYLE}{colors(*LIGHT.split())}@media(prefers-color-scheme:dark){{\n{colors(*DARK.split())}}}</style>",
        f'<rect class="paper" width="{right}" height="{bottom}"/>',
        f'<text class="ink" x="16" y="{bottom - 9}">{CAPTION}</text>',
    ]
    for band, (label, (first, end)) in enumerate(zip(BANDS, pairwise(starts), strict=True)):
        size = f'width="{right}" height="{ROW * (end - first) - 8}"'
        shapes.append(f'<rect class="band{band}" y="{ROW * first}" {size} rx="8"/>')
        for k, line in enumerate(textwrap.wrap(label, 18)):
            shapes.append(f'<text class="label{band}" x="16" y="{ROW * first + 38 + 19 * k}">{line}</text>')
    names = [(name, ROW * row + 18) for row, names in enumerate(rows) for name in names]
    shapes += [shape for name, y in names for shape in lines_to(name, y, lines[name], places)]
    shapes += [shape for name, y in names if "|" not in name for shape in box_of(name, places[name], y)]
    return "\n".join([*shapes, "</svg>", ""])


def lines_to(name: str, y: int, above: set[str], places: Places) -> Iterator[str]:
    """The lines that end at a room or bend, side by side; a bend's goes on to the next row."""
    step = min(14, (width(name) - 16) / len(above)) if above and "|" not in name else 0
    for k, other in enumerate(sorted(above, key=places.__getitem__)):
        start, end = places[other], places[name] + (k - (len(above) - 1) / 2) * step
        top, middle = y - ROW + BOX, y - (ROW - BOX) // 2
        curve = f"M{start} {top}C{start} {middle} {end:g} {middle} {end:g} {y}"
        band = band_of(other.partition("|")[0])
        yield f'<path class="line{band}" d="{curve}{f"v{BOX}" if "|" in name else ""}"/>'


def box_of(room: str, x: float, y: int) -> Iterator[str]:
    """The box of a room and the text in it."""
    size = f'width="{width(room)}" height="{BOX}"'
    yield f'<rect class="room{band_of(room)}" x="{x - width(room) / 2:g}" y="{y}" {size} rx="6"/>'
    yield f'<text class="ink name" x="{x}" y="{y + 20}">{text_of(room)}</text>'


def band_of(room: str) -> int:
    """The number of a room's band."""
    return next(band for band, rooms in enumerate(BANDS.values()) if room in rooms.split())


def colors(ink: str, paper: str, *bands: str) -> str:
    """The rules of the style sheet that differ between light and dark mode."""
    rules = [f".ink{{fill:{ink}}}.paper{{fill:{paper}}}"]
    for k, (fill, line) in enumerate(zip(bands[::2], bands[1::2], strict=True)):
        rules.append(f".band{k}{{fill:{fill}}}.label{k}{{fill:{line};font-weight:600}}")
        rules.append(f".line{k}{{stroke:{line}}}.room{k}{{fill:{paper};stroke:{line}}}")
    return "\n".join([*rules, ""])


if __name__ == "__main__":
    try:
        PICTURE.write_text(picture())
    except ValueError as error:
        raise SystemExit(str(error)) from None
