"""moat-fleet portal: security portals."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from moatvpn.fleet import store
from moatvpn.fleet.commands.common import (
    Identity,
    Json,
    dates,
    new_typer,
    now,
    print_added,
    print_list,
    print_with_keys,
)
from moatvpn.fleet.find import get_portal
from moatvpn.fleet.models import Portal
from moatvpn.fleet.options import field_options, given_texts
from moatvpn.fleet.records import PORTAL_FIELDS

portal_app = new_typer(help="Security portals.")


@portal_app.command("add")
@field_options(PORTAL_FIELDS, "portal")
def portal_add(context: typer.Context, as_json: Json = False, **given: str | None) -> None:
    """Add a portal."""
    with context.obj.write() as session:
        portal = _portal_dict(store.add_portal(session, given_texts(given), now()))
    print_added("portal", portal, as_json)


@portal_app.command("show")
def portal_show(context: typer.Context, identity: Identity, as_json: Json = False) -> None:
    """Show a portal with its keys."""
    with context.obj.read() as session:
        portal = get_portal(session, identity)
        values = _portal_dict(portal)
        print_with_keys(values, portal, as_json)


@portal_app.command("list")
def portal_list(context: typer.Context, as_json: Json = False) -> None:
    """List all portals."""
    with context.obj.read() as session:
        portals = [_portal_dict(portal) for portal in store.list_portals(session)]
    columns = ("portal", "wild_address", "corporate_address", "pool", "pool6")
    print_list(portals, columns, as_json)


def _portal_dict(portal: Portal) -> dict[str, Any]:
    return {**asdict(store.portal_record(portal)), **dates(portal)}
