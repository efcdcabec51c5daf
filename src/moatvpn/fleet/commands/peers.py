"""moat-fleet peers: the connections of portals, signed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moatvpn.cli.policy_files import read_octets, read_seal, write_whole
from moatvpn.config_fields import object_from_json
from moatvpn.fleet.commands.common import Json, new_typer, now
from moatvpn.fleet.commands.enrol import Passphrase, SigningKey
from moatvpn.fleet.inventory import build_inventory
from moatvpn.fleet.peersets import sign_peers
from moatvpn.fleet.show import print_json, print_line
from moatvpn.fleet.store import list_portals

peers_app = new_typer(help="The connections of portals, signed (docs/operations.md).")
_DIRECTORY = Path("build/peers")


@peers_app.callback()
def peers() -> None:
    """Keep `sign` a word of its own."""


@peers_app.command("sign")
def peers_sign(
    context: typer.Context,
    key: SigningKey,
    portals: Annotated[list[str] | None, typer.Argument(help="Portals; none: all.")] = None,
    passphrase_file: Passphrase = None,
    directory: Annotated[
        Path, typer.Option(help="moatvpn_peers_directory of the role moatvpn.")
    ] = _DIRECTORY,
    connection_settings: Annotated[
        Path | None, typer.Option(help="JSON of what moatvpn_connection_settings is in Ansible.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign the connections that portals are to have now; site.yml brings them there."""
    settings = None
    if connection_settings is not None:
        settings = object_from_json(read_octets(connection_settings), str(connection_settings))
    seal = read_seal(key, passphrase_file)
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    with context.obj.write() as session:
        moment = now()
        inventory = build_inventory(session, moment)
        for portal in portals or [each.identity for each in list_portals(session)]:
            made = sign_peers(session, inventory, portal, seal, moment, settings)
            path = directory / f"{portal}.peers"
            write_whole(path, made.content)
            row = {"portal": portal, "file": str(path), "serial": made.serial}
            rows.append({**row, "connections": made.connections})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print_line(f"{row['file']}: {row['connections']} connections, serial {row['serial']}")
