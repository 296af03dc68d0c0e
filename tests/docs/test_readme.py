# SPDX-License-Identifier: AGPL-3.0-or-later
"""The documents keep up with the project."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_in_the_readmes_table_and_has_a_test(script: str) -> None:
    assert f"| `{script}` |" in (ROOT / "README.md").read_text()
    assert list((ROOT / "tests" / script.removesuffix(".py")).glob("test_*.py"))


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name not in ("combine.py", "event_dispatcher.py")])
def test_every_script_begins_with_its_licence_and_ends_with_its_registration(script: str) -> None:
    text = (ROOT / script).read_text()
    assert text.startswith("# SPDX-License-Identifier: AGPL-3.0-or-later\n")
    assert text.endswith("\nregister()\n")


def test_every_requirement_is_pinned_and_has_its_reason() -> None:
    reasons = (ROOT / "CONTRIBUTING.md").read_text()
    for file in [*ROOT.glob("requirements.txt"), *ROOT.glob("*/requirements.txt")]:
        for line in file.read_text().splitlines():
            if line and not line.startswith(("#", "-r")):
                name, pinned = re.fullmatch(r"([\w.-]+)(?:\[.*\])?==([\w.]+)(?: +#.*)?", line).groups()  # type: ignore[union-attr]
                assert pinned
                assert f"`{name}`" in reasons, f"{name} of {file.name} has no reason in CONTRIBUTING.md"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_links_to_exists_and_its_json_is_json(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)", text):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"
    for block in re.findall(r"```json\n(.*?)```", text, re.S):
        json.loads(block if block.lstrip().startswith(("{", "[")) else f"{{{block}}}")


def test_every_command_that_the_readme_names_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in ("README.md", "CONTRIBUTING.md"):
        for command in re.findall(r"\bmake ([a-z][a-z-]+)", (ROOT / document).read_text()):
            if command.startswith("bench-"):
                assert (ROOT / "benchmarks" / f"{command.removeprefix('bench-').replace('-', '_')}.py").exists()
            elif command not in ("one",):
                assert re.search(rf"^{command}:", makefile, re.M), f"{document} names make {command}"
