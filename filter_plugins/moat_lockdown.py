"""The filter moat_lockdown: moatvpn.lockdown, carried over to Ansible."""

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
from moatvpn.lockdown.homes import moat_box, portal_box
from moatvpn.lockdown.ruleset import ruleset

_BOXES = {"moat": moat_box, "portal": portal_box}


def moat_lockdown(settings: Any, role: Any) -> str:
    """Return the nftables ruleset of the box that settings describe; role is moat or portal."""
    if not isinstance(settings, dict):
        raise AnsibleFilterError(f"moat_lockdown: {type(settings).__name__} is no dictionary")
    if role not in _BOXES:
        raise AnsibleFilterError(f"moat_lockdown: the role is {role!r}; give moat or portal")
    try:
        return ruleset(_BOXES[role](settings, "lockdown"))
    except ConfigError as error:
        raise AnsibleFilterError(f"moat_lockdown: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"moat_lockdown": moat_lockdown}
