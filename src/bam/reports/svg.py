"""Charts as SVG text: scales, axes, marks, legends.

Colours follow Okabe and Ito, whose palette colour-blind readers can tell apart; they are darker on light pages and
lighter on dark ones. Marks also differ in shape. Marks carry their numbers in a `<title>`, which browsers show when the
pointer rests on them; the page's script shows it at once.
"""

import contextlib
import html
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

WIDTH = 440  #: of every chart, in SVG pixels: text stays readable on a narrow phone
FONT = 13  #: font size in pixels
_LETTER = 0.6 * FONT  #: mean width of a letter in pixels
_LIGHT = ("#4d5862", "#0072b2", "#c44e00", "#00805c", "#b0518c", "#9a6a00", "#1b8fc4", "#6a51a3")
_DARK = ("#b4bfc9", "#5cb3ee", "#ff8f4d", "#2fc79a", "#e79ac6", "#e6b545", "#8fd3ff", "#b9a5f0")
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _rules(colours: Sequence[str], ink: str, faint: str, surface: str) -> str:
    rules = [f".chart .v{number}{{color:{colour}}}" for number, colour in enumerate(colours)]
    rules += [f".chart text,.chart .ink{{fill:{ink}}}", f".chart .grid{{stroke:{faint}}}"]
    rules += [f".chart .halo{{stroke:{surface}}}", f".chart .zero{{stroke:{ink}}}"]
    rules += [f".chart .surface{{fill:{surface}}}", f".chart .hollow{{fill:{surface}}}"]
    return "".join(rules)


#: Style sheet of all charts, for the page and for standalone files.
STYLE = (
    f".chart{{font:{FONT}px system-ui,-apple-system,'Segoe UI',sans-serif}}"
    ".chart .line{fill:none;stroke:currentColor;stroke-width:2.2;stroke-linejoin:round}"
    ".chart .thin{fill:none;stroke:currentColor;stroke-width:1;opacity:.4}"
    ".chart .dot{fill:currentColor}.chart .faint{opacity:.5}.chart .hollow{stroke:currentColor;stroke-width:1.8}"
    ".chart .grid{stroke-width:1;fill:none}.chart .zero{stroke-width:1;stroke-dasharray:4 3;opacity:.7}"
    ".chart .hit{fill:#888;fill-opacity:0}.chart .end{text-anchor:end}.chart .middle{text-anchor:middle}"
    ".chart .small{font-size:12px}.chart .halo{stroke-width:4;paint-order:stroke;stroke-linejoin:round}"
    + _rules(_LIGHT, "#1c2329", "#dde2e6", "#ffffff")
    + "@media (prefers-color-scheme:dark){"
    + _rules(_DARK, "#e4e9ed", "#3a444d", "#14191e")
    + "}"
)


def escaped(text: object) -> str:
    """Text escaped for XML and HTML, also in attributes; characters that XML forbids are dropped."""
    return html.escape(_NOT_XML.sub("", str(text)))


def clipped(text: str, width: float) -> str:
    """`text`, shortened in the middle if it is wider than `width` pixels."""
    letters = max(8, int(width / _LETTER))
    if len(text) <= letters:
        return text
    return f"{text[: letters // 2]}…{text[len(text) - (letters - 1) // 2 :]}"


def text_width(text: str) -> float:
    """The approximate width of `text` in pixels."""
    return len(text) * _LETTER


@dataclass(frozen=True)
class Ticks:
    """Round values along an axis, and the number of decimals they need."""

    values: tuple[float, ...]
    decimals: int

    def label(self, value: float) -> str:
        """A value as text."""
        return f"{value:,.{self.decimals}f}"


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> Ticks:
    """About `count` round values from `low` to `high`; only whole numbers if `whole`."""
    rough = (high - low) / max(count, 1)
    if not rough > 0:
        return Ticks((low,), 0 if whole else 2)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, step)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Ticks(tuple(round(number * step, decimals) + 0.0 for number in range(first, last + 1)), decimals)


def spread(values: Iterable[float], margin: float = 0.06) -> tuple[float, float]:
    """The range of `values` plus a margin; never empty."""
    known = list(values) or [0.0]
    low, high = min(known), max(known)
    padding = (high - low) * margin or max(abs(high) * 0.05, 0.05)
    return low - padding, high + padding


