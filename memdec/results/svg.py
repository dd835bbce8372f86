"""Draw small charts as SVG text: axes, lines, dots and bars of uncertainty; same input, same bytes.

Colours come from figure.css by class, so that one drawing serves light and dark pages.
"""

import math
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files

WIDTH, HEIGHT = 560, 340
CHARACTER = 8.0
"""Mean width of a letter of 14 px."""
LINE = 15.0
"""From one line of a name to its next."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 44, 48
Point = tuple[float, float]
NUM_STYLES = 10
"""Classes s1 to s10 of figure.css; s0 is the base's grey."""

METHOD_STYLES = {
    "base": "s0",
    "memory_decoder": "s1",
    "knn_lm": "s2",
    "dapt": "s3",
    "lora": "s4",
    "in_context_rag": "s5",
    "dapt_memory": "s6",
    "adaptive_alpha": "s7",
}


def style_of(method: str) -> str:
    """Return the class that gives a method its one colour and shape in every figure."""
    return METHOD_STYLES.get(method, "s8")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Range of one direction, linear or logarithmic."""

    low: float
    high: float
    label: str
    log: bool = False

    @classmethod
    def around(cls, values: list[float], label: str, log: bool = False) -> "Axis":
        """Return an axis with some room around `values`."""
        low, high = min(values), max(values)
        if log and low > 0:
            room = (high / low) ** 0.08 if high > low else 1.5
            return cls(low=low / room, high=high * room, label=label, log=True)
        room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
        return cls(low=low - room, high=high + room, label=label)

    def share(self, value: float) -> float:
        """Return where `value` lies between the ends, 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return about five round values inside the range."""
        if self.log and (ratio := self.high / self.low) > 4:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            digits = (1,) if ratio > 1e3 else (1, 2, 5) if ratio > 8 else (1, 2, 3, 4, 5, 7)
            found = [digit * 10.0**power for power in powers for digit in digits]
        else:
            step = _round_step((self.high - self.low) / 5)
            first = math.ceil(self.low / step)
            found = [round(index * step, 10) for index in range(first, first + 12)]
        return [tick for tick in found if self.low <= tick <= self.high]


@dataclass
class Chart:
    """One chart under construction; `svg()` returns it."""

    title: str
    x: Axis
    y: Axis
    left: float = _LEFT
    height: int = HEIGHT
    names: list[list[str]] = field(default_factory=list)
    """Names of horizontal rows, line by line, in place of ticks on the left."""
    parts: list[str] = field(default_factory=list)
    legend: list[tuple[str, str, str]] = field(default_factory=list)
    """Style, kind (dot, line, dash) and text."""

    def at(self, point: Point) -> tuple[str, str]:
        """Return the place of a data point on the canvas."""
        x = self.left + self.x.share(point[0]) * (WIDTH - self.left - _RIGHT)
        y = self.height - _BOTTOM - self.y.share(point[1]) * (self.height - _TOP - _BOTTOM)
        return f"{x:.1f}", f"{y:.1f}"

    def line(self, points: list[Point], style: str, kind: str = "line") -> None:
        """Draw a line through `points`; kind `dash` for a dashed one."""
        path = " ".join(",".join(self.at(point)) for point in points)
        self.parts.append(f'<polyline class="{style} {kind}" points="{path}"/>')

    def dot(self, point: Point, style: str, words: str) -> None:
        """Draw the mark of `style` at `point`; `words` appear when it is pointed at."""
        x, y = self.at(point)
        title = f"<title>{escape(words)}</title>" if words else ""
        self.parts.append(
            f'<g class="{style} dot" transform="translate({x} {y})">{title}{_mark(style)}</g>'
        )

    def span(self, low: Point, high: Point, style: str) -> None:
        """Draw a bar of uncertainty."""
        (x1, y1), (x2, y2) = self.at(low), self.at(high)
        self.parts.append(f'<line class="{style} span" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')

    def text(self, point: Point, words: str, anchor: str = "start", rise: float = 0) -> None:
        """Write `words` at `point`, `rise` pixels above it."""
        x, y = self.at(point)
        self.parts.append(
            f'<text class="value" x="{x}" y="{float(y) - rise:.1f}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def svg(self) -> str:
        """Return the drawing, without styles of its own."""
        legend, top = self._legend()
        height = self.height - top
        paper = f'<rect class="paper" y="{top}" width="{WIDTH}" height="{height}"/>'
        return (
            f'<svg class="fig" xmlns="http://www.w3.org/2000/svg" '
            f'viewBox="0 {top} {WIDTH} {height}" role="img" aria-label="{escape(self.title)}">\n'
            + "\n".join([paper, *self._frame(), *legend, *self.parts])
            + "\n</svg>\n"
        )

    def _frame(self) -> list[str]:
        bottom, right = self.height - _BOTTOM, WIDTH - _RIGHT
        parts = []
        for tick in self.x.ticks():
            x = self.at((tick, self.y.low))[0]
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}"/>')
            parts.append(
                f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{short(tick)}</text>'
            )
        rows = [(tick, [short(tick)]) for tick in self.y.ticks()]
        for value, lines in list(enumerate(self.names)) if self.names else rows:
            y = self.at((self.x.low, value))[1]
            parts.append(f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y}" y2="{y}"/>')
            first = float(y) + 4 - LINE * (len(lines) - 1) / 2
            parts += [
                f'<text x="{self.left - 8}" y="{first + LINE * i:.1f}" text-anchor="end">'
                f"{escape(words)}</text>"
                for i, words in enumerate(lines)
            ]
        middle = (self.left + right) / 2
        parts.append(
            f'<text class="axis" x="{middle:.1f}" y="{self.height - 10}" text-anchor="middle">'
            f"{escape(self.x.label)}</text>"
        )
        height = (_TOP + bottom) / 2
        if not self.names:
            parts.append(
                f'<text class="axis" transform="translate(14 {height:.1f}) rotate(-90)" '
                f'text-anchor="middle">{escape(self.y.label)}</text>'
            )
        return parts

    def _legend(self) -> tuple[list[str], int]:
        """Return the legend, and where the canvas begins: two rows fit above the axes."""
        places, row, x = [], 0, 14.0
        for _, kind, words in self.legend:
            mark = 20 if kind == "dot" else 26
            width = mark + len(words) * CHARACTER
            if x > 14 and x + width > WIDTH:
                row, x = row + 1, 14.0
            places.append((x, row, x + mark))
            x += width + 16
        top = min(0, 20 * (1 - row))
        first = top + 20 - 9 * min(row, 1)  # several rows are drawn closer to the edge
        parts = []
        for (style, kind, words), (x, row, text_x) in zip(self.legend, places, strict=True):
            y = first + 20 * row
            mark_of = (
                f'<g class="{style} dot" transform="translate({x + 7:.1f} {y})">{_mark(style)}</g>'
                if kind == "dot"
                else f'<path class="{style} {kind}" d="M{x:.1f} {y}h20"/>'
            )
            parts.append(f'{mark_of}<text x="{text_x:.1f}" y="{y + 4}">{escape(words)}</text>')
        return parts, top


def side_by_side(svgs: list[str], title: str) -> str:
    """Return drawings of `Chart.svg` as one, two a row, their lower edges level."""
    parts, top = [], 0
    for first in range(0, len(svgs), 2):
        pair = svgs[first : first + 2]
        heights = [int(svg.split('viewBox="')[1].split('"')[0].split()[3]) for svg in pair]
        for place, (svg, height) in enumerate(zip(pair, heights, strict=True)):
            y = top + max(heights) - height
            box = f'x="{place * WIDTH}" y="{y}" width="{WIDTH}" height="{height}"'
            parts.append(svg.replace("<svg ", f"<svg {box} ", 1))
        top += max(heights)
    return (
        f'<svg class="fig" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {top}" '
        f'role="img" aria-label="{escape(title)}">\n'
        f'<rect class="paper" width="{2 * WIDTH}" height="{top}"/>\n{"".join(parts)}</svg>\n'
    )


def standalone(svg: str, remark: str) -> str:
    """Return a drawing that carries its styles, for a file of its own that opens with `remark`."""
    css = files("memdec.results").joinpath("templates/figure.css").read_text(encoding="utf-8")
    head, rest = svg.split("\n", 1)
    return f"<!-- {remark} -->\n{head}\n<style>\n{css}</style>\n{rest}"


def short(value: float) -> str:
    """Print a tick: 0.4, 16, 1.5k, 135M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (10 if unit == "k" else 1):
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * 0.999)


def _mark(style: str) -> str:
    """Return the shape of a style, so that colour is never the only difference."""
    shapes = {
        "s0": '<rect x="-5" y="-5" width="10" height="10"/>',
        "s2": '<path d="M0-6.5 6 5H-6z"/>',
        "s3": '<path d="M0-7 6.5 0 0 7-6.5 0z"/>',
        "s4": '<path d="M-6-4H6L0 7z"/>',
        "s5": '<rect x="-6" y="-3.5" width="12" height="7" rx="3.5"/>',
        "s6": '<path d="M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z"/>',
        "s7": '<path d="M0-6 6-1 4 6H-4L-6-1z"/>',
        "s8": '<rect x="-3" y="-6" width="6" height="12"/>',
        "s9": '<path d="M-7 0 5-6V6z"/>',
        "s10": '<path d="M7 0-5 6V-6z"/>',
    }
    return shapes.get(style, '<circle r="6"/>')
