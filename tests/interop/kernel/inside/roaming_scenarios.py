"""tests/netns/test_roaming.py on the kernel's data plane: SAs move, and go into UDP and out of it.

Run by test_kernel_plane.py in a virtual machine, for it takes a kernel with IPsec.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import test_roaming as roaming

test_changes_that_the_moat_notices = roaming.test_changes_that_the_moat_notices
test_changes_that_the_moat_does_not_notice = roaming.test_changes_that_the_moat_does_not_notice


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[roaming.Home]:
    with roaming.new_home(tmp_path_factory.mktemp("home"), "kernel") as home:
        yield home
