#!/usr/bin/python3
"""Ansible module: routes that come and go at run time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: moat_routes
short_description: Have exactly these routes
version_added: "0.1.0"
author: The Moat project
description:
  - Has exactly the routes that are listed among those of one metric in the main table, which are
    this module's own, and touches no other. Nothing is restarted, and no route is away meanwhile.
  - systemd-networkd keeps them, where its files list the same ones, and has them at the next start.
options:
  routes:
    description: The routes.
    type: list
    elements: dict
    required: true
    suboptions:
      destination:
        description: The network.
        type: str
        required: true
      device:
        description: The interface that leads there.
        type: str
        required: true
      via:
        description: The next router, at that interface; without one the network is behind it.
        type: str
  metric:
    description: The metric of these routes, which no other has.
    type: int
    default: 450
attributes:
  check_mode:
    description: Changes nothing in check mode and says what it would do.
    support: full
  diff_mode:
    description: Shows the routes before and after.
    support: full
"""

EXAMPLES = r"""
- name: Have the way to a customer who has moved to another portal
  moat_routes:
    routes:
      - destination: 10.201.7.0/24
        device: corp0
        via: 10.50.0.2
"""

RETURN = r"""
commands:
  description: What ip was told, or would be in check mode.
  returned: success
  type: list
  elements: str
"""


from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.moat_routes import batch, kernel_routes, wanted_routes

IP = "/usr/sbin/ip"


def run(module, *words, **more):
    """Return what ip says, and end the module where it refuses."""
    rc, out, err = module.run_command([IP, *words], **more)
    if rc != 0:
        module.fail_json(msg=f"ip: {' '.join((err or out).split())}", rc=rc)
    return out


def shown(routes):
    """Return routes as text for a diff."""
    lines = (f"{to} dev {device}" + (f" via {via}" if via else "") for to, device, via in routes)
    return "".join(f"{line}\n" for line in sorted(lines))


def main():
    """Run the module."""
    route = {
        "destination": {"type": "str", "required": True},
        "device": {"type": "str", "required": True},
        "via": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "routes": {"type": "list", "elements": "dict", "required": True, "options": route},
            "metric": {"type": "int", "default": 450},
        },
        supports_check_mode=True,
    )
    marks = f"proto static metric {module.params['metric']}"
    try:
        wanted = wanted_routes(module.params["routes"])
    except ValueError as error:
        module.fail_json(msg=f"routes: {error}. Give networks such as 10.201.7.0/24")
    present = set()
    for family in ("-4", "-6"):
        words = (family, "-json", "route", "show", "table", "main", *marks.split())
        present |= kernel_routes(run(module, *words))
    lines = batch(wanted, present, marks)
    if lines and not module.check_mode:
        run(module, "-batch", "-", data="".join(f"{line}\n" for line in lines))
    module.exit_json(
        changed=bool(lines),
        commands=lines,
        diff={"before": shown(present), "after": shown(wanted)},
    )


if __name__ == "__main__":
    main()
