"""The filters of VPNs: moatvpn.vpns, carried over to Ansible."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

if find_spec("moatvpn") is None:
    # Run from a checkout, with an Ansible whose environment moatvpn is not installed in.
    sys.path.append(str(Path(__file__).resolve().parent.parent / "src"))

from moatvpn.errors import ConfigError
from moatvpn.vpns import first_vpn, further_vpns


def moat_vpns(records: Any) -> list[dict[str, Any]]:
    """Return the further VPNs of a moat, checked, each with the names and numbers of its own."""
    try:
        return further_vpns(records)
    except ConfigError as error:
        raise AnsibleFilterError(f"moat_vpns: {error}") from error


def moat_first_vpn(record: Any) -> dict[str, Any]:
    """Return the record of a moat's first VPN, with the names and numbers of its own."""
    if not isinstance(record, dict):
        raise AnsibleFilterError(f"moat_first_vpn: {type(record).__name__} is no record. Give one")
    return first_vpn(record)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"moat_first_vpn": moat_first_vpn, "moat_vpns": moat_vpns}
