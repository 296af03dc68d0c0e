#!/usr/bin/env python3
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Starts Orthanc as orthancteam/orthanc does, as far as its documentation says: variables and files become /tmp/orthanc.json."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

configuration: dict[str, Any] = {}
for path in (*Path("/etc/orthanc").glob("*.json"), *Path("/run/secrets").glob("*.json")):
    text = re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], ""), path.read_text())
    configuration |= json.loads(text)
configuration |= json.loads(os.environ.get("ORTHANC_JSON", "{}"))
for name, value in os.environ.items():
    if name.startswith("ORTHANC__"):
        *above, last = ["".join(word.capitalize() for word in key.split("_")) for key in name.split("__")[1:]]
        section = configuration
        for key in above:
            section = section.setdefault(key, {})
        try:
            section[last] = json.loads(value)
        except ValueError:
            section[last] = value
defaults = {
    "StorageDirectory": "/var/lib/orthanc/db",
    "RemoteAccessAllowed": True,
    "AuthenticationEnabled": True,
    "Plugins": ["/run/orthanc/plugins", "/usr/share/orthanc/plugins"],
}
configuration = {**defaults, **configuration}
if "PythonScript" in configuration or os.environ.get("PYTHON_PLUGIN_ENABLED", "").lower() == "true":
    plugin = Path("/usr/share/orthanc/plugins-available/libOrthancPython.so")
    if plugin.exists():
        shutil.move(plugin, "/usr/share/orthanc/plugins")
if configuration["AuthenticationEnabled"] and not configuration.get("RegisteredUsers"):
    sys.exit("no user is declared")
Path("/tmp/orthanc.json").write_text(json.dumps(configuration, indent=2))  # noqa: S108
os.execvp("Orthanc", ["Orthanc", *sys.argv[1:]])
