"""The filter moat_credentials: moatvpn.credentials, carried over to Ansible."""

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

from moatvpn.credentials import with_credentials
from moatvpn.errors import ConfigError


def moat_credentials(connections: Any, entries: Any, directory: str) -> dict[str, list[Any]]:
    """Return connections with what they prove themselves by, and the files that this needs."""
    try:
        return with_credentials(connections, entries, directory)
    except ConfigError as error:
        raise AnsibleFilterError(f"moat_credentials: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"moat_credentials": moat_credentials}
