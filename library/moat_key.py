#!/usr/bin/python3
"""Ansible module: another key for a box, step by step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: moat_key
short_description: Replace the private key of a moat or portal, and break no connection
version_added: "0.1.0"
author: The Moat project
description:
  - Takes a box through one step of what C(moatctl key) and C(moatctl prove) do. A step that is
    done already changes nothing. Private keys never leave the box and are never returned.
options:
  action:
    description:
      - make-next makes a key beside the one in use, switch has the box prove itself by it, finish
        removes the old one, back undoes a switch that is not finished.
      - prove shows by traffic that the connections stand on a key, and changes nothing.
    type: str
    choices: [status, make-next, switch, prove, finish, back]
    default: status
  local_key:
    description: For prove, the fingerprint of the box's own key.
    type: str
  remote_key:
    description: For prove, the fingerprint of the peer's key.
    type: str
  ping:
    description: For prove, an address behind the tunnel that answers pings.
    type: str
  despite_absent:
    description:
      - For finish, do so though peers that call this box are not here, to prove the new key to.
    type: bool
    default: false
  wait:
    description: For prove, how many seconds it may take.
    type: int
    default: 30
  private_key:
    description: The file of the private key; the next and the old one are beside it.
    type: path
    default: /etc/moatvpn/identity.key
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
    description: Changes nothing in check mode and says whether the step would.
    support: full
  diff_mode:
    description: Shows the public keys before and after.
    support: full
"""

EXAMPLES = r"""
- name: Make a key beside the one in use
  moat_key:
    action: make-next
"""

RETURN = r"""
public_key:
  description: The public key in use, base64 of its SubjectPublicKeyInfo.
  returned: when action is not prove
  type: str
next_public_key:
  description: The one that was made beside it; null where there is none.
  returned: when action is not prove
  type: str
old_public_key:
  description: The one that it has replaced; null where there is none.
  returned: when action is not prove
  type: str
proved:
  description: The names of the connections that stand on the key.
  returned: when action is prove
  type: list
  elements: str
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.moatctl import Moatctl

KEYS = ("public_key", "next_public_key", "old_public_key")


def would_change(action, keys):
    """Tell whether a step would change something on a box that has these keys."""
    next_one, old_one = (keys[name] is not None for name in KEYS[1:])
    return {
        "status": False,
        "make-next": not next_one,
        "switch": next_one or not old_one,
        "finish": old_one,
        "back": next_one or old_one,
    }[action]


def shown(keys):
    """Return one side of the diff."""
    return json.dumps({name: keys[name] for name in KEYS}, indent=2, sort_keys=True) + "\n"


def main():
    """Run the module."""
    actions = ["status", "make-next", "switch", "prove", "finish", "back"]
    module = AnsibleModule(
        argument_spec={
            "action": {"type": "str", "choices": actions, "default": "status"},
            "local_key": {"type": "str", "no_log": False},
            "remote_key": {"type": "str", "no_log": False},
            "ping": {"type": "str"},
            "despite_absent": {"type": "bool", "default": False},
            "wait": {"type": "int", "default": 30},
            "private_key": {
                "type": "path",
                "default": "/etc/moatvpn/identity.key",
                "no_log": False,  # the file's name
            },
            "control_socket": {"type": "path", "default": "/run/moatvpn/control.sock"},
            "moatctl": {"type": "path", "default": "/opt/moatvpn/bin/moatctl"},
        },
        mutually_exclusive=[("local_key", "remote_key")],
        required_if=[
            ("action", "prove", ("ping",)),
            ("action", "prove", ("local_key", "remote_key"), True),
        ],
        supports_check_mode=True,
    )
    moatctl, given = Moatctl(module), module.params
    socket = ["--socket", given["control_socket"]]
    if given["action"] == "prove":
        side = "local" if given["local_key"] else "remote"
        key = [f"--{side}-key", given[f"{side}_key"]]
        told = moatctl.run(
            ["prove", *key, "--ping", given["ping"], "--wait", str(given["wait"]), *socket]
        )
        module.exit_json(changed=False, proved=told["proved"])
    place = ["--private-key", given["private_key"], *socket]
    before = moatctl.run(["key", "status", *place])
    if module.check_mode:
        changed, after = would_change(given["action"], before), before
    else:
        absent = ["--despite-absent"] if given["despite_absent"] else []
        after = moatctl.run(["key", given["action"], *absent, *place])
        changed = after["changed"]
    module.exit_json(
        changed=changed,
        diff={"before": shown(before), "after": shown(after)},
        **{name: after[name] for name in KEYS},
    )


if __name__ == "__main__":
    main()
