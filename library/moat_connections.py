#!/usr/bin/python3
"""Ansible module: all connections of a box."""

from __future__ import annotations

DOCUMENTATION = r"""
module: moat_connections
short_description: Have exactly these tunnels
version_added: "0.1.0"
author: The Moat project
description:
  - Has exactly the connections that are listed, at run time and for every later start, with one
    call however many there are. A connection that is as it is to be is not disturbed.
  - A record that is wrong changes nothing. Where the daemon refuses one, what was done before
    stays, and the next run does the rest.
options:
  connections:
    description:
      - The connections' records, as moatvpn.config.ConnectionConfig describes them. What a record
        leaves out has its default.
      - Either this or O(signed) is required.
    type: list
    elements: dict
  signed:
    description:
      - A peer set that the operator has signed, as C(moat-fleet peers sign) writes it. The box
        verifies it, and takes none that is older than what it has.
    type: dict
  digest:
    description:
      - Of the records that O(signed) is to have (the filter moat_peers_digest); a set that says
        otherwise is refused. Without it, any is taken that verifies.
    type: str
  besides:
    description: Records with what the signature does not cover, the PPK of connections.
    type: list
    elements: dict
    default: []
  config:
    description: The daemon's settings, which say whose signatures count.
    type: path
    default: /etc/moatvpn/moatd.json
  reread:
    description:
      - Names of connections whose files (secrets, CAs) the daemon is to read again, though their
        records are as they are. It does so by itself when it starts, or a record changes.
    type: list
    elements: str
    default: []
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
    description: Shows the records that differ, before and after; of more than a hundred the names.
    support: full
"""

EXAMPLES = r"""
- name: Have exactly the connections of the database
  moat_connections:
    connections: "{{ moatvpn_connections }}"

- name: Have exactly the connections that the operator has signed
  moat_connections:
    signed: "{{ lookup('ansible.builtin.file', 'portal1.example.net.peers') | from_json }}"
"""

RETURN = r"""
added:
  description: The names of the connections that were not there.
  returned: success
  type: list
  elements: str
replaced:
  description: The names of those that were otherwise.
  returned: success
  type: list
  elements: str
deleted:
  description: The names of those that are no more.
  returned: success
  type: list
  elements: str
revoked:
  description: The names of those that had a key that was revoked here; they are without it.
  returned: success, not in check mode of a fresh box
  type: list
  elements: str
serial:
  description: The serial number of the signed set.
  returned: where O(signed) is given, not in check mode of a fresh box
  type: int
running:
  description: Whether the daemon runs and has taken the changes; else it does when it starts.
  returned: when something changed or was read again, not in check mode
  type: bool
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.moatctl import Moatctl

RESULTS = ("changed", "added", "replaced", "deleted", "revoked")


def shown(result, records, names):
    """Return one side of the diff: the records, or of too many the names alone."""
    found = result[records] or sorted(name for each in names for name in result[each])
    return json.dumps(found, indent=2, sort_keys=True) + "\n" if found else ""


def signing(module):
    """Return moatctl's words for a set that is signed."""
    return ["--signed", "--config", module.params["config"]] if module.params["signed"] else []


def given(module):
    """Return what moatctl reads."""
    names = ("signed", "digest", "besides") if module.params["signed"] else ("connections",)
    return {name: module.params[name] for name in (*names, "reread")}


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "connections": {"type": "list", "elements": "dict"},
            "signed": {"type": "dict"},
            "digest": {"type": "str"},
            "besides": {"type": "list", "elements": "dict", "default": []},
            "config": {"type": "path", "default": "/etc/moatvpn/moatd.json"},
            "reread": {"type": "list", "elements": "str", "default": []},
            "directory": {"type": "path", "default": "/etc/moatvpn/connections.d"},
            "control_socket": {"type": "path", "default": "/run/moatvpn/control.sock"},
            "moatctl": {"type": "path", "default": "/opt/moatvpn/bin/moatctl"},
        },
        supports_check_mode=True,
        required_one_of=[("connections", "signed")],
        mutually_exclusive=[("connections", "signed")],
    )
    moatctl = Moatctl(module)
    connections = module.params["connections"] or []
    if module.check_mode and not moatctl.installed:
        # A fresh box: it has none, and no program that could tell what they will be in full.
        names = [str(each.get("name")) for each in connections]
        module.exit_json(
            changed=bool(names) or module.params["signed"] is not None,
            added=names,
            replaced=[],
            deleted=[],
            diff={"before": "", "after": json.dumps(connections, indent=2, sort_keys=True) + "\n"},
        )
    places = ["--connections", module.params["directory"]]
    places += ["--socket", module.params["control_socket"]]
    dry = ["--dry-run"] if module.check_mode else []
    told = moatctl.run(
        ["set", "-", *dry, *places, *signing(module)], data=json.dumps(given(module))
    )
    result = {name: told[name] for name in (*RESULTS, "serial") if name in told}
    if told["running"] is not None:
        result["running"] = told["running"]
    result["diff"] = {
        "before": shown(told, "before", ("deleted", "replaced")),
        "after": shown(told, "after", ("replaced", "added")),
    }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
