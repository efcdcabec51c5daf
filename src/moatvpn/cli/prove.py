"""moatctl prove: shows by traffic that a box's tunnels stand on a certain key."""

from __future__ import annotations

import argparse
import subprocess
import time
from typing import Any

from moatvpn.cli.client import ask
from moatvpn.errors import OperatorError

_PAUSE = 0.2  # seconds between two looks
_WAYS = ("packets_in", "packets_out")


def prove(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Carry `moatctl prove` out: every connection that is up has the key, and carries packets.

    Pings the address meanwhile, for packets both ways. Raises OperatorError where that has not
    been seen within arguments.wait seconds, with what was seen instead.
    """
    side = "local" if arguments.local_key is not None else "remote"
    wanted = arguments.local_key if side == "local" else arguments.remote_key
    end = time.monotonic() + arguments.wait
    while True:
        rows = _established(arguments)
        others = [row["name"] for row in rows if row[f"{side}_key"] != wanted]
        if rows and not others:
            counted = {row["name"]: [row[way] for way in _WAYS] for row in rows}
            _ping(arguments.ping)
            carried = [
                row["name"]
                for row in _established(arguments)
                if row[f"{side}_key"] == wanted and row["name"] in counted
                if all(row[way] > was for way, was in zip(_WAYS, counted[row["name"]], strict=True))
            ]
            if carried:
                names = sorted(counted)
                return {"changed": False, "proved": names}, f"proved: {', '.join(names)}"
        if time.monotonic() >= end:
            raise OperatorError(
                f"{side} key {wanted}",
                f"{_unproved(rows, others, arguments.ping)} (waited {arguments.wait:g} s)",
                "See `moatctl status`, and that the peer trusts the key",
            )
        time.sleep(_PAUSE)


def _established(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = ask(arguments.socket, {"command": "status"})["connections"]
    return [row for row in rows if row["state"] == "established"]


def _unproved(rows: list[dict[str, Any]], others: list[str], address: str) -> str:
    if not rows:
        return "is not proved: no connection is up"
    if others:
        return f"is not proved: {', '.join(others[:5])} stands on another"
    return f"is not proved: no packets both ways, while {address} was pinged"


def _ping(address: str) -> None:
    command = ["ping", "-n", "-q", "-c1", "-W1", address]
    try:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    except FileNotFoundError as error:
        remedy = "Install the package iputils-ping"
        raise OperatorError("ping", "is not installed", remedy) from error
