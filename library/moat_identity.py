#!/usr/bin/python3
"""Ansible module: the key pair of a box."""

from __future__ import annotations

DOCUMENTATION = r"""
module: moat_identity
short_description: Make the key pair of a moat or portal, on the box
version_added: "0.1.0"
author: The Moat project
description:
  - Makes an Ed25519 key pair where there is none, and returns the public key. The private key never
    leaves the box and is never returned.
  - A key that is there already is never overwritten.
options:
  path:
    description: The file of the private key (PEM, PKCS 8), mode 0600.
    type: path
    required: true
  owner:
    description: The user and the group that own the file.
    type: str
    default: moatvpn
  moatctl:
    description: The program moatctl on the box.
    type: path
    default: /opt/moatvpn/bin/moatctl
attributes:
  check_mode:
    description: Changes nothing in check mode and says what it would do.
    support: full
  diff_mode:
    description: Shows the public key and the owner only.
    support: full
"""

EXAMPLES = r"""
- name: Make the key pair, once
  moat_identity:
    path: /etc/moatvpn/identity.key
  register: identity
"""

RETURN = r"""
public_key:
  description: The public key, base64 of its SubjectPublicKeyInfo. Empty where check mode made none.
  returned: always
  type: str
"""

import os
import pwd

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.moatctl import Moatctl


def owner_ids(module):
    """Return the ids of the user and of the group that are to own the key; fail without them."""
    try:
        user = pwd.getpwnam(module.params["owner"])
    except KeyError:
        module.fail_json(msg=f"owner: there is no user {module.params['owner']}. Make it first")
    return user.pw_uid, user.pw_gid


def shown(public, owner):
    """Return what a diff tells of a key: nothing that is secret."""
    return f"public key: {public}\nowner: user {owner[0]}, group {owner[1]}\n"


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "owner": {"type": "str", "default": "moatvpn"},
            "moatctl": {"type": "path", "default": "/opt/moatvpn/bin/moatctl"},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    moatctl = Moatctl(module)
    there = os.path.exists(path)
    if module.check_mode and not (there and moatctl.installed):
        after = "" if there else "a new key pair\n"
        module.exit_json(changed=not there, public_key="", diff={"before": "", "after": after})
    wanted = owner_ids(module)
    action = "show" if there else "create"
    # moatctl makes the file with mode 0600, and refuses one that is open to others.
    public = moatctl.run(["identity", action, "--private-key", path])["public_key"]
    now = os.stat(path)
    owner = (now.st_uid, now.st_gid)
    if owner != wanted and not module.check_mode:
        os.chown(path, *wanted)
    module.exit_json(
        changed=not there or owner != wanted,
        public_key=public,
        diff={
            "before": shown(public, owner) if there else "",
            "after": shown(public, wanted),
        },
    )


if __name__ == "__main__":
    main()