@dataclass
class Chart:
    """A chart being drawn: its SVG parts, plot area and scales."""

    alt: str
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = 48
    top: float = 8
    bottom: float = 42
    right: float = 12
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (WIDTH - self.left - self.right)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def x_axis(self, at: Ticks, label: str) -> None:
        """Grid lines, numbers and a label along the bottom."""
        base = self.height - self.bottom
        for value in at.values:
            x = f"{self.x(value):.1f}"
            self.parts.append(f'<path class="grid" d="M{x} {self.top:.1f}V{base:.1f}"/>')
            self.parts.append(f'<text class="small middle" x="{x}" y="{base + 16:.1f}">{at.label(value)}</text>')
        middle = (self.left + WIDTH - self.right) / 2
        middle = min(max(middle, text_width(label) / 2 + 4), WIDTH - text_width(label) / 2 - 4)
        self.text(middle, base + 34, label, "middle")

    def y_axis(self, at: Ticks) -> None:
        """Grid lines and numbers along the left."""
        for value in at.values:
            y = self.y(value)
            self.parts.append(f'<path class="grid" d="M{self.left:.1f} {y:.1f}H{WIDTH - self.right:.1f}"/>')
            place = f'x="{self.left - 6:.1f}" y="{y + 4:.1f}"'
            self.parts.append(f'<text class="small end" {place}>{at.label(value)}</text>')

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        """A line of text, shortened to the width of the chart."""
        self.parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escaped(clipped(text, WIDTH - 8))}</text>')

    def path(self, points: Sequence[tuple[float, float | None]], kind: str, dash: str = "") -> None:
        """A line through points in data units, with gaps where y is None."""
        commands, pen = [], "M"
        for x, y in points:
            if y is None:
                pen = "M"
                continue
            commands.append(f"{pen}{self.x(x):.1f} {self.y(y):.1f}")
            pen = "L"
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<path class="{kind}"{dashes} d="{"".join(commands)}"/>')

    def add(self, part: str, tooltip: str = "") -> None:
        """Any SVG element, with an optional tooltip."""
        self.parts.append(f"<g>{part}<title>{escaped(tooltip)}</title></g>" if tooltip else part)

    @contextlib.contextmanager
    def variant(self, number: int) -> Iterator[None]:
        """Parts added in this context belong to variant `number`: they get its colour; the legend can hide them."""
        self.parts.append(f'<g class="{colour(number)}" data-variant="{number}">')
        yield
        self.parts.append("</g>")

    def legend(self, names: Sequence[str], numbers: Sequence[int] | None = None) -> None:
        """Marks and names below the chart, in as many rows as needed."""
        x, y = 6.0, self.height + 10
        for number, name in zip(numbers or range(len(names)), names, strict=True):
            shown = clipped(name, WIDTH - 40)
            wide = 22 + text_width(shown) + 14
            if x > 6 and x + wide > WIDTH:
                x, y = 6.0, y + 21
            rectangle = f'<rect class="hit" x="{x - 4:.1f}" y="{y - 10:.1f}" width="{wide:.1f}" height="20"/>'
            mark = marker(number, x + 7, y)
            label = f'<text x="{x + 20:.1f}" y="{y + 4.5:.1f}">{escaped(shown)}</text>'
            title = f"<title>{escaped(name)}</title>" if shown != name else ""
            key = f'class="key {colour(number)}" data-key="{number}"'
            self.parts.append(f"<g {key}>{rectangle}{mark}{label}{title}</g>")
            x += wide
        self.height = y + 16

    def svg(self) -> str:
        """The finished chart as an SVG element."""
        size = f'viewBox="0 0 {WIDTH} {self.height:.0f}" width="{WIDTH}" height="{self.height:.0f}"'
        return f'<svg class="chart" {size} role="img" aria-label="{escaped(self.alt)}">{"".join(self.parts)}</svg>'


def standalone(svg: str) -> str:
    """A chart as a standalone SVG file, with its style sheet and a background."""
    head, _, rest = svg.partition(">")
    namespace = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    background = '<rect class="surface" width="100%" height="100%"/>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{namespace}><style>{STYLE}</style>{background}{rest}\n'


def colour(number: int) -> str:
    """The CSS class of variant `number`'s colour; 0 is the baseline."""
    return f"v{number % len(_LIGHT)}"


def dash(number: int) -> str:
    """The dash pattern of variant `number`'s line; it changes each time the colours repeat."""
    return _DASHES[number // len(_LIGHT) % len(_DASHES)]


def marker(number: int, x: float, y: float, kind: str = "dot", size: float = 5) -> str:
    """Variant `number`'s mark: shapes differ like colours."""
    a = size
    if number % 5 == 0:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{a:g}"/>'
    shapes = (
        f"M{-a:g} {-a:g}H{a:g}V{a:g}H{-a:g}Z",
        f"M0 {-1.2 * a:g}L{1.2 * a:g} {a:g}H{-1.2 * a:g}Z",
        f"M0 {-1.3 * a:g}L{1.3 * a:g} 0L0 {1.3 * a:g}L{-1.3 * a:g} 0Z",
        f"M0 {1.2 * a:g}L{1.2 * a:g} {-a:g}H{-1.2 * a:g}Z",
    )
    return f'<path class="{kind}" transform="translate({x:.1f} {y:.1f})" d="{shapes[number % 5 - 1]}"/>'
