"""The inventory plugin moat: moatvpn.fleet.inventory, carried over to Ansible."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

if find_spec("moatvpn") is None:
    # Run from a checkout, with an Ansible whose environment moatvpn is not installed in.
    sys.path.append(str(Path(__file__).resolve().parent.parent / "src"))

try:
    from moatvpn.errors import OperatorError
    from moatvpn.fleet.database import ENVIRONMENT, Database, database_url
    from moatvpn.fleet.inventory import build_inventory

    MISSING = ""
except ImportError as error:
    MISSING = str(error)

DOCUMENTATION = r"""
name: moat
short_description: Moats and portals out of the customer database
version_added: "0.1.0"
author:
  - The Moat project
description:
  - Reads the customer database that C(moat-fleet) keeps, and makes a host of every moat and
    portal, named by its FQDN identity, with all the variables that their roles need.
  - The groups V(moats) and V(portals) hold all hosts of a kind. A moat is in V(portal_PORTAL),
    V(status_STATUS) and V(isp_ISP) too, where PORTAL and ISP are in lower case with C(_) for
    everything but letters and digits. There is a group for each status, even where it is empty.
  - A portal's V(moatvpn_connections) has an entry for each customer whose status is shipped or
    active and whose moat has a valid public key. A moat's has one entry, for its portal, unless
    the portal has no valid key or the customer is suspended or revoked.
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [moat]
  database:
    description:
      - The customer database, as an SQLAlchemy URL or as the path of an SQLite file.
      - A path is relative to the inventory source that names it; in the environment and by
        default, a URL's path is relative to the current directory.
      - The tasks of the run that call C(moat-fleet) on the controller use the same database.
    type: str
    default: sqlite:///moat.sqlite
    env:
      - name: MOAT_DATABASE
requirements:
  - sqlalchemy >= 2
  - cryptography
"""

EXAMPLES = r"""
# inventory/moat.yml: the database that MOAT_DATABASE names
plugin: moat
---
# A database beside the inventory source
plugin: moat
database: ../build/moat.sqlite
---
# PostgreSQL
plugin: moat
database: postgresql+psycopg://moat@db.example.net/moat
"""


class InventoryModule(BaseInventoryPlugin):
    """Carries the inventory that moatvpn.fleet builds over to Ansible."""

    NAME = "moat"

    def verify_file(self, path: str) -> bool:
        """Tell whether path may be one of our sources; the plugin key in it decides."""
        return super().verify_file(path) and path.endswith((".yml", ".yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Fill inventory from the database that the source at path names."""
        super().parse(inventory, loader, path, cache)
        if MISSING:
            raise AnsibleParserError(
                f"inventory {path}: {MISSING}. Run ansible from the environment of `make setup`"
            )
        given = self._read_config_data(path).get("database")
        # A path in the source is relative to the source, one in the environment to the user.
        base = Path(path).resolve().parent if given is not None else None
        try:
            url = database_url(str(self.get_option("database")), base)
            database = Database(url)
            with database.read() as session:
                found = build_inventory(session, datetime.now(UTC))
        except OperatorError as error:
            raise AnsibleParserError(f"inventory {path}: {error}") from error
        if given is not None:
            # moat-fleet, run by a task on the controller, is to change what this was read from.
            # No variable: a URL may hold a password, and variables are shown and logged.
            os.environ[ENVIRONMENT] = url.render_as_string(hide_password=False)
        for host, variables in found.hosts.items():
            self.inventory.add_host(host)
            for name, value in variables.items():
                self.inventory.set_variable(host, name, value)
        for group, hosts in found.groups.items():
            self.inventory.add_group(group)
            for host in hosts:
                self.inventory.add_child(group, host)
