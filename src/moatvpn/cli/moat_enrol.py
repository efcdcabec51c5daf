"""moat-enrol: a moat claims its record by a one-time token, and asks for its own settings."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from moatvpn.cli.enrol_box import Box, Outcome, claim, pull
from moatvpn.cli.policy_files import read_text
from moatvpn.enrol.reasons import EnrolError, Reason
from moatvpn.errors import OperatorError

REFUSED = 1
USAGE = 2  # argparse's own

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_REMEDIES = {
    Reason.USED: "Another box has used this token: tell the operator now",
    Reason.EXPIRED: "Ask the operator for a new claim",
    Reason.COPIED: "This box's disk is a copy: remove identity.key, and claim again",
    Reason.UNKNOWN: "See that the token is right and the customer served; ask the operator",
    Reason.SERVER: "Whoever answers is not the operator's service: see enrol.json and enrol.pub",
    Reason.REPLAYED: "The service has older settings than this box: publish them again",
    Reason.TOO_MANY: "Wait some minutes",
    Reason.BROKEN: "See the enrolment service's journal",
}
_TEXTS = {
    "current": "has the newest settings",
    "applied": "has new settings in force",
    "went-back": "tried new settings, which cost the tunnel, and went back",
    "waiting": "waits before it tries again what has cost the tunnel",
}


def _restart() -> None:
    command = ["/usr/bin/systemctl", "restart", "moatd.service"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=90)
    except (OSError, subprocess.SubprocessError) as error:
        why = f"cannot be restarted ({error})"
        raise OperatorError("moatd", why, "See journalctl -u moatd") from error


def _claim(arguments: argparse.Namespace, box: Box) -> Outcome:
    # From a file or standard input: what stands on a command line is for everybody to see.
    where = arguments.token_file
    text = sys.stdin.readline() if where == Path("-") else read_text(where)
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise OperatorError(str(where), "holds no claim token", "Copy all 43 characters")
    outcome = claim(box, token)
    if where != Path("-"):
        where.unlink(missing_ok=True)  # it is used up, and the next boot need not claim again
    return outcome


def _pull(arguments: argparse.Namespace, box: Box) -> Outcome:
    return pull(box)


def parser() -> argparse.ArgumentParser:
    """Return the parser of moat-enrol's command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="answer with one JSON object")
    default = Box()
    common.add_argument("--settings", type=Path, default=default.settings)
    common.add_argument("--state", type=Path, default=default.state)
    wait = "seconds until new settings must have brought up the tunnel"
    common.add_argument("--patience", type=float, default=default.patience, help=wait)
    top = argparse.ArgumentParser(
        prog="moat-enrol",
        description="Makes a box a customer's moat, and fetches its signed settings.",
        epilog="Exit status: 0 done, 1 refused or not reached, 2 wrong usage.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    about = "claim this box's record by a one-time token"
    claiming = commands.add_parser("claim", help=about, description=about, parents=[common])
    claiming.add_argument("--token-file", type=Path, required=True, help='or "-": standard input')
    claiming.set_defaults(run=_claim)
    about = "fetch this box's settings, and put them in force"
    pulling = commands.add_parser("pull", help=about, description=about, parents=[common])
    pulling.set_defaults(run=_pull)
    return top


def main(words: list[str] | None = None) -> int:
    """Run moat-enrol; return its exit status: 0, 1 refused or not reached, 2 usage."""
    arguments = parser().parse_args(words)
    box = Box(arguments.settings, arguments.state, arguments.patience, restart=_restart)
    try:
        outcome: Outcome = arguments.run(arguments, box)
    except EnrolError as error:
        remedy = _REMEDIES.get(error.reason, "It is tried again")
        print(f"moat-enrol: refused ({error}). {remedy}", file=sys.stderr)
        return REFUSED
    except OperatorError as error:
        print(f"moat-enrol: {error}", file=sys.stderr)
        return REFUSED
    text = f"{outcome.identity} {_TEXTS[outcome.what]} (serial {outcome.serial})"
    print(json.dumps(asdict(outcome)) if arguments.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
