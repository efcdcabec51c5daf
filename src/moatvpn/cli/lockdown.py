"""moat-lockdown: loads another lockdown ruleset, or leaves the old one as it is."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from moatvpn.drivers.conntrack import forget
from moatvpn.drivers.nft import run_nft
from moatvpn.errors import OperatorError
from moatvpn.lockdown.reload import affected
from moatvpn.lockdown.ruleset import TABLE


def main(words: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(prog="moat-lockdown", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    reload = commands.add_parser("reload", help="check a file, load it, and forget connections")
    reload.add_argument("file", type=Path)
    try:
        print(_reload(parser.parse_args(words).file))
    except OperatorError as error:
        print(f"moat-lockdown: {error}", file=sys.stderr)
        return 1
    return 0


def _reload(file: Path) -> str:
    """Load a ruleset in one transaction; return in words what was forgotten."""
    _nft("-c", "-f", str(file))
    before = _listing()
    _nft("-f", str(file))
    networks = affected(before, _listing())
    number = forget(networks)
    return "Loaded; all connections forgotten" if number < 0 else f"Loaded; {number} forgotten"


def _listing() -> Any:
    """Return the table as the kernel has it, None where there is none."""
    done = run_nft("-j", "list", "table", "inet", TABLE)
    return json.loads(done.stdout) if done.returncode == 0 else None


def _nft(*words: str) -> None:
    done = run_nft(*words)
    if done.returncode != 0:
        why = f"is not loaded ({done.stderr.strip() or 'nft failed'})"
        raise OperatorError(words[-1], why, "Mend it; the ruleset before it is in force")


if __name__ == "__main__":
    sys.exit(main())
