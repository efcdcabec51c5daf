#!/usr/bin/python3
"""Ansible module: one connection of a box."""

from __future__ import annotations

DOCUMENTATION = r"""
module: moat_connection
short_description: Have one tunnel, or have it no more
version_added: "0.1.0"
author: The Moat project
description:
  - Adds, replaces or deletes one connection by its name, at run time and for every later start.
    No other connection is disturbed.
options:
  name:
    description: The name of the connection.
    type: str
    required: true
  settings:
    description: The connection's record, as moatvpn.config.ConnectionConfig describes it.
    type: dict
  state:
    description: Whether the connection is to be there.
    type: str
    choices: [present, absent]
    default: present
  directory:
    description: Where the box keeps its connections.
    type: path
    default: /etc/moatvpn/connections.d
  moatctl:
    description: The program moatctl on the box.
    type: path
    default: /opt/moatvpn/bin/moatctl
attributes:
  check_mode:
    description: Changes nothing in check mode and says what it would do.
    support: full
  diff_mode:
    description: Shows the record before and after.
    support: full
"""

EXAMPLES = r"""
- name: Have the tunnel to the portal
  moat_connection:
    name: portal1
    settings: "{{ moatvpn_connections[0] }}"

- name: Have the tunnel of a customer who left no more
  moat_connection:
    name: c0001
    state: absent
"""

RETURN = r"""
running:
  description: Whether the daemon runs and has taken the change.
  returned: when something changed
  type: bool
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.moatctl import Moatctl


def stored(path):
    """Return the record that the box has, None where there is none or it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def text(record):
    """Return a record as it is shown in a diff."""
    return "" if record is None else json.dumps(record, indent=2, sort_keys=True) + "\n"


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "settings": {"type": "dict"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "directory": {"type": "path", "default": "/etc/moatvpn/connections.d"},
            "moatctl": {"type": "path", "default": "/opt/moatvpn/bin/moatctl"},
        },
        required_if=[("state", "present", ("settings",))],
        supports_check_mode=True,
    )
    name, present = module.params["name"], module.params["state"] == "present"
    settings = module.params["settings"]
    if present and settings.get("name") != name:
        module.fail_json(msg=f"settings: name is {settings.get('name')!r}. Give {name!r}")
    directory = module.params["directory"]
    before = stored(os.path.join(directory, name + ".json"))
    after = None
    if present:
        # What the record leaves out is as before: the box writes its defaults in full.
        same = before is not None and all(before.get(key) == settings[key] for key in settings)
        after = before if same else settings
    result = {"changed": before != after, "diff": {"before": text(before), "after": text(after)}}
    if result["changed"] and not module.check_mode:
        where = ["--connections", directory]
        if present:
            answer = Moatctl(module).run(["replace", "-", *where], data=json.dumps(settings))
        else:
            answer = Moatctl(module).run(["delete", name, *where])
        result["running"] = answer.get("running", True)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
