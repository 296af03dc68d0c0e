# SPDX-License-Identifier: AGPL-3.0-or-later
"""Looks into a combined file: lists, verifies, extracts."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from combine.runtime.files import unpack
from combine.sources import MARK, CombineError, read, walk


def open_combined(path: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Read what a combined file holds, without running it: its entries, and its files by their names there."""
    text = read(path).decode("utf-8", "replace").replace("\r\n", "\n")
    if not text.startswith(MARK):
        raise CombineError(f"{path} was not made by combine.py")
    try:
        found = [node for node in ast.parse(text).body if getattr(getattr(node, "target", 0), "id", "") == "SCRIPTS"]
        entries: list[dict[str, Any]] = ast.literal_eval(found[0].value)  # type: ignore[attr-defined]
        contents = unpack(text)
        files = {name: contents[digest] for entry in entries for name, digest in entry["files"].items()}
    except (SyntaxError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CombineError(f"{path} is damaged: {error}") from None
    if unsafe := [name for name in files if {"..", ""} & set(name.split("/")) or "\\" in name or ":" in name]:
        raise CombineError(f"{path} holds a file that would leave the folder: {unsafe[0]}")
    return entries, files


def show(path: Path) -> int:
    for entry in open_combined(path)[0]:
        print(f"{entry['file']:<30} {entry['version'] or '-':<9} {entry['sha256']}")
        for name, digest in entry["files"].items():
            if name != entry["file"]:
                print(f"    {name:<36} {digest}")
    return 0


def extract(path: Path, folder: Path) -> int:
    files = open_combined(path)[1]
    for name, data in files.items():
        if (folder / name).exists() and read(folder / name) != data:
            raise CombineError(f"{folder / name} is there with other content: it is left as it is")
    try:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    except OSError as error:
        raise CombineError(f"{folder} can't be written: {error.strerror}") from None
    return 0


def verify(path: Path, places: Sequence[Path]) -> int:
    """Compare with the scripts as they are: those named, else those beside the file, here, or beside combine.py."""
    entries, files = open_combined(path)
    roots = [path.resolve().parent, path.resolve().parent.parent, Path.cwd(), Path(__file__).resolve().parent]
    changes = []
    for entry in entries:
        own = {name.removeprefix(entry["folder"]): files[name] for name in entry["files"]}
        name = entry["file"].removeprefix(entry["folder"])
        candidates = [p for p in places if p.resolve().name == name] + [root / name for root in (*places, *roots)]
        found = [differences(candidate, own) for candidate in candidates if candidate.exists()]
        if not found:
            changes.append(f"{name}: not found; name it: --verify {path} PATH/{name}")
        elif [] not in found:
            changes += found[0]
    print("\n".join(changes) or "unchanged")
    return 1 if changes else 0


def differences(script: Path, files: dict[str, bytes]) -> list[str]:
    """Say which files of a script are not as they were; `files` by their names beside it."""
    base = script.resolve().parent
    now = {name: path for name in files for path in (base / name, script / name) if path.is_file()}
    new = (
        [f"{script.resolve().name}/{p.relative_to(script).as_posix()}" for p in walk(script)] if script.is_dir() else []
    )
    return (
        [f"{name}: changed" for name, path in now.items() if read(path) != files[name]]
        + [f"{name}: gone" for name in files if name not in now]
        + [f"{name}: new" for name in new if name not in files]
    )
