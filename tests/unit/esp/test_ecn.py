"""RFC 6040: the ECN field through a tunnel."""

from __future__ import annotations

import pytest
from esp_peers import checksum, ipv4, ipv6, pair

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.esp.ecn import decapsulate_ecn
from moatvpn.wire.ip import CE, ECT_0, ECT_1, NOT_ECT

DROP = None
# Figure 4. Rows: the inner field; columns: the outer one, in the figure's order.
OUTER = (NOT_ECT, ECT_0, ECT_1, CE)
FIGURE_4 = {
    NOT_ECT: (NOT_ECT, NOT_ECT, NOT_ECT, DROP),
    ECT_0: (ECT_0, ECT_0, ECT_1, CE),
    ECT_1: (ECT_1, ECT_1, ECT_1, CE),
    CE: (CE, CE, CE, CE),
}
CASES = [
    (inner, outer, result)
    for inner, row in FIGURE_4.items()
    for outer, result in zip(OUTER, row, strict=True)
]
DSCP = 0x2E << 2  # expedited forwarding, which must come through


def test_code_points():
    assert (NOT_ECT, ECT_1, ECT_0, CE) == (0b00, 0b01, 0b10, 0b11)


@pytest.mark.parametrize(("inner", "outer", "result"), CASES)
@pytest.mark.parametrize("make", [ipv4, ipv6])
def test_figure_4(make, inner, outer, result):
    packet = make(b"payload", tos=DSCP | inner)
    if result is DROP:
        with pytest.raises(PeerError) as raised:
            decapsulate_ecn(packet, 0x88 | outer)
        assert raised.value.reason is DropReason.ESP_INNER_ECN
        return
    # Whatever DSCP the path has made of the outer header, the inner one is not touched.
    assert decapsulate_ecn(packet, 0x88 | outer) == make(b"payload", tos=DSCP | result)


def test_the_ipv4_checksum_is_right_afterwards():
    changed = decapsulate_ecn(ipv4(tos=DSCP | ECT_0), CE)
    assert changed[1] == DSCP | CE
    assert checksum(changed[:20]) == 0


@pytest.mark.parametrize(("inner", "outer", "result"), CASES)
def test_through_a_tunnel(inner, outer, result):
    moat, portal = pair()
    envelope = moat.send(ipv4(b"x", tos=DSCP | inner))
    assert envelope.tos == DSCP | inner  # normal mode on the way in (4.1)
    raw = portal.receive(envelope.data, tos=outer)
    if result is DROP:
        assert raw is None
        assert portal.drops == {"esp-inner-ecn": 1}
    else:
        assert raw is not None
        assert raw.data == ipv4(b"x", tos=DSCP | result)
        assert portal.drops == {}
