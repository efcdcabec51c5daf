"""moat-fleet enrol: what enrolment services publish, and who signs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moatvpn.cli.policy_files import read_octets, read_seal, read_text, write_whole
from moatvpn.config_fields import object_from_json
from moatvpn.enrol.documents import certificate_digest, seal_handover
from moatvpn.errors import OperatorError
from moatvpn.fleet.commands.common import Json, new_typer, now
from moatvpn.fleet.enrolment import make_publication
from moatvpn.fleet.show import print_json, print_line

enrol_app = new_typer(help="What enrolment services publish (docs/enrolment.md).")

SigningKey = Annotated[
    Path, typer.Option("--key", help="The signing key's file.", show_default=False)
]
Passphrase = Annotated[
    Path | None, typer.Option(help="A file with its passphrase (asked for otherwise).")
]
Directory = Annotated[Path, typer.Option(help="portal_enrolment_directory of the role portal.")]
DIRECTORY = Path("build/enrolment")


@enrol_app.command("publish")
def enrol_publish(
    context: typer.Context,
    portal: Annotated[str, typer.Argument(help="The portal's identity.", show_default=False)],
    key: SigningKey,
    passphrase_file: Passphrase = None,
    directory: Directory = DIRECTORY,
    server: Annotated[
        list[str] | None,
        typer.Option(help="An IPv4 address that moats ask at from then on; best first."),
    ] = None,
    connection_settings: Annotated[
        Path | None, typer.Option(help="JSON of what moatvpn_connection_settings is in Ansible.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what one portal's service is to serve; site.yml brings it there."""
    pem = directory / f"{portal}.tls.pem"
    try:
        certificate = certificate_digest(read_text(pem))
    except ValueError as error:
        why, remedy = "holds no certificate", "Have site.yml bring the portal's again"
        raise OperatorError(str(pem), why, remedy) from error
    settings = None
    if connection_settings is not None:
        settings = object_from_json(read_octets(connection_settings), str(connection_settings))
    handovers = [read_octets(path) for path in sorted(directory.glob("*.handover"))]
    seal = read_seal(key, passphrase_file)
    path = directory / f"{portal}.published"
    with context.obj.write() as session:
        made = make_publication(
            session,
            portal,
            certificate,
            seal,
            now(),
            handovers=handovers,
            servers=server or (),
            settings=settings,
        )
        write_whole(path, made.content, 0o600)
    if as_json:
        print_json({"file": str(path), "moats": list(made.moats)})
    else:
        count = len(made.moats)
        print_line(f"{path}: settings of {count} {'moat' if count == 1 else 'moats'}")


@enrol_app.command("handover")
def enrol_handover(
    to: Annotated[str, typer.Argument(help="The new public key.", show_default=False)],
    key: SigningKey,
    passphrase_file: Passphrase = None,
    directory: Directory = DIRECTORY,
    as_json: Json = False,
) -> None:
    """Have the signing key hand over to another one; publish with that from then on."""
    content = seal_handover(to, read_seal(key, passphrase_file))
    known = sorted(directory.glob("*.handover"))
    number = 1 + max((int(path.stem) for path in known if path.stem.isdigit()), default=0)
    path = directory / f"{number:04}.handover"
    write_whole(path, content)
    if as_json:
        print_json({"changed": True, "file": str(path)})
    else:
        print_line(f"{path}: made; publish with the new key now")
