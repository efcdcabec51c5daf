"""Plain text for people: tables, lengths of time, amounts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moatvpn.ike.failure import SIDES

_HEADINGS = (
    "NAME", "STATE", "PEER", "VIA", "KEYS BY", "UP FOR", "IN", "OUT", "LOST IN / NOW", "REKEY IN",
)  # fmt: skip


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under headings, in columns of two spaces' distance."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *rows)
    )
    return "\n".join(lines)


def duration(seconds: float | None) -> str:
    """Return a length of time in its two largest units: 5s, 3m20s, 2h05m, 9d03h."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for unit, size, lower, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{lower}"
    return f"{whole}s"


def amount(octets: int) -> str:
    """Return a number of octets with a decimal unit: 999 B, 1.2 kB, 34.5 GB."""
    value = float(octets)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def percentage(part: float | None) -> str:
    """Return a part of 1 in percent, two digits of it: 0%, 0.013%, 1.2%, 17%."""
    return "-" if part is None else f"{float(f'{part * 100:.2g}'):g}%"


def status_text(status: dict[str, Any]) -> str:
    """Return a table of the connections, then what is wrong with those that are down, and drops."""
    rows = [_connection(row) for row in status["connections"]]
    parts = [table(_HEADINGS, rows) if rows else "no connections"]
    if status.get("insecure"):
        parts.insert(0, "INSECURE: this moatd writes the keys of all traffic for Wireshark")
    failures = _failures(status)
    if failures:
        parts.append(failures)
    drops = status.get("drops")
    if drops:
        counts = [(reason, str(count)) for reason, count in drops.items()]
        parts.append(table(("DROPPED BECAUSE", "PACKETS"), counts))
    return "\n\n".join(parts)


def _failures(status: dict[str, Any]) -> str:
    """Return a line for each connection that is down and says why, and for each stranger."""
    lines = [
        f"{row['name']}: {_failure(row['last_failure'])}"
        for row in status["connections"]
        if row["state"] != "established" and row.get("last_failure")
    ]
    for record in status.get("strangers", ()):
        who = f"{record['peer']}, which calls itself {record['identity']}"
        lines.append(f"{who}: {_failure(record)}")
    return "\n".join(lines)


def _failure(record: dict[str, Any]) -> str:
    again = f", {record['count']} times" if record["count"] > 1 else ""
    where = SIDES[record["side"]]
    return f"{where} {duration(record['ago'])} ago{again}: {record['what']}. {record['remedy']}"


def detail_text(record: dict[str, Any], indent: str = "") -> str:
    """Return every field of a JSON object on a line of its own."""
    lines = []
    for key, value in record.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", detail_text(value, indent + "  ")]
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{key}: {'-' if text is None else text}")
    return "\n".join(lines)


def _connection(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        row["state"],
        row["peer"] or "-",
        row["encapsulation"] or "-",
        row.get("key_exchange") or "-",
        duration(row["established_for"]),
        f"{row['packets_in']} / {amount(row['bytes_in'])}",
        f"{row['packets_out']} / {amount(row['bytes_out'])}",
        f"{percentage(row.get('loss_in'))} / {percentage(row.get('recent_loss_in'))}",
        duration(row["child_rekey_in"]),
    )
