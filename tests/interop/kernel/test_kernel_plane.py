"""The kernel as the data plane: its scenarios, in a virtual machine whose kernel has IPsec."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_peer import MODULES
from shared_machine import SharedMachine

ROOT = Path(__file__).parents[3]
_INSIDE = Path(__file__).with_name("inside")
_SCENARIOS = f"{_INSIDE / 'plane_scenarios.py'} {_INSIDE / 'roaming_scenarios.py'}"
_MORE_MODULES = (
    "xfrm_interface", "veth", "af_packet", "nf_tables", "nft_chain_nat", "nft_nat", "nft_masq",
    "nft_ct", "nft_objref", "nf_conntrack_netlink",
)  # fmt: skip
# In an emulated machine; the more so, the busier the real one is.
_PATIENCE = 8
_DEADLINE = 600.0
# Each kind of rekey and each side that starts one, but not every pair of them; in UDP what is not
# as it is without; and streams in both directions.
_ENOUGH = (
    "not moat-ike and not portal-child and not False"
    " and not (udp and (portal-ike or orderly or replacing or (killed and udp-moat)))"
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SharedMachine]:
    with SharedMachine(tmp_path, (*MODULES, *_MORE_MODULES)) as machine:
        machine.run("/all/bin/true; ifconfig lo up")
        yield machine


@pytest.mark.timeout(_DEADLINE + 60)
def test_two_daemons_on_the_kernels_data_plane(machine: SharedMachine) -> None:
    settings = f"export HOME=/run PYTHONDONTWRITEBYTECODE=1 MOAT_TEST_PATIENCE={_PATIENCE}"
    options = (
        "-p no:cacheprovider --basetemp=/run/tmp/boxes --color=no --tb=short -rA -q --durations=0"
        f" -o timeout={_DEADLINE:.0f} -o 'pythonpath=src tests/support tests/netns'"
    )
    pytest_inside = f"{sys.executable} -m pytest {options} -k '{_ENOUGH}' {_SCENARIOS}"
    line = f"cd {ROOT} && {settings}; {pytest_inside}"
    status, output = machine.inside(line, _DEADLINE)
    print(output)
    assert status == 0
    assert re.search(r"\d+ passed", output)
