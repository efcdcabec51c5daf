"""The engine of a daemon that carries the packets itself, through esp.processor.

Calls on the path of every packet are kept few: what IKE wants to know about traffic it is told at
most twice a second and connection.
"""

from __future__ import annotations

from typing import Unpack

from moatvpn.counters import Counters
from moatvpn.daemon.engine import Beside, Engine
from moatvpn.daemon.log import LogCall
from moatvpn.esp.processor import Envelope, EspProcessor
from moatvpn.ike.endpoint import IkeEndpoint
from moatvpn.wire.endpoint import Endpoint

_NOTE_EVERY = 0.5  # seconds


class PacketEngine(Engine):
    """An engine whose data plane is the processor that packets pass through here."""

    def __init__(
        self,
        ike: IkeEndpoint,
        esp: EspProcessor,
        counters: Counters,
        log: LogCall,
        **beside: Unpack[Beside],
    ) -> None:
        super().__init__(ike, esp, counters, log, **beside)
        self._processor = esp
        # When IKE is next to be told of traffic, by connection.
        self._note_in: dict[str, float] = {}
        self._note_out: dict[str, float] = {}

    def from_tun(self, packet: bytes, now: float) -> Envelope | None:
        """Return the envelope of a raw packet of ours, None where it was dropped (and counted)."""
        envelope = self._processor.encapsulate(packet)
        if envelope is not None and now >= self._note_out.get(envelope.connection, now):
            self._note_out[envelope.connection] = now + _NOTE_EVERY
            self.carried(envelope.connection, False, now)
        return envelope

    def from_esp(self, data: bytes, source: Endpoint, tos: int, now: float) -> bytes | None:
        """Return the raw packet that an ESP packet held, None where it was dropped (and counted).

        source has port 0 where the packet came as IP protocol 50; tos is the outer header's octet.
        """
        raw = self._processor.decapsulate(data, source, tos)
        if raw is None:
            return None
        name = raw.connection
        if raw.moved:
            self.peer_seen_at(name, source, now)
        if now >= self._note_in.get(name, now):
            self._note_in[name] = now + _NOTE_EVERY
            self.carried(name, True, now)
        return raw.data

    def _speaks_from(self, name: str, host: str) -> None:
        self._processor.set_local(name, host)

    def _remove(self, name: str, now: float) -> None:
        super()._remove(name, now)
        self._note_in.pop(name, None)
        self._note_out.pop(name, None)
