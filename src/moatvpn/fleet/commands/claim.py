"""moat-fleet claim: one-time tokens by which new boxes become customers' moats."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from moatvpn.cli.policy_files import read_octets, write_whole
from moatvpn.enrol.claims import new_token, token_hash
from moatvpn.enrol.journal import read_journal
from moatvpn.fleet import claims
from moatvpn.fleet.base import moment_text
from moatvpn.fleet.commands.common import ALARM, Json, new_typer, now, print_list
from moatvpn.fleet.find import get_customer
from moatvpn.fleet.journal import Claim
from moatvpn.fleet.show import print_json, print_line

claim_app = new_typer(help="One-time tokens for new boxes (docs/enrolment.md).")

CustomerId = Annotated[str, typer.Argument(help="Customer id.", show_default=False)]


@claim_app.command("make")
def claim_make(
    context: typer.Context,
    customer: CustomerId,
    days: Annotated[int, typer.Option(help="For how long it is good.", min=1, max=366)] = 30,
    output: Annotated[
        Path | None, typer.Option(help="Write the token there, for its owner alone.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a token, and show it this once, or write it into a file of an image."""
    token = new_token(secrets.token_bytes)
    with context.obj.write() as session:
        made = claims.make_claim(session, customer, token_hash(token), now(), timedelta(days=days))
        expires = moment_text(made.expires)
        if output is not None:
            # Within the transaction: a token that nobody has is no claim.
            write_whole(output, f"{token}\n".encode("ascii"), 0o600)
    shown = {"token": token} if output is None else {"file": str(output)}
    if as_json:
        print_json({"changed": True, "customer": customer, "expires": expires, **shown})
    else:
        print_line(token if output is None else f"{output}: a claim of {customer} until {expires}")


@claim_app.command("list")
def claim_list(
    context: typer.Context,
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    as_json: Json = False,
) -> None:
    """List claims. One that was refused is an alarm: somebody has a copy of its token."""
    with context.obj.read() as session:
        rows = [_row(claim) for claim in claims.claims_of(session, customer)]
    print_list(rows, ("customer", "state", "expires", "used", "refused"), as_json)


def _row(claim: Claim) -> dict[str, Any]:
    state = "used" if claim.used else "open" if claims.is_open(claim, now()) else "expired"
    return {
        "customer": claim.customer_id,
        "state": f"{state}, ALARM" if claim.refused else state,
        "created": moment_text(claim.created),
        "expires": moment_text(claim.expires),
        "used": moment_text(claim.used),
        "used_key": claim.used_key,
        "refused": claim.refused,
    }


@claim_app.command("cancel")
def claim_cancel(context: typer.Context, customer: CustomerId, as_json: Json = False) -> None:
    """Forget the tokens of a customer that no box has used."""
    with context.obj.write() as session:
        count = claims.cancel_claims(session, get_customer(session, customer), now())
    if as_json:
        print_json({"changed": bool(count), "cancelled": count, "customer": customer})
    else:
        print_line(f"customer {customer}: {count} cancelled")


@claim_app.command("collect")
def claim_collect(
    context: typer.Context,
    journals: Annotated[
        list[Path], typer.Argument(help="The services' journals.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Take what portals' services have seen of claims into the database; 4 where it is alarming."""
    read = [read_journal(read_octets(path), str(path)) for path in journals]
    with context.obj.write() as session:
        found = claims.collect(session, read, now())
    if as_json:
        print_json(
            {
                "changed": bool(found.recorded),
                "recorded": list(found.recorded),
                "alarms": list(found.alarms),
            }
        )
    else:
        for identity in found.recorded:
            print_line(f"{identity}: public key recorded")
        for alarm in found.alarms:
            print_line(f"ALARM {alarm}")
    if found.alarms:
        raise typer.Exit(ALARM)
