"""The inventory plugin moat: moatvpn.fleet.inventory, carried over to Ansible."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.inventory.manager import split_host_pattern
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable

from ansible import context

if find_spec("moatvpn") is None:
    # Run from a checkout, with an Ansible whose environment moatvpn is not installed in.
    sys.path.append(str(Path(__file__).resolve().parent.parent / "src"))

try:
    from moatvpn.errors import OperatorError
    from moatvpn.fleet.database import ENVIRONMENT, Database, database_url
    from moatvpn.fleet.inventory import Inventory, build_inventory, build_limited, build_portals
    from moatvpn.fleet.inventory_cache import next_key_change, pack, unpack
    from moatvpn.fleet.stamp import stamp

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
  - Where C(--limit) is a list of identities, or a file of them, only those hosts are made, and all
    portals; those that are not named are without V(moatvpn_connections). With any other pattern,
    or a name that is not in the database, all hosts are.
  - What a cache holds counts for the database exactly as it is, and until the next key begins or
    ends. A change of any kind to the database makes it read anew.
extends_documentation_fragment:
  - inventory_cache
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
  limited:
    description: Whether C(--limit) may leave hosts out of the inventory, as said above.
    type: bool
    default: true
    env:
      - name: MOAT_INVENTORY_LIMITED
  moats:
    description:
      - Whether there are moats, and connections of portals. Without them a portal of thousands of
        customers is read at no cost, for a playbook that needs neither.
    type: bool
    default: true
    env:
      - name: MOAT_INVENTORY_MOATS
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
---
# What was read last time is kept, and is used while it is true
plugin: moat
cache: true
cache_plugin: jsonfile
cache_connection: build/inventory-cache
"""

# What a cache keeps tells who lives where.
PRIVATE_MASK = 0o077


class InventoryModule(BaseInventoryPlugin, Cacheable):
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
        given = self._read_privately(path).get("database")
        # A path in the source is relative to the source, one in the environment to the user.
        base = Path(path).resolve().parent if given is not None else None
        try:
            url = database_url(str(self.get_option("database")), base)
            found = self._read(Database(url), path, cache)
        except OperatorError as error:
            raise AnsibleParserError(f"inventory {path}: {error}") from error
        if given is not None:
            # moat-fleet, run by a task on the controller, is to change what this was read from.
            # No variable: a URL may hold a password, and variables are shown and logged.
            os.environ[ENVIRONMENT] = url.render_as_string(hide_password=False)
        for host, variables in found.hosts.items():
            self.inventory.add_host(host)
            # Not by set_variable: it copies every value to note where it is from, which is half of
            # all that an inventory costs. What has no note of being a template is none.
            self.inventory.hosts[host].vars.update(variables)
        for group, hosts in found.groups.items():
            self.inventory.add_group(group)
            for host in hosts:
                self.inventory.add_child(group, host)

    def _read_privately(self, path: str) -> Any:
        """Return the source's settings. A directory that the cache needs is made for us alone."""
        before = os.umask(PRIVATE_MASK)
        try:
            return self._read_config_data(path)
        finally:
            os.umask(before)

    def _read(self, database: Database, path: str, cache: bool) -> Inventory:
        """Return the inventory that is wanted, out of the database or the cache."""
        if not self.get_option("moats"):
            with database.read() as session:
                return build_portals(session)
        now = datetime.now(UTC)
        names = limit() if self.get_option("limited") else None
        if names:
            with database.read() as session:
                found = build_limited(session, now, names)
            if found is not None:
                return found
        # Before the database is read: see moatvpn.fleet.stamp.
        mark = stamp(database) if self.get_option("cache") else None
        key = self.get_cache_key(f"{path} {database.name}")
        directory = self._cache_directory() if mark is not None else None
        if mark is not None and cache:
            found = unpack(self._cache.get(key), mark, now)
            if found is not None:
                return found
        with database.read() as session:
            found = build_inventory(session, now)
            until = next_key_change(session, now)
        if mark is not None:
            self._cache[key] = pack(found, mark, now, until)
            self.set_cache_plugin()
            for file in () if directory is None else directory.glob(f"*{key}"):
                file.chmod(0o600)
        return found

    def _cache_directory(self) -> Path | None:
        """Return where the cache keeps its files; None where it keeps none.

        Raises AnsibleParserError where others could read them, or put one there.
        """
        connection = self.get_option("cache_connection")
        directory = Path(os.path.expandvars(connection or "")).expanduser()
        if not connection or not directory.is_dir():
            return None
        status = directory.stat()
        if status.st_uid != os.geteuid() or status.st_mode & PRIVATE_MASK:
            raise AnsibleParserError(
                f"inventory cache {directory}: it is not yours alone, and it decides what is run"
                f" where. Run `chmod 700 {directory}`, or give cache_connection another directory"
            )
        return directory


def limit() -> list[str]:
    """Return the patterns of --limit, those in its files among them; none where it has none."""
    given = (context.CLIARGS or {}).get("subset")
    patterns = []
    for pattern in split_host_pattern(given) if given else ():
        if pattern.startswith("@"):
            # Ansible tells of a file that is not there.
            file = Path(pattern[1:])
            patterns += file.read_text().split() if file.is_file() else [pattern]
        else:
            patterns.append(pattern)
    return patterns
