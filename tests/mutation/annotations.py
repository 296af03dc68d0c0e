# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where a source has annotations, and the marks of a signature (`*`, `/`): a change there is none of what is done."""

from __future__ import annotations

import ast
from collections.abc import Iterator

Position = tuple[int, int]  # line from 1, column from 0


def annotations_of(text: str) -> list[tuple[Position, Position]]:
    """Return where they begin and end: of a signature all but the defaults, and the annotations of variables."""
    found: list[tuple[Position, Position]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += _signature_without_defaults(node)
        elif isinstance(node, ast.AnnAssign):
            found.append(_span(node.annotation))
    return found


def _signature_without_defaults(
    function: ast.FunctionDef | ast.AsyncFunctionDef,
) -> Iterator[tuple[Position, Position]]:
    first = (function.lineno, function.col_offset)
    defaults = [each for each in (*function.args.defaults, *function.args.kw_defaults) if each is not None]
    for default in sorted(map(_span, defaults)):
        yield first, default[0]
        first = default[1]
    yield first, _span(function.body[0])[0]


def _span(node: ast.expr | ast.stmt) -> tuple[Position, Position]:
    return (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)
