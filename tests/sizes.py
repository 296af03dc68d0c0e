# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rooms of a size for people: `python tests/sizes.py` (`make check`) prints what is larger in src/ and testing/.

A file has at most 400 lines, a class at most 200 lines and 20 methods. What is larger must be named in CONTRIBUTING.md, with
the reason; else the exit status is 1.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_CLASS, MOST_METHODS = 400, 200, 20


def too_large(path: Path) -> Iterator[str]:
    """Yield what is too large in a file: the file itself, or classes of it."""
    name, text = path.relative_to(ROOT).as_posix(), path.read_text()
    if (lines := len(text.splitlines())) > MOST_LINES_OF_A_FILE:
        yield f"{name}: {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            methods = sum(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in node.body)
            if lines > MOST_LINES_OF_A_CLASS or methods > MOST_METHODS:
                yield f"{name}: {node.name}: {lines} lines, {methods} methods"


def main() -> int:
    """Print what is too large; return 1 if CONTRIBUTING.md does not name it."""
    reasons = (ROOT / "CONTRIBUTING.md").read_text()
    paths = sorted(path for folder in ("src", "testing") for path in (ROOT / folder).rglob("*.py"))
    found = [line for path in paths for line in too_large(path)]
    for line in found:
        known = f"`{line.split(': ')[0]}`" in reasons
        print(f"larger than a room should be: {line}{'' if known else ' (no reason in CONTRIBUTING.md)'}")
    return int(any(f"`{line.split(': ')[0]}`" not in reasons for line in found))


if __name__ == "__main__":
    sys.exit(main())
