"""The figures of a status as OpenMetrics text, which Prometheus reads.

https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class _Family(NamedTuple):
    """One metric family of connections: a name, what it means, and the key of its figure in a row.

    labels are told beside the connection's name.
    """

    kind: str
    name: str
    about: str
    keys: tuple[tuple[str, dict[str, str]], ...]


def _of(key: str) -> tuple[tuple[str, dict[str, str]], ...]:
    return ((key, {}),)


_IN, _OUT = {"direction": "in"}, {"direction": "out"}
_CONNECTION = "moatvpn_connection_"
_FAMILIES = (
    _Family("gauge", "child_sas", "CHILD_SAs that packets leave on.", _of("child_sas")),
    _Family(
        "counter", "packets", "Raw packets carried.", (("packets_in", _IN), ("packets_out", _OUT))
    ),
    _Family("counter", "bytes", "Octets of raw packets.", (("bytes_in", _IN), ("bytes_out", _OUT))),
    _Family("counter", "envelopes_received", "Authentic envelopes.", _of("envelopes_in")),
    _Family("counter", "envelopes_expected", "Envelopes that the peer sent.", _of("expected_in")),
    _Family("counter", "envelopes_reordered", "Envelopes overtaken.", _of("reordered_in")),
    _Family(
        "counter",
        "envelopes_late",
        "Envelopes refused as older than the replay window; not authenticated.",
        _of("late_in"),
    ),
    _Family("gauge", "envelopes_lost", "Envelopes that did not come.", _of("lost_in")),
    _Family("gauge", "loss_ratio", "Part of the last 2,048 envelopes lost.", _of("recent_loss_in")),
    _Family("gauge", "path_mtu_bytes", "What the wild side carries.", _of("path_mtu")),
)
_UNITS = ("bytes", "ratio")


def metrics_text(status: dict[str, Any]) -> str:
    """Return what moatd answers to "status" as OpenMetrics text, without its last newline.

    A figure that nobody knows has no line.
    """
    rows = status["connections"]
    lines: list[str] = []
    lines += _family(
        "gauge",
        _CONNECTION + "up",
        "Whether the tunnel is up.",
        (({"connection": row["name"]}, int(row["state"] == "established")) for row in rows),
    )
    for family in _FAMILIES:
        lines += _family(
            family.kind, _CONNECTION + family.name, family.about, _of_rows(family, rows)
        )
    drops = (({"reason": reason}, count) for reason, count in status["drops"].items())
    lines += _family("counter", "moatvpn_drops", "Packets and messages dropped.", drops)
    return "\n".join([*lines, "# EOF"])


def _of_rows(
    family: _Family, rows: Iterable[dict[str, Any]]
) -> Iterator[tuple[dict[str, str], int | float]]:
    for row in rows:
        for key, labels in family.keys:
            if row.get(key) is not None:
                yield {"connection": row["name"], **labels}, row[key]


def _family(
    kind: str, name: str, about: str, figures: Iterable[tuple[dict[str, str], int | float]]
) -> list[str]:
    """Return the lines of a metric family, none where it has no figure."""
    sample = name + ("_total" if kind == "counter" else "")
    samples = [f"{sample}{{{_labels(labels)}}} {figure}" for labels, figure in figures]
    if not samples:
        return []
    unit = name.rpartition("_")[2]
    units = [f"# UNIT {name} {unit}"] if unit in _UNITS else []
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}", *units, *samples]


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
