"""OpenMetrics text, read by a strict parser of its grammar."""

from __future__ import annotations

from typing import Any

import pytest
from openmetrics import Samples, read_openmetrics

from moatvpn.cli.metrics import metrics_text


def row(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": "established",
        "child_sas": 1,
        "packets_in": 12,
        "bytes_in": 3456,
        "packets_out": 7,
        "bytes_out": 890,
        "envelopes_in": 13,
        "expected_in": 16,
        "lost_in": 2,
        "reordered_in": 4,
        "late_in": 1,
        "skipped_in": 0,
        "loss_in": 0.125,
        "recent_loss_in": 0.133333,
        **changes,
    }


def metrics(status: dict[str, Any]) -> dict[str, tuple[str, Samples]]:
    return read_openmetrics(metrics_text(status) + "\n")


def test_every_figure_is_there() -> None:
    unknown = dict.fromkeys(key for key in row("") if key.endswith("_in"))
    rows = [
        row("c1", path_mtu=1400),
        row("c2", **unknown | {"packets_in": 0, "bytes_in": 0}, state="waiting", path_mtu=None),
    ]
    found = metrics({"connections": rows, "drops": {"esp-replayed": 5, "out-no-sa": 6}})
    c1, c2 = (("connection", "c1"),), (("connection", "c2"),)
    into, out = ("direction", "in"), ("direction", "out")
    connection = {
        name.removeprefix("moatvpn_connection_"): family for name, family in found.items()
    }
    assert connection == {
        "up": ("gauge", {c1: 1, c2: 0}),
        "child_sas": ("gauge", {c1: 1, c2: 1}),
        "packets": ("counter", {(*c1, into): 12, (*c1, out): 7, (*c2, into): 0, (*c2, out): 7}),
        "bytes": (
            "counter",
            {(*c1, into): 3456, (*c1, out): 890, (*c2, into): 0, (*c2, out): 890},
        ),
        "envelopes_received": ("counter", {c1: 13}),
        "envelopes_expected": ("counter", {c1: 16}),
        "envelopes_reordered": ("counter", {c1: 4}),
        "envelopes_late": ("counter", {c1: 1}),
        "envelopes_lost": ("gauge", {c1: 2}),
        "loss_ratio": ("gauge", {c1: 0.133333}),
        "path_mtu_bytes": ("gauge", {c1: 1400}),
        "moatvpn_drops": (
            "counter",
            {(("reason", "esp-replayed"),): 5, (("reason", "out-no-sa"),): 6},
        ),
    }


def test_nothing_is_openmetrics_too() -> None:
    assert metrics_text({"connections": [], "drops": {}}) == "# EOF"
    assert metrics({"connections": [], "drops": {}}) == {}


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", 'a\\"', "\\n", 'x"} 1', "zoë,=", " "])
def test_label_values_are_escaped(name: str) -> None:
    found = metrics({"connections": [row(name)], "drops": {}})
    assert found["moatvpn_connection_up"][1] == {(("connection", name),): 1}


def test_large_figures_are_told_whole() -> None:
    found = metrics({"connections": [row("c1", bytes_in=1 << 60, recent_loss_in=0.0)], "drops": {}})
    into = (("connection", "c1"), ("direction", "in"))
    assert found["moatvpn_connection_bytes"][1][into] == float(1 << 60)
