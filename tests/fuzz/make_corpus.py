"""Make the seeds of the corpus from real exchanges.

    PYTHONPATH=tests/exchange:tests/support python tests/fuzz/make_corpus.py

Each is small, and shows the fuzzers one thing that is well-formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from network import MOAT, MOAT_HOST, PORTAL_HOST, Network, Peer, moat_config
from offload_packets import TIMESTAMPS, UDP, Shape, partial, stream, virtio
from parser_target import PARSERS
from responder_target import CA, Bench, encode_step

from moatvpn.ike.ike_sa import IkeSa
from moatvpn.wire.ike_header import Exchange, PayloadType, encode_chain, parse_chain
from moatvpn.wire.ike_payloads import (
    AUTH_DIGITAL_SIGNATURE,
    CERT_X509_SIGNATURE,
    ID_DER_ASN1_DN,
    Delete,
    Notify,
    NotifyType,
    encode_auth,
    encode_fqdn,
)

HERE = Path(__file__).parent
STRANGER, KNOWS, REQUEST, RESPONSE, FRAGMENT, COMMAND, WAIT, HALF_OPEN = range(8)
PARSER = {parser.__name__: number for number, parser in enumerate(PARSERS)}


def sealed_chains() -> list[tuple[bool, bool, int, int, bytes]]:
    """Return what real messages hold: who sent it (portal?), response?, exchange, first, chain."""
    seen = []
    plain = IkeSa.datagrams

    def spy(sa: IkeSa, exchange: int, message_id: int, response: bool, body):
        seen.append((sa.context.identity != MOAT, response, exchange, *encode_chain(body)))
        return plain(sa, exchange, message_id, response, body)

    IkeSa.datagrams = spy
    try:
        bench = Bench()
        for peer, name in ((bench.moat, "portal"), (bench.portal, "c0001")):
            for sa in ("child", "ike"):
                peer.ike.rekey(name, sa, bench.network.now)
                bench.run(2.0)
        bench.moat.host = "192.0.2.77"
        bench.moat.ike.local_address_changed(bench.network.now)
        bench.run(2.0)
        bench.moat.ike.remove_connection("portal", bench.network.now)
        bench.run(2.0)
    finally:
        IkeSa.datagrams = plain
    return seen


def first_requests() -> list[bytes]:
    """Return IKE_SA_INIT messages, both ways."""
    network = Network()
    moat = Peer(MOAT, MOAT_HOST, 77)
    network.join(moat)
    moat.ike.add_connection(moat_config(Peer("portal.example.net", PORTAL_HOST, 78)), 0.0)
    network.run(0.4)
    return [network.log[0].data, Bench().network.log[1].data]


def parser_seeds() -> Iterator[bytes]:
    """Yield inputs of the parser's target."""
    for message in first_requests():
        yield bytes((PARSER["_message"],)) + message
        yield bytes((PARSER["_first"],)) + message
    bodies: dict[int, set[bytes]] = {}
    for _, _, _, first, chain in sealed_chains():
        yield bytes((PARSER["_chain"], first)) + chain
        for payload in parse_chain(first, chain):
            bodies.setdefault(payload.type, set()).add(payload.body)
    kinds = {
        PayloadType.SA: "_proposals",
        PayloadType.TS_I: "_selectors",
        PayloadType.AUTH: "parse_auth",
        PayloadType.NOTIFY: "_notify",
        PayloadType.DELETE: "_delete",
        PayloadType.ID_I: "_identity",
    }
    for kind, name in kinds.items():
        for body in sorted(bodies[kind])[:4]:
            yield bytes((PARSER[name],)) + body
    for issued in (CA, *(CA.issue(MOAT, kind) for kind in ("ed25519", "p256", "rsa2048"))):
        yield bytes((PARSER["_certificate"],)) + issued.der[0]
    subject = CA.certificate.subject.public_bytes()
    yield bytes((PARSER["_identity"], ID_DER_ASN1_DN, 0, 0, 0)) + subject
    yield bytes((PARSER["_configuration"], 2, 0, 0, 0, 0, 1, 0, 4, 10, 9, 8, 7, 0, 3, 0, 0))
    yield bytes((PARSER["_configuration"], 2, 0, 0, 0, 0, 13, 0, 8, 10, 9, 0, 0, 255, 255, 0, 0))
    ipv4 = bytes.fromhex("4500001c00000000401100000ac901050a320007") + bytes(8)
    ipv6 = (
        bytes.fromhex("6000000000102b40") + bytes(32) + bytes.fromhex("3b00000000000000") + bytes(8)
    )
    for packet, next_header in ((ipv4, 4), (ipv6, 41), (b"", 59)):
        yield bytes((PARSER["_raw_packet"],)) + packet
        yield bytes((PARSER["authentic"], next_header)) + packet
    yield bytes((PARSER["forged"],)) + bytes(60)
    yield from super_packets()


