# SPDX-License-Identifier: AGPL-3.0-or-later
"""Puts the text of the shared pieces into the scripts that contain them: what cog runs in their blocks (`make sync`)."""

import ast
import hashlib
from pathlib import Path

HERE = Path(__file__).parent


class ContainError(Exception):
    """A script can't contain a piece: an import is missing on top, or two things have one name."""


def emit(*pieces: str) -> None:
    """Write the pieces into the block of the file that cog works on."""
    import cog

    cog.out(block(Path(cog.inFile), pieces))


def block(script: Path, pieces: tuple[str, ...]) -> str:
    """The text of a script's block.

    Raises
    ------
    ContainError : if the script lacks an import that a piece needs, or a name is defined twice.
    """
    trees = {name: ast.parse((HERE / f"{name}.py").read_text()) for name in pieces}
    own = ast.parse(_without_block(script.read_text()))
    imported = _imports(own)
    owners = dict.fromkeys(_names(own), script.name)
    for name, tree in trees.items():
        if missing := {text for text in _imports(tree) - imported if not text.startswith("from common.")}:
            raise ContainError(
                f"{script.name} contains common/{name}.py and needs on top: {', '.join(sorted(missing))}"
            )
        if absent := {text for text in _imports(tree) if text.startswith("from common.")} - {
            text for text in _imports(tree) if text.split()[1].removeprefix("common.") in pieces
        }:
            raise ContainError(
                f"{script.name} contains common/{name}.py and must contain too: {', '.join(sorted(absent))}"
            )
        for defined in _names(tree):
            if defined in owners:
                raise ContainError(f"{defined} is defined in {owners[defined]} and in common/{name}.py")
            owners[defined] = f"common/{name}.py"
    heading = (
        "# Shared pieces, the same in several scripts. Don't edit them here: edit common/, then run `make sync`.\n"
    )
    return "# fmt: off\n" + heading + "".join(_contained(name) for name in pieces) + "# fmt: on\n"


def _contained(name: str) -> str:
    text = (HERE / f"{name}.py").read_text()
    digest = hashlib.sha256(text.encode()).hexdigest()
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree) or ""
    first = next(node for node in tree.body[1:] if not isinstance(node, ast.Import | ast.ImportFrom))
    lines = text.splitlines(keepends=True)
    start = first.lineno - 1 - (len(first.decorator_list) if isinstance(first, ast.ClassDef | ast.FunctionDef) else 0)
    while start and lines[start - 1].startswith("#"):
        start -= 1
    return f"\n# common/{name}.py, SHA-256 {digest}\n# {docstring.splitlines()[0]}\n\n{''.join(lines[start:])}"


def _without_block(text: str) -> str:
    start, _, rest = text.partition("# >>>\n")
    return start + rest.partition("# <<<end>>>")[2]


def _imports(tree: ast.Module) -> set[str]:
    """Each import of a module, a line of its own: `import os`, `from typing import Any`; also one in a `try`."""
    found = set()
    tried = (inner for node in tree.body if isinstance(node, ast.Try) for inner in node.body)
    for node in (*tree.body, *tried):
        if isinstance(node, ast.Import):
            found |= {f"import {alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"from {node.module} import {alias.name}" for alias in node.names}
    return found


def _names(tree: ast.Module) -> set[str]:
    """What a module defines: functions, classes and assigned names."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found
