"""What enrolment opens: one port of a portal to the wild side, and a moat's way to its servers."""

from __future__ import annotations

from typing import Any

import pytest
from lockdown_boxes import moat, portal

from moatvpn.errors import ConfigError
from moatvpn.lockdown.matrix import Allowance, State, matrix
from moatvpn.lockdown.ruleset import ruleset
from moatvpn.lockdown.zones import LOCAL, Kind, box_from_dict
from moatvpn.subnets import parse_network

PORT = 4510
ASKS: dict[str, Any] = {"name": "enrolment", "protocol": "tcp", "port": PORT}
TO_WILD = {**ASKS, "zones": ["wild"], "destinations": ["198.51.100.2/32"]}
TO_TUNNEL = {**ASKS, "zones": ["tunnel"], "destinations": ["10.201.0.1/32", "fd00:201::1/128"]}


def test_a_moat_may_ask_its_servers_and_nobody_else():
    box = moat(outgoing=[TO_WILD, TO_TUNNEL])
    verdicts = matrix(box)
    (wild,), (tunnel,) = box.of(Kind.WILD), box.of(Kind.TUNNEL)
    tcp = [each for each in verdicts[LOCAL, wild] if each.protocol == "tcp"]
    server = (parse_network("198.51.100.2/32"),)
    assert tcp == [Allowance((4,), "tcp", dports=(PORT,), destinations=server)]
    inside = [each for each in verdicts[LOCAL, tunnel] if each.dports == (PORT,)]
    assert [(each.families, str(each.destinations[0])) for each in inside] == [
        ((4,), "10.201.0.1/32"),
        ((6,), "fd00:201::1/128"),
    ]
    # From the wild side only answers come in.
    assert [each.state for each in verdicts[wild, LOCAL] if not each.protocol] == [State.KNOWN]
    assert "ip daddr 198.51.100.2/32 tcp dport 4510 accept" in ruleset(box)


def test_nobody_is_not_everybody():
    box = moat(outgoing=[{**TO_WILD, "destinations": []}])
    (wild,) = box.of(Kind.WILD)
    assert not [each for each in matrix(box)[LOCAL, wild] if each.protocol == "tcp"]


def test_a_portal_hears_strangers_on_one_port_and_tracks_none_of_them():
    box = portal(enrolment=PORT)
    (wild,) = box.of(Kind.WILD)
    verdicts = matrix(box)
    assert Allowance((4,), "tcp", dports=(PORT,)) in verdicts[wild, LOCAL]
    assert Allowance((4,), "tcp", sports=(PORT,)) in verdicts[LOCAL, wild]
    (tunnel,) = box.of(Kind.TUNNEL)
    assert Allowance((4, 6), "tcp", dports=(PORT,)) in verdicts[tunnel, LOCAL]
    text = ruleset(box)
    assert "tcp dport 4510 notrack accept" in text
    assert 'oifname "wild0" tcp sport 4510 notrack accept' in text
    assert "4510" not in ruleset(portal())


@pytest.mark.parametrize("port", [True, -1, 10_000, 65_536, "4510"])
def test_the_port_is_a_number_below_what_is_translated(port):
    with pytest.raises(ConfigError, match="enrolment"):
        portal(enrolment=port)


@pytest.mark.parametrize("destinations", ["198.51.100.2", [5], ["nowhere"]])
def test_destinations_are_networks(destinations):
    with pytest.raises(ConfigError, match="destinations"):
        moat(outgoing=[{**TO_WILD, "destinations": destinations}])


def test_no_home_hears_strangers():
    record = {
        "zones": [
            {"name": "wild", "kind": "wild", "interface": "wild0"},
            {"name": "private", "kind": "private", "interface": "home0",
             "subnet4": "10.201.1.0/24", "tunnel": "tunnel"},
            {"name": "tunnel", "kind": "tunnel", "interface": "moat0"},
        ],
        "enrolment": PORT,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="is for portals"):
        box_from_dict(record, "test")
