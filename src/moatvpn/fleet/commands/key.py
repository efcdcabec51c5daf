"""moat-fleet key: public keys of moats and portals."""

from __future__ import annotations

from typing import Annotated

import typer

from moatvpn.fleet import fields, keys, keys_file
from moatvpn.fleet.commands.common import (
    PARTLY,
    Identity,
    Json,
    checked,
    new_typer,
    now,
    print_list,
)
from moatvpn.fleet.show import key_dict, print_json, print_line

key_app = new_typer(help="Public keys of moats and portals.")


@key_app.command("record")
def key_record(
    context: typer.Context,
    identity: Identity,
    public_key: Annotated[
        str, typer.Argument(help="Base64 of SubjectPublicKeyInfo.", show_default=False)
    ],
    replace: Annotated[bool, typer.Option("--replace", help="End the box's other keys.")] = False,
    beside: Annotated[
        bool, typer.Option("--beside", help="Leave the box's other keys valid.")
    ] = False,
    not_before: Annotated[
        str | None, typer.Option(help="Date, or time with zone (now).", show_default=False)
    ] = None,
    not_after: Annotated[
        str | None, typer.Option(help="Date, or time with zone (no end).", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Record a box's public key; recording it again changes nothing."""
    if replace and beside:
        raise typer.BadParameter("--replace and --beside exclude each other")
    start = None if not_before is None else checked("not_before", not_before, fields.moment)
    end = None if not_after is None else checked("not_after", not_after, fields.moment)
    with context.obj.write() as session:
        changed = keys.record_key(
            session,
            identity,
            public_key,
            now(),
            replace=replace,
            beside=beside,
            not_before=start,
            not_after=end,
        )
    if as_json:
        print_json({"changed": changed, "identity": identity, "public_key": public_key})
    else:
        print_line(f"{identity}: public key {'recorded' if changed else 'unchanged'}")


@key_app.command("record-many")
def key_record_many(
    context: typer.Context,
    file: Annotated[
        typer.FileText, typer.Argument(help="JSON, a line for each box; - for standard input.")
    ],
    as_json: Json = False,
) -> None:
    """Record the keys of many boxes, each or a line that says why not; 3 where one was refused.

    A line is {"identity": FQDN, "public_key": BASE64}. None is recorded where a line is no such.
    """
    wanted = keys_file.read_keys(file, file.name)
    with context.obj.write() as session:
        outcome = keys_file.record_keys(session, wanted, now())
    if as_json:
        print_json({"changed": outcome.changed, "refused": outcome.refused})
    else:
        for identity in outcome.changed:
            print_line(f"{identity}: public key recorded")
        for identity, why in outcome.refused.items():
            print_line(f"{identity}: refused: {why}")
        print_line(
            f"{len(wanted)} keys: {len(outcome.changed)} new, {len(outcome.refused)} refused"
        )
    if outcome.refused:
        raise typer.Exit(PARTLY)


@key_app.command("list")
def key_list(context: typer.Context, as_json: Json = False) -> None:
    """List the keys of all boxes, those that have ended too."""
    moment = now()
    with context.obj.read() as session:
        rows = [
            {"identity": key.box.identity, **key_dict(key, moment)}
            for key in keys.list_keys(session)
        ]
    print_list(rows, ("identity", "public_key", "not_before", "not_after", "valid"), as_json)
