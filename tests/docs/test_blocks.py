# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every block of README.md and docs/ is run: configurations start Orthanc, commands succeed, answers have the shape shown.

A block that a test of its own runs, or that nothing can run, has a marker that says so: CONTRIBUTING.md has the table.
`WRITE_ANSWERS=1` (`make docs-answers`) writes what is really answered into the pages.
"""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import pytest

from testing.pytest_plugin import StartOrthanc, StoreScp
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of, differences, formatted
from tests.docs.reader import Reader
from tests.docs.scenes import SCENES, Scene

RUN_HERE = {"configuration", "command", "answer", "log"}
# Commands that a test of its own runs: a text of the block, and the file of the test, wherever it lies in tests/.
ELSEWHERE = {
    "make demo": "test_demo.py",
    "docker run": "test_first_contact.py",
    "docker build": "test_containers.py",
    "pip install ../orthanc-scripts/testing": "testing/test_install.py",
    "python -m pytest": "testing/test_install.py",
}
# Pages of which a test of its own runs all blocks.
PAGES_ELSEWHERE = {"docs/elsewhere.md": "test_elsewhere.py"}
TESTS = {path: path.read_text() for path in (ROOT / "tests").rglob("*.py")}


def elsewhere(block: Block) -> str:
    """Return the file of the test that runs a block, if one of its own does."""
    commands = next((test for text, test in ELSEWHERE.items() if block.language == "sh" and text in block.text), "")
    return PAGES_ELSEWHERE.get(block.page, commands)


@pytest.mark.parametrize("page", PAGES)
def test_each_block_is_run_or_says_why_not(page: str) -> None:
    for block in blocks_of(page):
        said = f"{block.place}: neither run, nor compared, nor marked ({block.language!r}, {block.marker!r})"
        assert block.kind or elsewhere(block), said
        if block.kind == "run by a test of its own":
            what = block.marker.removeprefix("run ")
            assert any(f'"{what}"' in text or f"{what} -->" in text for text in TESTS.values()), (
                f"{block.place}: no test"
            )
        elif block.kind == "file":
            name = block.marker.removeprefix("file: ")
            later = [other for other in blocks_of(page) if other.line > block.line and name in other.text]
            assert later or any(name in text for text in TESTS.values()), f"{block.place}: nothing uses {name}"
        elif block.kind == "shown":
            for test in re.findall(r"test_\w+\.py", block.marker):
                assert list((ROOT / "tests").rglob(test)), f"{block.place}: there is no {test}"
        elif test := elsewhere(block):
            assert list((ROOT / "tests").rglob(test)), f"{block.place}: there is no {test}"
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "json" and block.kind != "answer":
            json.loads(block.text if block.text.startswith(("{", "[")) else f"{{{block.text}}}")


def test_a_page_has_as_many_blocks_as_fences() -> None:
    for page in PAGES:
        fences = [line for line in (ROOT / page).read_text().splitlines() if line.lstrip().startswith("```")]
        assert len(fences) == 2 * len(blocks_of(page)), (
            f"{page} has a fence that is not closed, or is indented otherwise"
        )


def readable() -> list[str]:
    return [page for page in PAGES if any(_is_run_here(block) for block in blocks_of(page))]


def _is_run_here(block: Block) -> bool:
    return block.kind in RUN_HERE and not elsewhere(block)


@pytest.mark.parametrize("page", readable())
def test_a_reader_can_do_what_the_page_says(
    page: str, start_briefly: StartOrthanc, storescp: StoreScp, tmp_path: Path
) -> None:
    reader = Reader(SCENES.get(page, Scene()), start_briefly, storescp, tmp_path)
    written: dict[Block, str] = {}
    for block in blocks_of(page):
        if block.kind == "file":
            reader.write(block)
        elif not _is_run_here(block):
            continue
        elif block.kind == "log":
            reader.find_in_log(block)
        elif block.kind == "configuration":
            reader.configure(block)
        elif block.kind == "command":
            reader.run(block)
        else:
            said, found = reader.answer_of(block)
            if found and os.environ.get("WRITE_ANSWERS"):
                written[block] = said
            else:
                assert not found, f"{block.place}: {found}\nanswered is {said[:3000]}"
    write(page, written)


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        ('{"State": "running"}', '{"State": "idle"}'),  # another word
        ('{"State": "running"}', '{"State": "running", "Reason": null}'),  # a key more
        ('{"State": "running", "Reason": null}', '{"State": "running"}'),  # a key less
        ('{"Total": 1}', '{"Total": "1"}'),  # another type
        ('[{"ID": 1}]', "[]"),
        ('[{"ID": 1}]', '[{"ID": "1"}, {"Id": 1}]'),
        ('{"State": "running"}', "<html>"),
        ("3 studies since the start", "3 series since the start"),
        ("Studies: 3\n…", "Series: 3\nYears: 2"),
    ],
)
def test_an_answer_of_another_shape_is_noticed(shown: str, real: str) -> None:
    assert differences(shown, real)


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        ('{"ID": 1, "Error": null}', '{"ID": 2.5, "Error": "it is away"}'),
        ('{"ID": 1, "…": "…"}', '{"ID": 2, "More": []}'),
        ('[{"ID": 1}]', '[{"Name": "x"}, {"ID": 7}]'),
        ("3 studies since the start", "12 studies since the start"),
        (
            "Studies: 3\n…\nLast: ID 8eff71ba-…, done",
            "Studies: 4\nYears: 1\nX\nLast: ID 484d917a-ad6b1bdd-66a3007b, done",
        ),
    ],
)
def test_an_answer_of_the_same_shape_may_have_other_values(shown: str, real: str) -> None:
    assert differences(shown, real) == []


def write(page: str, answers: dict[Block, str]) -> None:
    """Write answers into a page, from its end."""
    text = (ROOT / page).read_text()
    for block, said in sorted(answers.items(), key=lambda item: -item[0].span[0]):
        start, end = block.span
        shown = formatted(json.loads(said)) if said.lstrip().startswith(("{", "[")) else said.rstrip()
        text = f"{text[:start]}{shown}\n{text[end:]}"
    if answers:
        (ROOT / page).write_text(text)
