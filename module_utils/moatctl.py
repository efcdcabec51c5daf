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
        if not self.installed:
            remedy = "Install moatvpn on the box first (role moatvpn)"
            self._module.fail_json(msg=f"{self._program}: is not there. {remedy}")
        command = [self._program, *arguments, "--json"]
        rc, out, err = self._module.run_command(command, data=data)
        if rc != 0:
            reason = (err or out).strip()
            unsaid = f"{self._program}: ended with {rc}. Run it by hand on the box"
            self._module.fail_json(msg=reason or unsaid, rc=rc)
        try:
            return json.loads(out)
        except ValueError:
            remedy = "Install moatvpn anew (role moatvpn)"
            self._module.fail_json(msg=f"{self._program}: gave no JSON. {remedy}")
