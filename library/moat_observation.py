#!/usr/bin/python3
"""Ansible module: what a box tells of itself, for the fleet's observations."""

from __future__ import annotations

DOCUMENTATION = r"""
module: moat_observation
short_description: Tell what is installed and in force on a box, and how its tunnels are
version_added: "0.1.0"
author: The Moat project
description:
  - Returns in one go what C(moat-fleet observe) keeps of a box. It changes nothing, and it does not
    fail where moatd does not run, for that is an answer, too.
options:
  moatctl:
    description: The program moatctl on the box.
    type: path
    default: /opt/moatvpn/bin/moatctl
  moat_policy:
    description: The program moat-policy on the box, empty for a box that has no policies.
    type: path
    default: ""
  root:
    description: The link to the version of moatvpn that is in use.
    type: path
    default: /opt/moatvpn
attributes:
  check_mode:
    description: Runs in check mode as ever.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Look at the box
  moat_observation:
  register: box
"""

RETURN = r"""
observation:
  description:
    - C(version) of moatvpn, C(running), C(policy) and C(policy_faults) (as C(moat-policy show) has
      them; null where it was not asked), and of C(connections), by their names, what tells of
      up-time, loss and keys.
  returned: always
  type: dict
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule

KEYS = ("name", "state", "up_for", "expected_in", "lost_in", "local_key")


def said(module, *words):
    """Return the JSON object that a program answers, None where it answers none."""
    if not os.path.exists(words[0]):
        return None
    rc, out, _ = module.run_command([*words, "--json"])
    try:
        found = json.loads(out) if rc == 0 else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def version(root):
    """Return the version in use, which the link's target ends with."""
    target = os.path.basename(os.path.realpath(root))
    start = os.path.basename(root) + "-"
    return target[len(start) :] if target.startswith(start) else None


def main():
    """Run the module."""
    spec = {
        "moatctl": {"type": "path", "default": "/opt/moatvpn/bin/moatctl"},
        "moat_policy": {"type": "path", "default": ""},
        "root": {"type": "path", "default": "/opt/moatvpn"},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    status = said(module, module.params["moatctl"], "status")
    rows = (status or {}).get("connections", [])
    program = module.params["moat_policy"]
    policy = (said(module, program, "show") if program else None) or {}
    observation = {
        "version": version(module.params["root"]),
        "running": status is not None,
        "policy": policy.get("hash"),
        "policy_faults": policy.get("faults"),
        "connections": [{key: row.get(key) for key in KEYS} for row in rows],
    }
    module.exit_json(changed=False, observation=observation)


if __name__ == "__main__":
    main()
