"""What the operator publishes for one portal's enrolment service: claims, and signed settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, contains_eager

from moatvpn.config import connection_from_dict
from moatvpn.crypto.seal import Seal
from moatvpn.enrol.documents import Configuration, Voucher, seal_configuration, seal_voucher
from moatvpn.enrol.published import Entry, publish
from moatvpn.errors import OperatorError
from moatvpn.fleet.claims import open_claims
from moatvpn.fleet.configurations import next_serial
from moatvpn.fleet.find import get_portal
from moatvpn.fleet.inventory import SEEKING, build_inventory
from moatvpn.fleet.models import Customer, Moat


@dataclass(frozen=True, slots=True)
class Publication:
    """A file for a portal, and for which moats it holds settings."""

    content: bytes
    moats: tuple[str, ...]


def make_publication(
    session: Session,
    portal_identity: str,
    certificate: str,
    seal: Seal,
    now: datetime,
    *,
    handovers: Sequence[bytes] = (),
    servers: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Publication:
    """Return what the service of one portal is to serve.

    certificate is the SHA-256 of its own, in hex. The moats are those whose first or second portal
    it is, and whose customers are to have a connection. servers are the addresses that these ask
    at from then on, and settings those that every connection has. Serial numbers grow where
    something has changed. Raises OperatorError where a moat has nobody to call.
    """
    portal = get_portal(session, portal_identity)
    query = (
        select(Moat)
        .join(Moat.customer)
        .options(contains_eager(Moat.customer))
        .where(or_(Moat.portal_id == portal.id, Moat.backup_portal_id == portal.id))
        .where(Customer.status.in_(SEEKING))
        .order_by(Moat.identity)
    )
    hosts = build_inventory(session, now).hosts
    claims = open_claims(session)
    entries = []
    for moat in session.scalars(query).unique():
        records = hosts[moat.identity]["moatvpn_connections"]
        if not records:
            why = "has no portal to call: its portal has no public key yet"
            raise OperatorError(moat.identity, why, "Run site.yml against the portal first")
        configuration = Configuration(
            identity=moat.identity,
            serial=0,
            connections=tuple(
                connection_from_dict({**record, **(settings or {})}, moat.identity)
                for record in records
            ),
            servers=tuple(servers),
        )
        serial = next_serial(session, moat.identity, configuration.digest, now)
        entries.append(
            Entry(
                identity=moat.identity,
                keys=tuple(key.key for key in moat.public_keys if key.valid(now)),
                claims=tuple(claims.get(moat.identity, ())),
                configuration=seal_configuration(replace(configuration, serial=serial), seal),
                serial=serial,
            )
        )
    voucher_serial = next_serial(session, f"voucher of {portal.identity}", certificate, now)
    voucher = seal_voucher(Voucher(certificate, voucher_serial), seal)
    content = publish(voucher, handovers, entries)
    return Publication(content, tuple(entry.identity for entry in entries))
