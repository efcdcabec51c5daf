"""A strict parser of the part of OpenMetrics that counters and gauges need."""

from __future__ import annotations

import re

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = rf'({_NAME})="((?:[^"\\\n]|\\["\\n])*)"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (-?[0-9]+(?:\.[0-9]+)?)")
_UNESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Samples = dict[tuple[tuple[str, str], ...], float]


def read_openmetrics(text: str) -> dict[str, tuple[str, Samples]]:
    """Return type and samples of each metric family; fail where the text is not OpenMetrics 1.0.

    That is: metadata first and once a family, no two families mixed, a counter's samples in
    _total, a unit at its family's end, no sample twice, and EOF at the end alone.
    """
    assert text.endswith("# EOF\n")
    families: dict[str, tuple[str, Samples]] = {}
    described: dict[str, set[str]] = {}
    current = ""
    for line in text.removesuffix("# EOF\n").splitlines():
        if metadata := re.fullmatch(rf"# (HELP|TYPE|UNIT) ({_NAME}) (.+)", line):
            word, name, value = metadata.groups()
            if name != current:
                assert name not in families, f"{name} is mixed with others"
                families[name], described[name], current = ("unknown", {}), set(), name
            assert not families[name][1], f"{word} of {name} comes after its samples"
            assert word not in described[name], f"{word} of {name} comes twice"
            described[name].add(word)
            if word == "TYPE":
                assert value in ("counter", "gauge")
                families[name] = (value, {})
            elif word == "UNIT":
                assert name.endswith(f"_{value}")
            else:
                assert not re.search(r"\\[^\\n]", value)
            continue
        sample = _SAMPLE.fullmatch(line)
        assert sample, f"no sample: {line!r}"
        kind, samples = families[current]
        assert sample[1] == current + {"counter": "_total", "gauge": ""}[kind]
        pairs = re.findall(_LABEL, sample[2] or "")
        labels = tuple(sorted((key, _unescaped(value)) for key, value in pairs))
        assert len(dict(labels)) == len(labels)
        assert labels not in samples, f"twice: {line}"
        samples[labels] = float(sample[len(sample.groups())])
        assert kind != "counter" or samples[labels] >= 0
    return families


def _unescaped(value: str) -> str:
    return re.sub(r"\\.", lambda found: _UNESCAPED[found[0]], value)
