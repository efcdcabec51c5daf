#!/usr/bin/python3
"""Ansible module: how the tunnels of a box are doing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: moat_tunnel_info
short_description: Tell how the tunnels of a box are doing
version_added: "0.1.0"
author: The Moat project
description:
  - Returns what C(moatctl status) shows. It changes nothing.
options:
  moatctl:
    description: The program moatctl on the box.
    type: path
    default: /opt/moatvpn/bin/moatctl
attributes:
  check_mode:
    description: Runs in check mode as ever.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Look at the tunnels
  moat_tunnel_info:
  register: tunnels
"""

RETURN = r"""
status:
  description: The answer of C(moatctl status --json), connections and drop counters among it.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.moatctl import Moatctl


def main():
    """Run the module."""
    spec = {"moatctl": {"type": "path", "default": "/opt/moatvpn/bin/moatctl"}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    module.exit_json(changed=False, status=Moatctl(module).run(["status"]))


if __name__ == "__main__":
    main()
