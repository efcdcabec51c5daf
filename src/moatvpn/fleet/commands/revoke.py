"""moat-fleet revoke: end a customer in the database, and on every portal within seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from moatvpn.fleet import store
from moatvpn.fleet.commands.common import PARTLY, Json, confirm, now
from moatvpn.fleet.database import Database
from moatvpn.fleet.models import Status
from moatvpn.fleet.playbooks import (
    ANSWERS,
    answer_path,
    answers_directory,
    check_playbook,
    read_answers,
    run_playbook,
)
from moatvpn.fleet.revocation import Untold, note_failed, note_revoked, note_told, to_tell, untold
from moatvpn.fleet.show import print_json, print_line

PLAYBOOK = Path("playbooks/revoke.yml")
# What Ansible is told besides: who does not answer holds nobody up, and portals are all there is.
_MANNERS = {"ANSIBLE_TIMEOUT": "5", "ANSIBLE_FORKS": "50", "MOAT_INVENTORY_MOATS": "false"}

Customers = Annotated[
    list[str] | None, typer.Argument(help="Customer ids; none: go on with portals left to tell.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def revoke(
    context: typer.Context,
    customers: Customers = None,
    yes: Yes = False,
    push: Annotated[bool, typer.Option(help="Tell the portals at once.")] = True,
    playbook: Annotated[Path, typer.Option(help="The playbook.")] = PLAYBOOK,
    as_json: Json = False,
) -> None:
    """Revoke customers, all or none, and have every portal end them; 3 where one was not told."""
    began = time.time()
    database: Database = context.obj
    names = list(dict.fromkeys(customers or ()))
    if names:
        listed = ", ".join(names)
        confirm(f"revoke of {listed}", f"Revoke {listed}, and end their moats' keys?", yes)
    if push:
        check_playbook(playbook)
    with database.write() as session:
        found = [
            store.set_customer(session, customer, {"status": Status.REVOKED}, now())
            for customer in names
        ]
        changed = [record.customer for record, differs in found if differs]
        if changed:
            note_revoked(session, changed, now())
        pending = untold(session)
        message = to_tell(session)
    if not as_json:
        for record, differs in found:
            was = "" if differs else " already"
            print_line(f"customer {record.customer}: {record.status}{was}")
    told: dict[str, float] = {}
    if push and pending:
        told = _push(database, playbook, pending, message, began)
    left = [each.portal for each in pending if each.portal not in told]
    if as_json:
        records = [asdict(record) for record, _ in found]
        seconds = {portal: round(taken, 2) for portal, taken in told.items()}
        print_json({"changed": changed, "customers": records, "told": seconds, "not_told": left})
    else:
        _print_portals(pending, told)
    if push and left:
        raise typer.Exit(PARTLY)


def _push(
    database: Database,
    playbook: Path,
    pending: Sequence[Untold],
    message: dict[str, list[str]],
    began: float,
) -> dict[str, float]:
    """Have portals believe nobody of message; return those that do, after how many seconds."""
    portals = [each.portal for each in pending]
    with answers_directory() as directory:
        variables = {"moatvpn_revoked": message, ANSWERS: str(directory)}
        run_playbook(database, playbook, portals, variables, environment=_MANNERS)
        answers = read_answers(directory, portals)
        at: Callable[[str], float] = lambda portal: answer_path(directory, portal).stat().st_mtime  # noqa: E731
        told = {
            portal: at(portal) - began
            for portal, answer in answers.found.items()
            if _has(answer, message)
        }
    failed = {
        portal: answers.refused.get(portal, "was not reached, or refused")
        for portal in portals
        if portal not in told
    }
    with database.write() as session:
        note_told(session, [each for each in pending if each.portal in told], now())
        note_failed(session, failed, now())
    return told


def _has(answer: dict[str, Any], message: dict[str, list[str]]) -> bool:
    """Return whether a portal says that it believes none of so many keys."""
    return answer.get("revoked") == len(message["keys"])


def _print_portals(pending: Sequence[Untold], told: dict[str, float]) -> None:
    for each in pending:
        if each.portal in told:
            print_line(f"portal {each.portal}: told after {told[each.portal]:.1f} s")
        else:
            print_line(f"portal {each.portal}: NOT TOLD of {', '.join(each.customers)}")
    if len(told) < len(pending):
        print_line("run `moat-fleet revoke` again for those that were not told")
