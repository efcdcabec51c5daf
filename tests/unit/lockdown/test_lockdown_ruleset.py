"""The rulesets as text: written out for people in golden/, and no chain without a counted drop."""

from __future__ import annotations

from pathlib import Path

import pytest
from lockdown_boxes import GOLDEN

from moatvpn.lockdown.matrix import matrix
from moatvpn.lockdown.ruleset import chains, pair_chain, ruleset
from moatvpn.lockdown.zones import LOCAL

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", GOLDEN)
def test_the_text_is_the_one_that_was_read(name: str) -> None:
    """After a change that is meant: write the text anew, and read the difference.

    PYTHONPATH=src:tests/support:tests/unit/lockdown python -m test_lockdown_ruleset
    """
    assert ruleset(GOLDEN[name]) == (HERE / "golden" / f"{name}.nft").read_text()


@pytest.mark.parametrize("name", GOLDEN)
def test_every_pair_ends_in_a_counted_drop(name: str) -> None:
    box = GOLDEN[name]
    rules = {chain.name: chain.rules for chain in chains(box)}
    for pair in matrix(box):
        if pair != (LOCAL, LOCAL):
            assert rules[pair_chain(pair)][-1].startswith("counter name dropped_")
            assert rules[pair_chain(pair)][-1].endswith(" drop")


if __name__ == "__main__":
    for each, box in GOLDEN.items():
        (HERE / "golden" / f"{each}.nft").write_text(ruleset(box))
