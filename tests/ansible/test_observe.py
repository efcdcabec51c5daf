"""moat-fleet observe, with the real playbook, on boxes that have no moatvpn."""

from __future__ import annotations

import json
import sys

from ansible_bench import ROOT, Run


def test_boxes_are_asked_and_what_they_say_is_kept(lab: Run) -> None:
    done = lab(
        "moat-fleet",
        "observe",
        "--json",
        "--playbook",
        str(ROOT / "playbooks" / "observe.yml"),
        ANSIBLE_LIBRARY=str(ROOT / "library"),
        ANSIBLE_MODULE_UTILS=str(ROOT / "module_utils"),
        ANSIBLE_TRANSPORT="local",
        ANSIBLE_PYTHON_INTERPRETER=sys.executable,
        ANSIBLE_INVENTORY="inventory/moat.yml",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["refused"] == {}
    assert figures["asked"] == figures["answered"] == figures["heard_of"] > 1
