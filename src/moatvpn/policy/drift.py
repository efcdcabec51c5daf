"""Which boxes have another policy in force than they should."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def compare(expected: Mapping[str, str], reported: Mapping[str, bytes]) -> dict[str, str]:
    """Return, for each box that is not as expected, in what it is not.

    expected is the hash of each box's signed policy by identity; a box that is not in it is to have
    none. reported is what each box's facts are (JSON, as `ansible -m setup --tree` writes it).
    """
    found = {identity: _fault(expected.get(identity, ""), data)
             for identity, data in reported.items()}  # fmt: skip
    found |= {
        identity: "has not been heard of" for identity in expected if identity not in reported
    }
    return {identity: _printable(fault) for identity, fault in sorted(found.items()) if fault}


def _fault(expected: str, data: bytes) -> str:
    state = _state(data)
    if state is None:
        return "says nothing of its policy" if expected else ""
    if state.get("faults"):
        return "; ".join(str(fault) for fault in state["faults"])
    if state.get("hash") == expected:
        return ""
    has = f"version {state.get('version')} ({state['hash']})" if state.get("hash") else "no policy"
    return f"has {has} in force, not {expected or 'none'}"


def _printable(text: str) -> str:
    """Return what a box says without what would change an operator's terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _state(data: bytes) -> dict[str, Any] | None:
    """Return what a box says of its policy, None where it says nothing."""
    try:
        state = json.loads(data)["ansible_facts"]["ansible_local"]["moat_policy"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return state if isinstance(state, dict) else None
