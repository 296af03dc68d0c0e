# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes the combined file."""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import io
import os
import pprint
import re
import shlex
import tokenize
from pathlib import Path
from typing import Any

from combine.runtime.files import NEWLINES
from combine.runtime.runtime import run
from combine.sources import MARK, CombineError, Source, module_name
from combine.texts import assigned, constant, imported_values
from common.version import __version__

HELP = """if __name__ == "__main__":  # started in a terminal: Orthanc loads it under its own name
    print(__doc__.rstrip())
    sys.exit(0 if sys.argv[1:] in ([], ["-h"], ["--help"]) else 2)
"""


def pack(data: bytes, name: str) -> str:
    """Write a file as comment lines, readable where its bytes come back exactly, else in base64."""
    digest = hashlib.sha256(data).hexdigest()
    for newline, mark in NEWLINES.items():
        lines, form = decode(data, name, mark)
        if lines is not None:
            return f"#= {digest} {form} {newline} {name}\n" + "".join(
                f"#| {line}\n" if line else "#|\n" for line in lines
            )
    text = base64.encodebytes(data).decode().rstrip("\n").replace("\n", "\n#| ")
    return f"#= {digest} base64 lf {name}\n#| {text}\n"


def decode(data: bytes, name: str, newline: str) -> tuple[list[str] | None, str]:
    """Read a file as lines in the encoding that it declares; None where that would not give its bytes back."""
    try:
        form, _ = tokenize.detect_encoding(io.BytesIO(data).readline) if name.endswith(".py") else ("utf-8", [])
        lines = data.decode(form).split(newline)
        exact = newline.join(lines).encode(form) == data
    except (SyntaxError, UnicodeError, LookupError):
        return None, "base64"
    return (lines if exact and not re.search("[\r\n\0]", "".join(lines)) else None), form


def version_of(source: Source) -> str | None:
    """Return the version of a script: its own `__version__`, or the one that it imports from a file of its package."""
    imported = {name: values[0] for name, values in imported_values(source.main, source.trees).items()}
    node = (imported | assigned(source.trees[source.main])).get("__version__")
    return constant(node, {}) if node else None


def digest_of(source: Source) -> str:
    """Hash a script: of a file its bytes, of a package the list of its files' hashes and names."""
    if not source.package:
        return hashlib.sha256(source.files[source.main]).hexdigest()
    own = sorted(name for name in source.files if name.startswith(f"{source.name}/"))
    listing = "".join(f"{hashlib.sha256(source.files[name]).hexdigest()}  {name}\n" for name in own)
    return hashlib.sha256(listing.encode()).hexdigest()


def entry(source: Source) -> dict[str, Any]:
    """Describe a source as the runtime's Script takes it."""
    modules = {}
    for name in source.trees:
        parts = module_name(name).removesuffix("/__init__").split("/")
        parts[0] = source.module if parts[0] == source.name else source.aliases.get(parts[0], parts[0])
        modules[".".join(parts)] = source.folder + name
    return {
        "module": source.module,
        "file": source.folder + source.main.removesuffix("/__init__.py"),
        "folder": source.folder,
        "version": version_of(source),
        "sha256": digest_of(source),
        "aliases": dict(sorted(source.aliases.items())),
        "modules": modules,
        "files": {source.folder + name: hashlib.sha256(data).hexdigest() for name, data in source.files.items()},
    }


def docstring(sources: list[Source]) -> str:
    """Write the docstring of a combined file, which `python3 combined.py --help` prints."""
    lines = [f"Several scripts for Orthanc in one, made by combine.py {__version__}:", ""]
    for source in sources:
        about = (ast.get_docstring(source.trees[source.main]) or "").partition("\n")[0]
        lines.append(f"    {source.main.removesuffix('/__init__.py')} {version_of(source) or ''}".rstrip())
        lines += [f"        {about}"] if about else []
    lines += ["", 'Name this file in Orthanc\'s configuration: "PythonScript": "/path/to/this/file".']
    return "\n".join(["(", *(f"    {text!a}" for text in (f"{line}\n" for line in lines)), ")"])


def runtime_text() -> str:
    """Cut the runtime out of this very file, which `make build` made, with the imports that it uses."""
    text = Path(__file__).read_text("utf-8")
    sections = re.split(r"^# ---- (?=src/)", text, flags=re.MULTILINE)[1:]
    chosen = [section for section in sections if section.startswith("src/combine/runtime/")]
    runtime = "".join(f"# ---- {section.rstrip()}\n\n\n" for section in chosen)
    used = {node.id for node in ast.walk(ast.parse(runtime)) if isinstance(node, ast.Name)}
    imports = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import) and node.names[0].name.partition(".")[0] in used:
            imports.append(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names = [alias.name for alias in node.names if alias.name in used]
            imports += [f"from {node.module} import {', '.join(names)}"] if names else []
    return "\n".join(["from __future__ import annotations", "", *imports, "", "", runtime.rstrip(), ""])


def render(sources: list[Source], options: argparse.Namespace) -> str:
    entries = [entry(source) for source in sources]
    flags = [f"--{name.replace('_', '-')}" for name in ("no_bundle", "allow_conflict") if getattr(options, name)]
    words = [source.path.resolve().name for source in sources] + flags
    blocks: dict[str, str] = {}
    for source in sources:
        for name, data in source.files.items():
            blocks.setdefault(hashlib.sha256(data).hexdigest(), pack(data, source.folder + name))
    table = [f"#   {e['file']:<28} {e['version'] or '-':<9} {e['sha256']}" for e in entries]
    return "\n".join(
        [
            f"{MARK} {__version__}; don't edit: change the scripts and combine again.",
            f"#     python3 combine.py {shlex.join(words)} -o FILE",
            "# It holds these scripts, unchanged, at its end (python3 combine.py --extract FILE FOLDER gives them back):",
            "#",
            "#   script                       version   SHA-256",
            *table,
            "#",
            "# Each script keeps its own licence; the rest is AGPL-3.0-or-later.",
            docstring(sources),
            runtime_text(),
            "",
            HELP,
            "SCRIPTS: list[dict[str, Any]] = " + pprint.pformat(entries, width=110, sort_dicts=False),
            "",
            f"RUNTIME = {run.__name__}(__name__, __file__, SCRIPTS, allow_conflict={options.allow_conflict})",
            "",
            *blocks.values(),
        ]
    )


def write(path: Path, text: str) -> None:
    """Write all or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CombineError(f"{path} can't be written: {error.strerror}") from None
