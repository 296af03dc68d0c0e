# SPDX-License-Identifier: AGPL-3.0-or-later
"""The files of the page: libraries as they were published, nothing inline, nothing from elsewhere, all of them served."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from testing.standin import StandIn
from tests.fakes import FakeOrthanc, Script

ROOT = Path(__file__).parents[3]
PAGE, VENDOR = ROOT / "src/dashboard/page", ROOT / "src/dashboard/vendor"
OWN = sorted(path for path in PAGE.rglob("*") if path.is_file())
MODULES = [path for path in OWN if path.suffix == ".js"]
MOST_LINES = 400


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_libraries_are_those_that_were_published() -> None:
    """By the hashes of the packages' files, which whoever updates a library writes down."""
    lines = [line.split() for line in (VENDOR / "SOURCES.txt").read_text().splitlines() if not line.startswith("#")]
    assert {file for *_, file in lines} == {path.name for path in VENDOR.iterdir()} - {"SOURCES.txt", "LICENSES.txt"}
    for _name, version, _inside, digest, file in lines:
        assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version)
        assert hashlib.sha256((VENDOR / file).read_bytes()).hexdigest() == digest, file


def test_each_library_comes_with_its_licence() -> None:
    text = (VENDOR / "LICENSES.txt").read_text()
    for name in ("htm 3.1.1", "Preact", "uPlot 1.6.32", "Apache License", "The MIT License (MIT)"):
        assert name in text


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    index = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|<script(?![^>]* src=)|\son[a-z]+=|\sstyle=|javascript:", index)
    assert "<base" not in index
    for address in re.findall(r'(?:src|href)="([^"]+)"', index):
        assert address.startswith(("{files}/", "dashboard/")), "it is relative: a proxy may put it anywhere"


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_code_of_the_page_writes_no_html_loads_nothing_and_keeps_nothing(module: Path) -> None:
    text = module.read_text()
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|https?://|localStorage|\.cookie|style=\$?[{\"]"
    assert not re.search(forbidden, text)
    assert len(text.splitlines()) <= MOST_LINES


def test_every_file_is_served_and_is_what_another_imports(source: Callable[[str], ModuleType]) -> None:
    files = source("dashboard.files").FILES
    served = {path.relative_to(PAGE).as_posix() for path in OWN} - {"index.html"}
    assert files.keys() == served | {f"vendor/{path.name}" for path in VENDOR.iterdir()} - {"vendor/SOURCES.txt"}
    for module in MODULES:
        for name in re.findall(r'from "([^"]+)"', module.read_text()):
            target = (module.parent / name).resolve()
            here = Path("vendor") / target.name if target.parent.name == "vendor" else target.relative_to(PAGE)
            assert here.as_posix() in files, f"{module.name} imports {name}"


@pytest.fixture
def page(start: Callable[..., Script], rest: FakeOrthanc) -> Script:
    rest.answers["GET", "/statistics"] = {"CountStudies": 0, "TotalDiskSize": "0"}
    return start("dashboard")


def test_the_page_has_a_strict_policy_and_its_files_are_kept_by_a_name_of_their_content(
    page: Script, orthanc_standin: StandIn
) -> None:
    answer = orthanc_standin.http("GET", "/dashboard")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert answer.headers["Cache-Control"] == "no-cache"
    [files] = {*re.findall(r'"(dashboard/files/[0-9a-f]{16})/', answer.text)}
    for name in ("app.js", "lib/api.js", "vendor/preact.js"):
        file = orthanc_standin.http("GET", f"/{files}/{name}")
        assert file.status == 200
        assert "immutable" in file.headers["Cache-Control"]
    assert orthanc_standin.http("GET", f"/{files}/lib/none.js").status == 404
    assert orthanc_standin.http("GET", "/dashboard/files/0123456789abcdef/app.js").status == 404


def test_no_other_site_shows_the_page_in_a_frame_and_no_file_is_taken_for_another(
    page: Script, orthanc_standin: StandIn
) -> None:
    answer = orthanc_standin.http("GET", "/dashboard")
    policy = {line.strip() for line in answer.headers["Content-Security-Policy"].split(";")}
    assert policy >= {"frame-ancestors 'self'", "base-uri 'none'", "form-action 'self'", "connect-src 'self'"}
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    [files] = {*re.findall(r'"(dashboard/files/[0-9a-f]{16})/', answer.text)}
    for each in (answer, orthanc_standin.http("GET", f"/{files}/app.js")):
        assert each.headers["X-Content-Type-Options"] == "nosniff"
