# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pages as a site: built without a warning, read without a network; its picture is of a real Orthanc Explorer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.pictures import IMAGES, difference, take_explorer
from tests.docs.blocks import ROOT

THE_SAME_PAGE = 20.0  # with the same fonts 0.2; with lines moved by six pixels 16; an empty page 27
ENVIRONMENT = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    return subprocess.run(command, cwd=source, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT, target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return target


def test_every_page_is_in_the_site_and_in_its_menu(site: Path) -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        name = page.relative_to(ROOT)
        assert (site / ("index.html" if page.stem == "README" else name.with_suffix(".html"))).exists()
        assert f": {name}\n" in menu


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(
        r"""<(?:script|img|iframe|source)[^>]*\ssrc="?(?:https?:)?//|<link[^>]*\shref="?(?:https?:)?//[^>]*stylesheet"""
    )
    found = [page.name for page in site.rglob("*.html") if loaded.search(page.read_text())]
    assert found == []
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", style.read_text()), style


@pytest.mark.parametrize("link", ["no_such_page.md", "install.md#no-such-heading"])
def test_a_dead_link_or_anchor_stops_the_build(link: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "docs", source / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", "LICENSE", *(path.name for path in ROOT.glob("*.md"))):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "examples", source / "examples")
    page = source / "docs/choose.md"
    page.write_text(f"{page.read_text()}\n[dead]({link})\n")
    done = build(source, tmp_path / "site")
    assert done.returncode != 0
    assert link in done.stderr


def test_the_picture_shows_orthanc_explorer_with_thumbnails_as_it_is(orthanc_version: tuple[int, ...]) -> None:
    taken = take_explorer()  # waits until all thumbnails are there
    if orthanc_version[:2] == (1, 10):  # Explorer of other versions looks a little different
        assert difference((IMAGES / "explorer.png").read_bytes(), taken) < THE_SAME_PAGE
