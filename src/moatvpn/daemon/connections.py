"""The connections that a daemon has, and what two of them must not share."""

from __future__ import annotations

from collections.abc import Iterator

from moatvpn.config import ConnectionConfig
from moatvpn.errors import ConfigError, OperatorError


class Connections:
    """The configured connections by name. Checking one costs the same however many there are.

    A network is several connections' where their metrics differ, unless one_for_each_network.
    """

    def __init__(self, *, one_for_each_network: bool = False) -> None:
        self._one_for_each_network = one_for_each_network
        self._by_name: dict[str, ConnectionConfig] = {}
        # Who owns an identity or a network: a second owner would get the first one's traffic.
        self._owners: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[ConnectionConfig]:
        return iter(self._by_name.values())

    def get(self, name: str) -> ConnectionConfig | None:
        """Return the connection of that name, None where there is none."""
        return self._by_name.get(name)

    def expect(self, name: str) -> ConnectionConfig:
        """Return the connection of that name; raise OperatorError where there is none."""
        config = self._by_name.get(name)
        if config is None:
            raise OperatorError(
                f"connection {name}", "is not known", "See `moatctl status` for those that are"
            )
        return config

    def check(self, config: ConnectionConfig) -> None:
        """Raise ConfigError where config cannot stand beside the others of another name."""
        where = f"connection {config.name}"
        for claim in self._claims(config):
            owner = self._owners.get(claim, config.name)
            if owner != config.name:
                raise ConfigError(
                    where, f"{claim} belongs to connection {owner}", "Change the one or the other"
                )

    def put(self, config: ConnectionConfig) -> None:
        """Take config in, in place of what has its name. check it before."""
        self.remove(config.name)
        self._by_name[config.name] = config
        for claim in self._claims(config):
            self._owners[claim] = config.name

    def remove(self, name: str) -> None:
        """Forget the connection of that name, if there is one."""
        config = self._by_name.pop(name, None)
        if config is not None:
            for claim in self._claims(config):
                self._owners.pop(claim, None)

    def _claims(self, config: ConnectionConfig) -> list[str]:
        """Return what config wants for itself alone."""
        shared = config.metric and not self._one_for_each_network
        place = f" at metric {config.metric}" if shared else ""
        networks = [f"remote network {network}{place}" for network in config.remote_selectors]
        return [f"remote identity {config.remote_identity}", *networks]
