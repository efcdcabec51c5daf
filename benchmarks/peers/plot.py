"""The figures as a picture: a row for each system, a column of bars for each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from .goals import number, short

_LEFT, _TOP, _ROW, _BAR = 170, 64, 46, 14  # all lengths in the picture's own units
_COLUMN, _GAP, _VALUE = 200, 24, 52  # a column, what lies between two, and room for a number

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.paper { fill: #ffffff }
.small { font-size: 12px; fill: #59636e }
.name { text-anchor: end }
.ours { font-weight: 600 }
.axis { stroke: #59636e; stroke-width: 1 }
.bar { fill: #8c959f }
.bar.ours { fill: #0969da }
.second { opacity: 0.6 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .paper { fill: #0d1117 }
  .small { fill: #9198a1 }
  .axis { stroke: #9198a1 }
  .bar { fill: #6e7681 }
  .bar.ours { fill: #4493f8 }
}
"""


@dataclass(frozen=True)
class _Column:
    title: str
    note: str
    figures: tuple[str, ...]


_COLUMNS = (
    _Column("TCP, Mb/s", "one stream, up and down", ("up_mbps", "down_mbps")),
    _Column("datagrams a second", "64 octets, flooded", ("pps_64",)),
    _Column("CPU, s/GB", "own processes; less is better", ("cpu_s_per_gb",)),
)


def plot(results: Sequence[Mapping[str, object]]) -> str:
    """Return a bar chart of results as SVG, legible on light and on dark paper."""
    rows = {str(row["name"]): row for row in results}
    width = _LEFT + len(_COLUMNS) * (_COLUMN + _GAP)
    height = _TOP + len(rows) * _ROW + 12
    title = "TCP and small datagrams through each tunnel, and what they cost"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
    ]
    for place, name in enumerate(rows):
        middle = _TOP + place * _ROW + _ROW // 2 + 4
        kind = "name ours" if _is_ours(name) else "name"
        lines.append(f'<text class="{kind}" x="{_LEFT - 10}" y="{middle}">{escape(name)}</text>')
    for place, column in enumerate(_COLUMNS):
        lines += _draw(column, _LEFT + place * (_COLUMN + _GAP), rows)
    return "\n".join([*lines, "</svg>", ""])


def _is_ours(name: str) -> bool:
    return name.startswith("moatvpn-")


def _draw(column: _Column, left: int, rows: Mapping[str, Mapping[str, object]]) -> list[str]:
    values = [number(rows, name, figure) for name in rows for figure in column.figures]
    most = max((value for value in values if value is not None), default=0.0) or 1.0
    bottom = _TOP + len(rows) * _ROW
    lines = [
        f'<text x="{left}" y="28">{escape(column.title)}</text>',
        f'<text class="small" x="{left}" y="46">{escape(column.note)}</text>',
        f'<line class="axis" x1="{left}" y1="{_TOP}" x2="{left}" y2="{bottom}"/>',
    ]
    for place, name in enumerate(rows):
        top = _TOP + place * _ROW + (_ROW - _BAR * len(column.figures)) // 2
        for second, figure in enumerate(column.figures):
            value = number(rows, name, figure)
            y = top + second * _BAR
            if value is None:
                lines.append(f'<text class="small" x="{left + 6}" y="{y + 11}">no figure</text>')
                continue
            length = value / most * (_COLUMN - _VALUE)
            kind = " ours" * _is_ours(name) + " second" * bool(second)
            lines += [
                f'<rect class="bar{kind}" x="{left}" y="{y + 1}" width="{length:.1f}"'
                f' height="{_BAR - 2}"/>',
                f'<text class="small" x="{left + length + 6:.1f}" y="{y + 11}">'
                f"{short(value)}</text>",
            ]
    return lines
