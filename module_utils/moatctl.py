"""How the modules speak to a box's moatctl: one call, one JSON object, one kind of failure."""

from __future__ import annotations

import json
import os


class Moatctl:
    """Runs moatctl for an AnsibleModule."""

    def __init__(self, module):
        self._module = module
        self._program = module.params["moatctl"]

    @property
    def installed(self):
        """Tell whether the box has moatctl yet."""
        return os.path.exists(self._program)

    def run(self, arguments, data=None):
        """Return the JSON object that moatctl answers, and end the module where it refuses."""
        command = [self._program, *arguments, "--json"]
        rc, out, err = self._module.run_command(command, data=data)
        if rc != 0:
            reason = (err or out).strip()
            self._module.fail_json(msg=reason or f"{command[0]} ended with {rc}", rc=rc)
        return json.loads(out)
