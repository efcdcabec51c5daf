"""The words of moat-fleet's commands, out of a record's texts."""

from __future__ import annotations

from collections.abc import Mapping


def options(texts: Mapping[str, str], *left_out: str) -> list[str]:
    """Return an option for each field but those left out."""
    words = []
    for name, text in texts.items():
        if name not in left_out:
            words += [f"--{name.replace('_', '-')}", text]
    return words


def with_options(texts: Mapping[str, str], positional: str) -> list[str]:
    """Return a record's words: its positional field, then an option for each other."""
    return [texts[positional], *options(texts, positional)]
