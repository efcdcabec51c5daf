"""moatctl set: have exactly the connections of a file, with one call however many there are.

The file is {"connections": [record, …], "reread": [name, …]}, records as ConnectionConfig describes
them; reread names those whose files moatd is to read again though their records are as they were.
A record that is wrong changes nothing. Keys that were revoked here are left out, and so is who has
no other: a set may be older than a revocation. What is no more is deleted first, so that its
selectors are free; what differs is replaced; what is new is added. All others go on undisturbed.
Where moatd refuses one, what was done before stays, and the same call again does the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from moatvpn.cli.client import change
from moatvpn.cli.store import Store
from moatvpn.config import ConnectionConfig, connection_from_dict, connection_to_dict
from moatvpn.errors import ConfigError, OperatorError
from moatvpn.revoked import without_revoked

# Records of so many connections that differ are told of; of more, their names.
MOST_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. reread: those that are as they were, but for what is in their files."""

    added: tuple[ConnectionConfig, ...]
    replaced: tuple[ConnectionConfig, ...]
    deleted: tuple[str, ...]
    reread: tuple[ConnectionConfig, ...]
    unchanged: int

    @property
    def count(self) -> int:
        """Return how many connections differ."""
        return len(self.added) + len(self.replaced) + len(self.deleted)


def wanted_in(record: dict[str, Any], where: str) -> tuple[list[ConnectionConfig], frozenset[str]]:
    """Return the connections of a set, and the names to be read again; raise ConfigError."""
    if record.keys() - {"connections", "reread"} or "connections" not in record:
        raise ConfigError(where, "is no set of connections", "Give connections, and reread")
    records, reread = record["connections"], record.get("reread", [])
    if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
        raise ConfigError(f"{where}: connections", "is no list of records", "Give one")
    if not isinstance(reread, list) or not all(isinstance(each, str) for each in reread):
        raise ConfigError(f"{where}: reread", "is no list of names", "Give one")
    configs = [
        connection_from_dict(each, f"{where}: connections[{n}]") for n, each in enumerate(records)
    ]
    _check_alone([config.name for config in configs], where, "name")
    _check_alone([config.remote_identity for config in configs], where, "remote_identity")
    return configs, frozenset(reread)


def _check_alone(values: list[str], where: str, field: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            why = f"{value} is the {field} of two"
            raise ConfigError(f"{where}: connections", why, "Give each its own")
        seen.add(value)


def plan_for(store: Store, configs: Iterable[ConnectionConfig], reread: frozenset[str]) -> Plan:
    """Return what makes the store's connections those of configs."""
    present = set(store.names())
    added, replaced, again, unchanged = [], [], [], 0
    for config in configs:
        if config.name not in present:
            added.append(config)
            continue
        present.discard(config.name)
        if not store.holds(config):
            replaced.append(config)
            continue
        unchanged += 1
        if config.name in reread:
            again.append(config)
    return Plan(tuple(added), tuple(replaced), tuple(sorted(present)), tuple(again), unchanged)


def set_connections(
    arguments: argparse.Namespace, record: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Carry `moatctl set` out; return the result, and a text of it."""
    configs, reread = wanted_in(record, str(arguments.file))
    store = Store(arguments.connections)
    with nullcontext() if arguments.dry_run else store.locked():
        store.check_unsigned()
        return apply_set(store, configs, reread, arguments)


def apply_set(
    store: Store,
    configs: Sequence[ConnectionConfig],
    reread: frozenset[str],
    arguments: argparse.Namespace,
) -> tuple[dict[str, Any], str]:
    """Have these connections, but for keys that were revoked; return the result, and a text of it.

    The store is locked, unless arguments say that nothing is to be done.
    """
    revoked = store.revoked()
    admitted = [without_revoked(config, revoked) for config in configs]
    plan = plan_for(store, (each for each in admitted if each is not None), reread)
    result, text = _result(store, plan)
    pairs = zip(configs, admitted, strict=True)
    result["revoked"] = [config.name for config, left in pairs if config != left]
    if not arguments.dry_run:
        running, reread_changed = _carry_out(store, plan, arguments)
        result |= {"changed": result["changed"] or reread_changed, "running": running}
    return result, text


def _carry_out(store: Store, plan: Plan, arguments: argparse.Namespace) -> tuple[bool | None, bool]:
    """Return whether moatd runs (None: it was not asked), and whether reading again changed it."""
    running: bool | None = None
    reread_changed = False
    done = 0
    try:
        for name in plan.deleted:
            with store.removing(name):
                running, _ = change(arguments.socket, {"command": "delete", "name": name})
            done += 1
        for config in (*plan.replaced, *plan.added):
            with store.writing(config):
                running, _ = change(arguments.socket, _replacing(config))
            done += 1
        for config in plan.reread:
            running, changed = change(arguments.socket, _replacing(config))
            reread_changed = reread_changed or changed
    except OperatorError as error:
        why = f"{error.why}; {done} of {plan.count} changes were made"
        remedy = f"{error.remedy}, then give the set again"
        raise type(error)(error.what, why, remedy) from error
    return running, reread_changed


def _replacing(config: ConnectionConfig) -> dict[str, Any]:
    return {"command": "replace", "connection": connection_to_dict(config)}


def _result(store: Store, plan: Plan) -> tuple[dict[str, Any], str]:
    replaced = [config.name for config in plan.replaced]
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    if plan.count <= MOST_SHOWN:
        before = {name: store.record(name) for name in (*plan.deleted, *replaced)}
        after = {
            config.name: connection_to_dict(config) for config in (*plan.replaced, *plan.added)
        }
    result = {
        "changed": bool(plan.count),
        "running": None,
        "added": [config.name for config in plan.added],
        "replaced": replaced,
        "deleted": list(plan.deleted),
        "unchanged": plan.unchanged,
        "before": before,
        "after": after,
    }
    text = (
        f"connections: {len(plan.added)} added, {len(replaced)} replaced,"
        f" {len(plan.deleted)} deleted, {plan.unchanged} unchanged"
    )
    return result, text
