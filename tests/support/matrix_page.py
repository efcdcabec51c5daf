"""A page for people that shows what was expected of a box's zones, and what was seen."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

_STYLE = """
body { font: 14px/1.4 sans-serif; margin: 2em; color: #222; }
table { border-collapse: collapse; margin: 0 0 2.5em; }
th, td { border: 1px solid #bbb; padding: 3px 7px; text-align: left; vertical-align: top; }
th { background: #f3f3f3; }
td.drop { color: #999; }
td.pass { background: #e4f4e4; }
td.wrong { background: #c00; color: #fff; font-weight: bold; }
p.wrong { color: #c00; font-weight: bold; }
"""


@dataclass(frozen=True)
class Row:
    """One question: a packet of a kind, from one zone to another, expected and seen to pass."""

    box: str
    source: str
    destination: str
    probe: str
    expected: bool
    seen: bool


def page(rows: Iterable[Row]) -> str:
    """Return the page: a table for each box, a line for each pair, a column for each packet."""
    boxes: dict[str, dict[tuple[str, str], dict[str, Row]]] = {}
    for row in rows:
        pairs = boxes.setdefault(row.box, {})
        pairs.setdefault((row.source, row.destination), {})[row.probe] = row
    every = [row for pairs in boxes.values() for line in pairs.values() for row in line.values()]
    wrong = sum(row.expected != row.seen for row in every)
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f"<title>Zone matrix</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        "<h1>Zone matrix</h1>",
        "<p>Each cell is a packet that began something: whether the matrix lets it pass from the "
        "one zone to the other, and whether it was seen to come out. &ldquo;drop&rdquo; and "
        "&ldquo;pass&rdquo; were expected and seen.</p>",
        f"<p{' class=wrong' if wrong else ''}>{len(every)} packets, {wrong} not as expected.</p>",
    ]
    for box, pairs in boxes.items():
        parts.append(f"<h2>{html.escape(box)}</h2>")
        parts += _table(pairs)
    return "\n".join((*parts, "</body>\n</html>\n"))


def _table(pairs: dict[tuple[str, str], dict[str, Row]]) -> list[str]:
    probes = list(dict.fromkeys(probe for line in pairs.values() for probe in line))
    heads = "".join(f"<th>{html.escape(each)}</th>" for each in ("from", "to", *probes))
    parts = ["<table>", f"<tr>{heads}</tr>"]
    for (source, destination), line in pairs.items():
        cells = "".join(_cell(line.get(probe)) for probe in probes)
        names = "".join(f"<th>{html.escape(each)}</th>" for each in (source, destination))
        parts.append(f"<tr>{names}{cells}</tr>")
    return [*parts, "</table>"]


def _cell(row: Row | None) -> str:
    if row is None:
        return "<td></td>"
    words = {True: "pass", False: "drop"}
    if row.expected == row.seen:
        return f'<td class="{words[row.seen]}">{words[row.seen]}</td>'
    return f'<td class="wrong">expected {words[row.expected]}, seen {words[row.seen]}</td>'
