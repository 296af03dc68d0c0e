# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes what the stand-in and the type stub are made of, from the plugin of the Orthanc under test.

`python -m testing.refresh` writes testing/api/VERSION.json, then testing/stubs/orthanc.pyi of all versions that are there.
Run it on each version (ORTHANC, ORTHANC_PYTHON_PLUGIN).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from testing.server import OrthancServer
from testing.standin import api, known_versions

HERE = Path(__file__).parent
ANYTHING = ["bytes", "float", "int", "str"]  # every kind that the probe tried: a callback, most likely


def probe_plugin(server: OrthancServer) -> dict[str, Any]:
    """What `testing/probe.py`, running in `server`, sees of the plugin, with the versions of both."""
    return {
        "plugin": server.get("/plugins/python")["Version"],
        "orthanc": server.get("/system")["Version"],
        "decodes": server.request("GET", "/probe/get?a=%20z").json()["a"] == " z",
        "redirect": server.request("GET", "/probe/redirect", allow_redirects=False).status_code,
        **server.get("/probe"),
    }


def as_text(found: dict[str, Any]) -> str:
    """JSON with a line for each entry of each section, so that a difference between versions can be read."""
    sections = []
    for name, section in found.items():
        if isinstance(section, dict):
            lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in section.items())
            sections.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
        else:
            sections.append(f" {json.dumps(name)}: {json.dumps(section)}")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def stub() -> str:
    """The type stub of all known versions together: testing/stub_head.pyi, then what that does not write by hand."""
    versions = known_versions()
    head = (HERE / "stub_head.pyi").read_text()
    lines = [head]
    for name in sorted({name for version in versions for name in api(version)["enumerations"]}):
        values = {
            key: value for version in versions for key, value in api(version)["enumerations"].get(name, {}).items()
        }
        lines += [f"class {name}:", *(f"    {key}: Final[int] = {value}" for key, value in values.items()), ""]
    for name in sorted({name for version in versions for name in api(version)["classes"]}):
        if f"class {name}:" not in head:
            methods = {key: one for version in versions for key, one in api(version)["classes"].get(name, {}).items()}
            bodies = [
                f"    def {key}(self{_parameters(one, ', ')}) -> Any: ..." for key, one in sorted(methods.items())
            ]
            lines += [f"class {name}:", *(bodies or ["    ..."]), ""]
    functions = {name: one for version in versions for name, one in api(version)["functions"].items()}
    for name, one in sorted(functions.items()):
        if f"def {name}(" not in head:
            lines.append(f"def {name}({_parameters(one)}) -> Any: ...")
    return "\n".join(lines) + "\n"


def _parameters(signature: dict[str, Any], before: str = "") -> str:
    kinds = signature["types"] or [ANYTHING] * signature["arguments"]
    texts = ("Any" if each == ANYTHING else "float" if "float" in each else " | ".join(each) for each in kinds)
    named = ", ".join(f"__{number}: {text}" for number, text in enumerate(texts, 1))
    return before + named if named else ""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = OrthancServer(Path(folder), HERE / "probe.py").start()
        try:
            found = probe_plugin(server)
            server.stop()
        finally:
            server.close()
    (HERE / "api" / f"{found['plugin']}.json").write_text(as_text(found))
    api.cache_clear()
    (HERE / "stubs" / "orthanc.pyi").write_text(stub())


if __name__ == "__main__":
    main()
