# SPDX-License-Identifier: AGPL-3.0-or-later
"""The fenced blocks of README.md and docs/: what each is, and whether an answer has the shape that a page shows."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = next(folder for folder in Path(__file__).parents if (folder / "combine.py").exists())
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))]
FENCE = re.compile(
    r"^(?:(?P<lead> *)<!-- (?P<marker>[^\n]+?) -->\n)?(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
WORD = re.compile(r"[A-Za-z-]{1,20}")
VARYING = re.compile(r"[0-9a-f]{8,}(-[0-9a-f]{8})*-?|\d[\d.:TZ-]*")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the marker in the comment before it ("" if there is none)."""

    page: str
    line: int
    language: str
    marker: str
    text: str
    span: tuple[int, int]

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def kind(self) -> str:
        """Return what it is; an empty text if it is nothing that is run, compared, or marked with a reason."""
        if self.marker.startswith(("fragment: ", "shown: ")):
            return "shown"
        if self.marker.startswith("file: "):
            return "file"
        if self.marker.startswith("run ") or self.marker.startswith("awkward node"):
            return "run by a test of its own"
        if self.marker == "answer":
            return "answer"
        if self.marker.startswith("logged by ") or self.marker == "in the log":
            return "log"
        if self.marker.startswith("status ") and self.language == "sh":
            return "command"
        if self.marker == "" or self.marker.startswith(("part of ", "idle ")):
            return {"json": "configuration", "sh": "command"}.get(self.language, "")
        return ""


def blocks_of(page: str) -> list[Block]:
    """Return all fenced blocks of a page, in their order."""
    text = (ROOT / page).read_text()
    return [
        Block(
            page,
            text.count("\n", 0, found.start("indent")) + 1,
            found["language"],
            found["marker"] or "",
            textwrap.dedent(found["text"]),
            found.span("text"),
        )
        for found in FENCE.finditer(text)
    ]


def configuration_of(block: Block) -> dict[str, Any]:
    """Return the configuration that a block shows: a whole object, or a part of one, alone or within a section."""
    text = block.text if block.text.lstrip().startswith("{") else f"{{{block.text}}}"
    shown: dict[str, Any] = json.loads(text)
    return {block.marker.removeprefix("part of "): shown} if block.marker.startswith("part of ") else shown


# Answers


def differences(shown: str, real: str) -> list[str]:
    """Return where a real answer has not the shape of the one that a page shows."""
    try:
        expected = json.loads(shown)
    except ValueError:
        return list(_differing_lines(shown.splitlines(), real.splitlines()))
    try:
        return list(_differing(expected, json.loads(real), "answer"))
    except ValueError:
        return [f"no JSON is answered: {real[:500]}"]


def _differing(shown: Any, real: Any, at: str) -> Iterator[str]:
    """Compare two values of JSON: the same keys and types, and the same words.

    Null stands for any value; a key `…` says that an object has more than is shown.
    """
    if shown is None or real is None:
        return
    if isinstance(shown, dict) and isinstance(real, dict):
        for key in shown.keys() - real.keys() - {"…"}:
            yield f"{at}.{key} is shown, not answered"
        for key in real.keys() - shown.keys() if "…" not in shown else ():
            yield f"{at}.{key} is answered, not shown"
        for key in shown.keys() & real.keys():
            yield from _differing(shown[key], real[key], f"{at}.{key}")
    elif isinstance(shown, list) and isinstance(real, list):
        if bool(shown) != bool(real):
            yield f"{at} has {len(shown)} items, {len(real)} are answered"
        for number, item in enumerate(shown):
            found = [list(_differing(item, other, f"{at}[{number}]")) for other in real]
            if found and all(found):
                yield from min(found, key=len)
    elif _type(shown) != _type(real) or _is_another_word(shown, real):
        yield f"{at} is {shown!r}, answered is {real!r}"


def _is_another_word(shown: Any, real: Any) -> bool:
    """Return whether both are single words, as names of states are, and different ones."""
    texts = isinstance(shown, str) and isinstance(real, str)
    return texts and shown != real and all(WORD.fullmatch(each) for each in (shown, real))


def _type(value: Any) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def _differing_lines(shown: list[str], real: list[str]) -> Iterator[str]:
    """Compare lines of text: all but numbers, times and identifiers; `…` stands for any text, a line of it for any lines."""
    pattern = "\n".join(r"(?s:.*)" if line.strip() == "…" else _pattern(line) for line in shown)
    text = "\n".join(line.rstrip() for line in real)
    if not re.fullmatch(pattern, VARYING.sub("0", text)):
        yield f"shown is\n{chr(10).join(shown)}\nanswered is\n{text[:3000]}"


def _pattern(line: str) -> str:
    return ".*".join(re.escape(VARYING.sub("0", part)) for part in line.rstrip().split("…"))


def formatted(value: Any, indent: int = 0, width: int = 116) -> str:
    """Return JSON as pages show it: each object and list on one line if there is room."""
    short = json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict) and value:
        short = f"{{ {short[1:-1]} }}"
    if indent + len(short) <= width or not isinstance(value, (dict, list)) or not value:
        return short
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        rows = [f"{json.dumps(key)}: {formatted(each, indent + 2, width)}" for key, each in value.items()]
    else:
        rows = [formatted(each, indent + 2, width) for each in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}{f',{chr(10)}{inner}'.join(rows)}\n{' ' * indent}{closing}"


def line_pattern(line: str) -> str:
    """Return a pattern of one line of a log; `…` stands for any text."""
    return ".*".join(re.escape(part) for part in line.rstrip().split("…"))
