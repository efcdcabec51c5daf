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
    description:
      - The connection's record, as moatvpn.config.ConnectionConfig describes it. Needed where
        O(state=present). What it leaves out has its default.
    type: dict
  state:
    description: Whether the connection is to be there.
    type: str
    choices: [present, absent]
    default: present
  reread:
    description:
      - Whether the daemon is to read the files again that the settings name (secrets, CAs), though
        the settings are as they are. It does so by itself when it starts, or the settings change.
    type: bool
    default: false
  directory:
    description: Where the box keeps its connections.
    type: path
    default: /etc/moatvpn/connections.d
  control_socket:
    description: Where the daemon listens to moatctl; a further VPN's has another one.
    type: path
    default: /run/moatvpn/control.sock
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
  description: Whether the daemon runs and has taken the change; else it does when it starts.
  returned: when something changed or was read again, not in check mode
  type: bool
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.moatctl import Moatctl


def stored(path):
    """Return what the box has in its file of the connection, None where there is no file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None


def parsed(content):
    """Return the record in a file's content, None where there is none to be read."""
    try:
        return json.loads(content or "")
    except ValueError:
        return None


def shown(record):
    """Return a record as it is shown in a diff."""
    return json.dumps(record, indent=2, sort_keys=True) + "\n"


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "settings": {"type": "dict"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "reread": {"type": "bool", "default": False},
            "directory": {"type": "path", "default": "/etc/moatvpn/connections.d"},
            "control_socket": {"type": "path", "default": "/run/moatvpn/control.sock"},
            "moatctl": {"type": "path", "default": "/opt/moatvpn/bin/moatctl"},
        },
        required_if=[("state", "present", ("settings",))],
        supports_check_mode=True,
    )
    name, settings = module.params["name"], module.params["settings"]
    directory = module.params["directory"]
    moatctl = Moatctl(module)
    if name.startswith(".") or os.path.basename(name) != name:
        module.fail_json(msg=f"name: {name!r} leads elsewhere. Give a connection's name")
    content = stored(os.path.join(directory, name + ".json"))
    before = parsed(content)
    result = {"diff": {"before": shown(before) if before is not None else content or ""}}
    if module.params["state"] == "absent":
        result["changed"] = content is not None
        result["diff"]["after"] = ""
        command, data = ["delete", name], None
    else:
        if settings.get("name") != name:
            module.fail_json(msg=f"settings: name is {settings.get('name')!r}. Give {name!r}")
        command, data = ["replace", "-"], json.dumps(settings)
        after = settings
        # The box writes the defaults out: only with them can the two be compared. A fresh box in
        # check mode has no moatctl yet.
        if before != settings and (moatctl.installed or not module.check_mode):
            after = moatctl.run(["check", "-"], data=data)["connection"]
        result["changed"] = before != after
        result["diff"]["after"] = shown(after)
    reread = module.params["reread"] and module.params["state"] == "present"
    if (result["changed"] or reread) and not module.check_mode:
        places = ["--connections", directory, "--socket", module.params["control_socket"]]
        told = moatctl.run([*command, *places], data=data)
        result["running"] = told["running"]
        result["changed"] = result["changed"] or told["changed"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
