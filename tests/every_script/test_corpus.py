# SPDX-License-Identifier: AGPL-3.0-or-later
"""Real files, as they are, through the scripts that read images: none of them is answered with a failure of the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.combine.helpers import combined
from tests.corpus import corpus_files

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / f"{name}.py" for name in ("series_thumbnail", "instance_dump", "series_private_tags")]
PRIVATE_TAGS = {"SeriesMainPrivateDicomTags": ["!!0029,1010:SIEMENS CSA HEADER", "0019,100c:SIEMENS MR HEADER"]}


@pytest.fixture(scope="module")
def corpus(start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory) -> OrthancServer:
    """All real files that Orthanc takes; nothing becomes stable."""
    script = combined(*SCRIPTS, to=tmp_path_factory.mktemp("corpus") / "all.py")
    server = start_orthanc_for_module(script, {"StableAge": 3600, **PRIVATE_TAGS})
    for _, path in corpus_files():
        server.request("POST", "/instances", data=path.read_bytes())
    return server


def statuses(server: OrthancServer, paths: list[str]) -> dict[str, int]:
    """Return what is answered to each path, where that is a failure of the server."""
    answers = {path: server.request("GET", path).status_code for path in paths}
    assert 200 in answers.values(), answers  # the routes are there
    return {path: status for path, status in answers.items() if status >= 500}


def test_orthanc_takes_most_of_the_corpus(corpus: OrthancServer) -> None:
    stored = len(corpus.get("/instances"))
    assert stored >= 150, stored


@pytest.mark.parametrize("level", ["instances", "series", "studies"])
def test_no_thumbnail_of_a_real_file_is_a_failure_of_the_server(corpus: OrthancServer, level: str) -> None:
    assert statuses(corpus, [f"/{level}/{one}/thumbnail" for one in corpus.get(f"/{level}")]) == {}


def test_no_dump_of_a_real_file_is_a_failure_of_the_server(corpus: OrthancServer) -> None:
    assert statuses(corpus, [f"/pydicom/{one}" for one in corpus.get("/instances")]) == {}


def test_no_list_of_private_tags_of_real_files_is_a_failure_of_the_server(corpus: OrthancServer) -> None:
    paths = ["/with-private-tags/series"]
    paths += [f"/with-private-tags/series/{one}" for one in corpus.get("/series")]
    paths += [
        f"/with-private-tags/{level}/{one}/series"
        for level in ("studies", "patients")
        for one in corpus.get(f"/{level}")
    ]
    assert statuses(corpus, paths) == {}
