"""What moatd tells about a connection: facts for people and programs, never a secret."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from moatvpn.config import ConnectionConfig, connection_to_dict
from moatvpn.crypto.sign import fingerprint
from moatvpn.esp.loss import LossEstimate
from moatvpn.esp.statistics import EspStatistics
from moatvpn.ike.diagnosis import FailureRecord
from moatvpn.ike.status import ConnectionStatus
from moatvpn.wire.ike_config import Assigned


def connection_row(
    config: ConnectionConfig, ike: ConnectionStatus, esp: EspStatistics, now: float
) -> dict[str, Any]:
    """Return one connection's state as a JSON object.

    local_key and remote_key are the fingerprints of the public keys that proved the two sides of
    the IKE SA. established_for is that IKE SA's age, up_for the tunnel's, which rekeys do not end.
    Lengths of time are in seconds and rounded, SPIs are text such as "0x01020304"; what there is
    none of is null.
    """
    up = ike.state == "established"
    sending = esp.spi_out is not None
    return {
        "name": config.name,
        "state": ike.state,
        "role": ike.role,
        "peer": None if ike.peer is None else str(ike.peer),
        "remote_identity": config.remote_identity,
        "encapsulation": ("udp" if esp.udp else "esp") if sending else None,
        "suite": esp.suite,
        "child_sas": esp.child_sas,
        "key_exchange": ike.key_exchange,
        "ppk": ike.ppk,
        "esn": esp.esn if sending else None,
        "aggfrag": esp.aggfrag if sending else None,
        "super_packets": esp.super_packets if sending else None,
        "path_mtu": esp.path_mtu if sending else None,
        "tfc": esp.tfc.value if sending else None,
        "envelope_octets": esp.envelope_octets,
        "established_for": _since(ike.established_at, now),
        "up_for": _since(ike.up_since, now),
        "child_rekey_in": _until(ike.child_rekey_at, now),
        "ike_rekey_in": _until(ike.ike_rekey_at, now),
        "packets_in": esp.packets_in,
        "bytes_in": esp.octets_in,
        "packets_out": esp.packets_out,
        "bytes_out": esp.octets_out,
        "sequence_out": esp.sequence,
        **loss_row(esp.loss),
        "spi_in": _spi(esp.spi_in),
        "spi_out": _spi(esp.spi_out),
        "resumed": ike.resumed if up else None,
        "resumptions": ike.resumptions,
        "ticket": ike.ticket,
        "ike_spi_i": "0x" + ike.spi_i.hex() if up else None,
        "ike_spi_r": "0x" + ike.spi_r.hex() if up else None,
        "authentication": config.authentication,
        "local_key": _fingerprint(ike.local_key),
        "remote_key": _fingerprint(ike.remote_key),
        "key_refused": ike.key_refused,
        "last_failure": None if ike.failure is None else failure_detail(ike.failure, now),
    }


def loss_row(loss: LossEstimate | None) -> dict[str, Any]:
    """Return what is known of the envelopes that come in, as a part of a JSON object.

    loss_in and recent_loss_in are which part was lost, of all and of the last 2,048, from 0 to 1;
    the others are numbers of envelopes, as esp.loss has them. All are null where nobody knows.
    """
    known = LossEstimate() if loss is None else loss
    row = {
        "envelopes_in": known.received,
        "expected_in": known.expected,
        "lost_in": known.lost,
        "reordered_in": known.reordered,
        "late_in": known.late,
        "skipped_in": known.skipped,
        "loss_in": round(known.total_rate, 6),
        "recent_loss_in": round(known.rate, 6),
    }
    return dict.fromkeys(row) if loss is None else row


def failure_detail(record: FailureRecord, now: float) -> dict[str, Any]:
    """Return a failure as a JSON object.

    side is who refused, "here" or "peer"; count is how often in a row, and ago how many seconds
    ago the last time was. peer is the address at the other end, and identity what it calls itself.
    """
    failure = record.failure
    return {
        "ago": _since(record.when, now),
        "count": record.count,
        "side": failure.side,
        "what": failure.what,
        "remedy": failure.remedy,
        "peer": record.peer,
        "identity": record.identity,
    }


def assigned_row(assigned: Assigned) -> dict[str, list[str]]:
    """Return what a peer has assigned to us as a JSON object."""
    return {field.name: list(getattr(assigned, field.name)) for field in fields(Assigned)}


def connection_detail(config: ConnectionConfig, row: dict[str, Any]) -> dict[str, Any]:
    """Return a connection's row together with its settings, of which none is secret."""
    return {**row, "config": connection_to_dict(config)}


def _fingerprint(key: bytes | None) -> str | None:
    return None if key is None else fingerprint(key)


def _since(when: float | None, now: float) -> float | None:
    return None if when is None else round(now - when, 1)


def _until(when: float | None, now: float) -> float | None:
    return None if when is None else round(max(0.0, when - now), 1)


def _spi(spi: int | None) -> str | None:
    return None if spi is None else f"{spi:#010x}"
