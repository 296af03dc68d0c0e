# SPDX-License-Identifier: AGPL-3.0-or-later
"""docs/security.md: each route has its power there, and each file that a server with all scripts makes its mode."""

from __future__ import annotations

import fnmatch
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.openapi import FILE
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp
from tests.every_script.all_scripts import combined, configuration
from tests.scripts import ROOT

PAGE = (ROOT / "docs/security.md").read_text()
OF_ORTHANC = re.compile(r"index(-wal|-shm)?|[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f-]{36}")


def rows_of(head: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the table that begins with this head."""
    table = PAGE[PAGE.index(head) :].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


POWERS = [
    (route, power) for power, routes, _ in rows_of("| Power | Routes |") for route in re.findall("`(.+?)`", routes)
]
MODES = [(name, mode) for files, mode, *_ in rows_of("| File | Mode |") for name in re.findall("`(.+?)`", files)]


def fits(route: str, pattern: str) -> bool:
    """Whether a route is one of the page's; `*` is within one part of the path."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", "[^/{}]*"), route) is not None


def test_each_route_has_one_power_on_the_page_and_the_page_names_no_other() -> None:
    paths = json.loads(FILE.read_text())["paths"]
    routes = [f"{method.upper()} {path}" for path, operations in paths.items() for method in operations]
    found = {route: {power for pattern, power in POWERS if fits(route, pattern)} for route in routes}
    assert {route: powers for route, powers in found.items() if len(powers) != 1} == {}
    assert [pattern for pattern, _ in POWERS if not any(fits(route, pattern) for route in routes)] == []


def test_what_acts_on_the_page_is_what_is_kept_from_other_sites() -> None:
    """A GET that may be answered 403 deletes, or needs `ReIdentify`; all others only read."""
    paths = json.loads(FILE.read_text())["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            route = f"{method.upper()} {path}"
            (power,) = {power for pattern, power in POWERS if fits(route, pattern)}
            if method == "get":
                assert power.startswith(
                    ("reads pseudonyms", "deletes") if "403" in operation["responses"] else "reads"
                ), route
            if method == "delete":
                assert power == "acts: stops or drops work", route


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StoreScp]:
    scp = StoreScp(tmp_path / "storescp")
    yield scp
    scp.close()


def test_each_file_that_the_scripts_make_is_on_the_page_with_its_mode(
    start_orthanc: StartOrthanc, node: StoreScp, tmp_path: Path
) -> None:
    server = start_orthanc(combined(tmp_path), configuration(node.as_modality()))
    server.store(make_study(study_date="20200101"))
    server.get("/purge-old-studies?since=20200101&format=json")
    storage = server.folder / "storage"
    wanted = {name for name, _ in MODES if "*" not in name}

    def made() -> dict[str, int]:
        files = (path for path in storage.rglob("*") if path.is_file())
        found = {str(path.relative_to(storage)): stat.S_IMODE(path.stat().st_mode) for path in files}
        return {name: mode for name, mode in found.items() if not OF_ORTHANC.fullmatch(name)}

    server.wait_until(lambda: wanted <= set(made()), what=f"make {sorted(wanted)}")
    for name, mode in made().items():
        assert f"0{mode:o}" in {said for pattern, said in MODES if fnmatch.fnmatch(name, pattern)}, name
    for name in wanted - {"audit_log.key"}:
        assert b"s" * 40 not in (storage / name).read_bytes(), f"{name} has the secret of the configuration"
    server.kill()
