# SPDX-License-Identifier: AGPL-3.0-or-later
"""Real files, as they are: no series is lost for one image, and what is held back has a reason."""

from __future__ import annotations

import pytest

from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.anonymize_series.helpers import SCRIPT, ended, section
from tests.corpus import corpus_files


@pytest.fixture(scope="module")
def corpus(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    server = start_orthanc_for_module(SCRIPT, {**section(), "StableAge": 3600})
    for _, path in corpus_files():
        server.request("POST", "/instances", data=path.read_bytes())
    return server


def test_each_image_of_the_corpus_is_copied_or_held_back_with_a_reason(corpus: OrthancServer) -> None:
    """Each job does its work at its first attempt, or at the third where Orthanc has an error of its own."""
    series = corpus.get("/series")
    instances = {one: set(corpus.get(f"/series/{one}")["Instances"]) for one in series}
    work = {one: corpus.post(f"/anonymize-series/{one}", {"Recipe": "open"})["ID"] for one in series}
    jobs = {one: ended(corpus, number) for one, number in work.items()}
    assert {one: job for one, job in jobs.items() if job["State"] not in ("done", "partly")} == {}
    held = {each["Instance"]: each["Reason"] for each in corpus.get("/anonymize-series/held", limit=1000)["Items"]}
    for one, job in jobs.items():
        assert job["HeldBack"] == len(instances[one] & set(held)), job
        assert len(job["Copies"]) + job["HeldBack"] == len(instances[one]), job
        assert job["State"] == ("partly" if job["HeldBack"] else "done"), job
    assert all(held.values())
    assert len(held) < len(set.union(*instances.values())) / 20, held
