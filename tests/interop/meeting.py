"""Where moatd and charon meet: one of them as a moat that calls, the other as the portal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from boxes import MOAT, PORTAL, Box, Namespace, Side, join, wait_for
from charon import NAME, Charon, Tree
from traffic import transfer

from moatvpn.cli.client import ask

BY_MOATD, BY_CHARON = "by moatd", "by charon"
SPI = {"ike": "ike_spi_i", "child": "spi_in"}  # where moatd tells which SA it uses


def merge(tree: Tree, changes: Tree) -> dict[str, Any]:
    """Return tree with changes in it, section by section; None takes a setting out."""
    merged = dict(tree)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) else value
    return {key: value for key, value in merged.items() if value is not None}


def sides(we_call: bool) -> tuple[Side, Side]:
    """Return what moatd is, and what charon is."""
    return (MOAT, PORTAL) if we_call else (PORTAL, MOAT)


def from_now_on(log: Path) -> Callable[[], str]:
    """Return what reads all that is written into log from now on."""
    start = log.stat().st_size
    return lambda: log.read_text()[start:]


class Meeting:
    """A moatd and a charon on one wild network, both running, each without a connection."""

    def __init__(self, box: Box, charon: Charon, we_call: bool) -> None:
        self.box, self.charon, self.we_call = box, charon, we_call
        self.own, self.peer = sides(we_call)
        ends: tuple[Namespace, Namespace] = box, charon
        self.moat, self.portal = ends if we_call else ends[::-1]
        join(self.moat, self.portal)
        charon.write_public_key("peer", box.public_key)

    def our_connection(self) -> dict[str, Any]:
        """Return moatd's connection to charon: raw public keys, and all else by default."""
        connection = {
            "name": NAME,
            "remote_identity": self.peer.identity,
            "remote_public_keys": [self.charon.public_key],
            "local_selectors": list(self.own.networks),
            "remote_selectors": list(self.peer.networks),
            "initiate": self.we_call,
        }
        return {**connection, "remote_address": self.peer.wild} if self.we_call else connection

    def their_connection(self) -> dict[str, Any]:
        """Return charon's connection to moatd: raw public keys, AES-GCM, X25519."""
        esp = "aes256gcm16-x25519-noesn"
        return {
            "version": "2",
            "local_addrs": self.peer.wild,
            "remote_addrs": "%any" if self.we_call else self.own.wild,
            "proposals": "aes256gcm16-prfsha256-x25519",
            # Its ESP in user space knows UDP only.
            "encap": "yes",
            "local": {"auth": "pubkey", "id": self.peer.identity, "pubkeys": "own.pem"},
            "remote": {"auth": "pubkey", "id": self.own.identity, "pubkeys": "peer.pem"},
            "children": {
                NAME: {
                    "local_ts": self.peer.networks,
                    "remote_ts": self.own.networks,
                    "esp_proposals": esp,
                    "rekey_time": "0",
                }
            },
        }

    @contextmanager
    def configured(
        self, ours: Tree | None = None, theirs: Tree | None = None, sections: Tree | None = None
    ) -> Iterator[Meeting]:
        """Let both sides have their connections, with the changes given, for the block's length.

        theirs["children"][NAME] are changes of the one CHILD_SA, and sections are others than
        "connections" of swanctl.conf. Afterwards neither side knows of a tunnel any more. Where the
        block fails, what the daemons logged is told.
        """
        places = [(log, log.stat().st_size) for log in (self.box.log, self.charon.log)]
        try:
            self.charon.load(merge(self.their_connection(), theirs or {}), sections or {})
            self.box.apply("add", merge(self.our_connection(), ours or {}))
            try:
                yield self
            finally:
                self.box.moatctl("delete", NAME)
            wait_for(lambda: not self.charon.ike_sas(), "charon knows no IKE SA any more", 5)
        except BaseException:
            for log, start in places:
                print(f"--- {log.parent.name}\n{log.read_text()[start:][-12000:]}")
            raise

    @contextmanager
    def tunnel(
        self, ours: Tree | None = None, theirs: Tree | None = None, sections: Tree | None = None
    ) -> Iterator[Meeting]:
        """Set a tunnel up for the length of the block; the rest is as with configured."""
        with self.configured(ours, theirs, sections):
            self.call()
            yield self

    def call(self) -> None:
        """Set the tunnel up from where that is to be done, and wait for the first ping."""
        if not self.we_call:
            self.charon.initiate()
        self.wait_until_up()

    def wait_until_up(self, deadline: float = 10.0) -> None:
        """Wait until moatd calls the tunnel established and a ping goes through."""
        wait_for(lambda: self.status()["state"] == "established", "established", deadline)
        wait_for(lambda: self.moat.pings(PORTAL.inside), "a ping through the tunnel", deadline)

    def status(self) -> dict[str, Any]:
        """Return what moatd says of the connection."""
        return self.box.connection(NAME)

    def rekey(self, who: str, sa: str) -> None:
        """Let one side rekey the "ike" or the "child" SA; wait until both use the new one only."""
        before = self.status()[SPI[sa]]
        self.start_rekey(who, sa)
        self.wait_until_replaced(sa, before)

    def start_rekey(self, who: str, sa: str) -> None:
        """Let one side rekey the "ike" or the "child" SA."""
        if who == BY_MOATD:
            ask(self.box.socket, {"command": "rekey", "name": NAME, "sa": sa})
        else:
            self.charon.swanctl("--rekey", f"--{sa}", NAME)

    def wait_until_replaced(self, sa: str, before: str) -> None:
        """Wait until both sides use one IKE SA and one CHILD_SA, another sa than before."""
        wait_for(lambda: self.status()[SPI[sa]] != before, f"another {sa} SA", 5)
        wait_for(self._agree, "one IKE SA and one CHILD_SA, the same on both sides", 10)

    def _agree(self) -> bool:
        children, ours = self.charon.children(), self.status()
        theirs = [("0x" + child["spi-in"], "0x" + child["spi-out"]) for child in children]
        return self.charon_spis() == [ours["ike_spi_i"]] and theirs == [
            (ours["spi_out"], ours["spi_in"])
        ]

    def charon_spis(self) -> list[str]:
        """Return the initiators' SPIs of charon's IKE SAs, as moatd writes them."""
        return ["0x" + sa["initiator-spi"] for sa in self.charon.ike_sas()]

    def lost(self) -> dict[str, int]:
        """Return moatd's counters of raw packets and envelopes that it dropped."""
        return {k: v for k, v in self.box.drops().items() if not k.startswith("ike-")}

    def charon_log(self) -> Callable[[], str]:
        """Return what reads all that charon logs from now on."""
        return from_now_on(self.charon.log)

    def exchange_traffic(self, mebibytes: int = 1) -> None:
        """Send pings of several sizes and transfers of TCP both ways, in IPv4 and in IPv6."""
        for sender, receiver, there in (
            (self.moat, self.portal, PORTAL),
            (self.portal, self.moat, MOAT),
        ):
            for address in (there.inside, there.inside6):
                for size in ("0", "1200", "4000"):
                    sender.run("ping", "-c1", "-W2", "-s", size, address)
                with transfer(sender, receiver, address, mebibytes):
                    pass


@contextmanager
def arranged(directory: Path, we_call: bool) -> Iterator[Meeting]:
    """Both daemons, running for the length of the block, with namespaces of their own."""
    own, peer = sides(we_call)
    # moatd calls, or it answers.
    prefix = f"moat-test-{os.getpid()}-{'c' if we_call else 'a'}"
    with ExitStack() as stack:
        box = Box(f"{prefix}-moatd", directory / "moatd", own.identity)
        stack.callback(box.close)
        charon = Charon(f"{prefix}-charon", directory / "charon", peer.identity)
        stack.callback(charon.close)
        meeting = Meeting(box, charon, we_call)
        box.start()
        charon.start()
        yield meeting
