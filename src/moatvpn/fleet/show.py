"""What moat-fleet prints: tables for people, JSON for programs, the same facts in both."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moatvpn.fleet.base import moment_text
from moatvpn.fleet.models import PublicKey

# A pipe has no width of its own; nothing that goes into one is folded.
_PIPE_WIDTH = 1000


def print_json(value: Any) -> None:
    """Print value as JSON, its keys in order."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def print_line(text: str) -> None:
    """Print one line."""
    sys.stdout.write(text + "\n")


def print_record(values: Mapping[str, Any]) -> None:
    """Print a record, a field a line."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in values.items():
        table.add_row(Text(name, style="bold"), _cell(value))
    _print(table)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under the names of their columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    _print(table)


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(table)


def _cell(value: Any) -> Text:
    # Text, not str: what a customer is called is no markup.
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text("-" if value is None or value == "" else str(value))


def key_dict(key: PublicKey, now: datetime) -> dict[str, Any]:
    """Return what is told of a public key; valid is whether it counts at now."""
    return {
        "public_key": key.key,
        "not_before": moment_text(key.not_before),
        "not_after": moment_text(key.not_after),
        "valid": key.valid(now),
    }


def key_text(key: PublicKey) -> str:
    """Return a public key and its validity as one line."""
    end = f" until {moment_text(key.not_after)}" if key.not_after else ""
    return f"{key.key} from {moment_text(key.not_before)}{end}"
