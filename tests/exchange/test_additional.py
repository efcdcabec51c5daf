"""Additional key exchanges in proposals (RFC 9370, 2.2.2)."""

from __future__ import annotations

import pytest

from moatvpn.ike.additional import choose_additional
from moatvpn.ike.proposal import IkePolicy, choose, offer
from moatvpn.wire.algorithms import CipherSuite, Group, PostQuantum
from moatvpn.wire.ike_proposal import ADDITIONAL_TYPES, Proposal, Protocol, Transform


def proposal_with(*additional: tuple[int, int]) -> Proposal:
    policy = IkePolicy((CipherSuite.AES_256_GCM,), (Group.X25519,))
    (plain,) = offer(policy)
    more = tuple(Transform(ADDITIONAL_TYPES[n - 1], method) for n, method in additional)
    return Proposal(1, Protocol.IKE, b"", (*plain.transforms, *more))


@pytest.mark.parametrize(
    ("additional", "without", "with_kem"),
    [
        ((), (), None),
        (((1, 36),), None, ((1, 36),)),
        (((1, 36), (1, 0)), ((1, 0),), ((1, 36),)),
        (((1, 35), (1, 36)), None, ((1, 36),)),
        (((3, 36),), None, ((3, 36),)),
        (((1, 35),), None, None),
        (((1, 35), (1, 0)), ((1, 0),), None),
        (((1, 36), (2, 36)), None, None),  # no method twice (RFC 9370, 2.2.2)
        (((1, 36), (2, 36), (2, 0)), None, ((1, 36), (2, 0))),
        (((1, 37), (2, 36)), None, None),
        (((1, 37), (1, 0), (7, 36)), None, ((1, 0), (7, 36))),
        (((1, 0),), ((1, 0),), None),
    ],
)
def test_what_we_take_of_a_proposal(
    additional: tuple[tuple[int, int], ...],
    without: tuple[tuple[int, int], ...] | None,
    with_kem: tuple[tuple[int, int], ...] | None,
) -> None:
    proposal = proposal_with(*additional)
    for way, expected in ((False, without), (True, with_kem)):
        taken = choose_additional(proposal, way)
        if expected is None:
            assert taken is None
        else:
            assert taken is not None
            assert [(t.type - 5, t.id) for t in taken] == list(expected)


def test_a_proposal_of_unknown_types_is_passed_over() -> None:
    policy = IkePolicy((CipherSuite.AES_256_GCM,), (Group.X25519,), PostQuantum.PREFER)
    strange = Proposal(1, Protocol.IKE, b"", (*proposal_with().transforms, Transform(13, 36)))
    assert choose([strange], policy) is None
    first, second = offer(policy)
    assert (first.number, second.number) == (1, 2)
    assert len(first.transforms) == len(second.transforms) + 1
    taken = choose([second, first], policy)
    assert taken is not None
    assert taken.number == 1