def super_packets() -> Iterator[bytes]:
    """Yield packets with a virtio header, and packets that can be joined."""
    for shape in (Shape(), Shape(6, tcp_options=TIMESTAMPS), Shape(protocol=UDP), Shape(6, UDP)):
        start, at = (20 if shape.version == 4 else 40), (6 if shape.protocol == UDP else 16)
        packet = partial(shape, bytes(range(30)))
        yield bytes((PARSER["_offload"],)) + virtio(start=start, at=at) + packet
        if shape.protocol != UDP:
            cut = virtio(1, 1 if shape.version == 4 else 4, 0, 8, start)
            yield bytes((PARSER["_offload"],)) + cut + packet
        packets = stream(shape, 9, 9, 9, 8)
        burst = b"".join(bytes((len(packet),)) + packet for packet in packets)
        yield bytes((PARSER["_burst"],)) + burst


def resumption() -> bytes:
    """Return a moat's IKE_SESSION_RESUME request, with the ticket of a portal that is gone."""
    bench = Bench()
    bench.network.peers.remove(bench.portal)
    bench.moat.ike.note_outbound("portal", bench.network.now)
    bench.run(5.0)
    return next(d.data for d in bench.network.log if d.data[18] == Exchange.IKE_SESSION_RESUME)


def responder_seeds() -> Iterator[bytes]:
    """Yield inputs of the responder's target."""
    for message in first_requests():
        for side in (0, 1):
            yield encode_step(STRANGER, side, message) * 2
        yield encode_step(KNOWS, 0, message)
    yield encode_step(STRANGER, 0, resumption()) * 2
    for portal, response, exchange, first, chain in sealed_chains():
        said = bytes((exchange, first)) + chain + b"\0"
        side = int(portal)
        if response:
            for word in range(2):
                commanded = encode_step(COMMAND, (1 - side) | word << 1, b"")
                yield commanded + encode_step(RESPONSE, side, said)
        else:
            yield encode_step(REQUEST, side, said)
            yield encode_step(REQUEST, 1 - side, said) + encode_step(WAIT, 200, b"")
            yield encode_step(HALF_OPEN, 5, said)
            parts = chain[: len(chain) // 2], chain[len(chain) // 2 :]
            yield b"".join(
                encode_step(FRAGMENT, side, bytes((exchange, first, 0, n, 0, 2)) + part + b"\0")
                for n, part in enumerate(parts, start=1)
            )
    for notify in (
        Notify(NotifyType.TEMPORARY_FAILURE),
        Notify(NotifyType.INVALID_SYNTAX),
        Notify(NotifyType.CHILD_SA_NOT_FOUND, protocol=3, spi=b"\1\2\3\4"),
    ):
        first, chain = encode_chain([(PayloadType.NOTIFY, notify.encode())])
        said = bytes((36, first)) + chain + b"\0"
        for word in range(4):
            yield encode_step(COMMAND, word, b"") + encode_step(RESPONSE, 1 - word & 1, said)
    yield from strangers_proofs()
    for delete in (Delete(1), Delete(3, (b"\1\2\3\4",))):
        first, chain = encode_chain([(PayloadType.DELETE, delete.encode())])
        yield encode_step(REQUEST, 0, bytes((37, first)) + chain + b"\0")


def strangers_proofs() -> Iterator[bytes]:
    """Yield what a stranger may say in IKE_AUTH, by each way to prove an identity."""
    issued = CA.issue("certificate.example.net")
    certificate = (PayloadType.CERT, bytes((CERT_X509_SIGNATURE,)) + issued.der[0])
    subject = issued.certificate.subject.public_bytes()
    for identity, method, certificates in (
        (encode_fqdn("certificate.example.net"), AUTH_DIGITAL_SIGNATURE, [certificate]),
        (bytes((ID_DER_ASN1_DN, 0, 0, 0)) + subject, AUTH_DIGITAL_SIGNATURE, [certificate] * 2),
        (encode_fqdn("psk.example.net"), 2, []),
    ):
        algorithm = bytes((7,)) + bytes.fromhex("300506032b6570")
        proof = (PayloadType.AUTH, encode_auth(method, algorithm + bytes(64)))
        payloads = [(PayloadType.ID_I, identity), *certificates, proof]
        first, chain = encode_chain(payloads)
        yield encode_step(HALF_OPEN, 9, bytes((Exchange.IKE_AUTH, first)) + chain + b"\0")


def main() -> None:
    """Write every seed to its own file."""
    for name, seeds in (("parser", parser_seeds()), ("responder", responder_seeds())):
        place = HERE / "corpus" / name
        place.mkdir(parents=True, exist_ok=True)
        for old in place.iterdir():
            old.unlink()
        for number, seed in enumerate(dict.fromkeys(seeds)):
            (place / f"{number:03}").write_bytes(seed)
        print(f"{name}: {len(list(place.iterdir()))} seeds")


if __name__ == "__main__":
    main()
