"""Which method a connection uses."""

from __future__ import annotations

from moatvpn.config import ConnectionConfig
from moatvpn.errors import OperatorError
from moatvpn.ike.authentication.certificate import CertificateAuthentication
from moatvpn.ike.authentication.contract import Authentication
from moatvpn.ike.authentication.psk import PskAuthentication
from moatvpn.ike.authentication.raw_key import RawKeyAuthentication
from moatvpn.ike.context import Context
from moatvpn.ike.secrets import ConnectionSecrets


def authentication_for(
    context: Context, config: ConnectionConfig, secrets: ConnectionSecrets
) -> Authentication:
    """Return a connection's method; raise OperatorError where it lacks what the method needs."""
    what = f"connection {config.name}"
    if config.authentication == "psk":
        if secrets.psk is None:
            raise OperatorError(what, "has no pre-shared key", "Give psk_file")
        return PskAuthentication(config, secrets.psk)
    if config.authentication == "raw-public-key":
        return RawKeyAuthentication(config, context)
    if context.certificates.own is None:
        why = "wants certificates, and this box has none of its own"
        raise OperatorError(what, why, "Give certificate in moatd.json")
    if secrets.anchors is None:
        raise OperatorError(what, "trusts no CA", "Give ca_files")
    return CertificateAuthentication(
        config,
        context.signer,
        context.certificates,
        secrets.anchors,
    )
