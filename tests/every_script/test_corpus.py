# SPDX-License-Identifier: AGPL-3.0-or-later
"""Real files, as they are, through the scripts that read images: none of them is answered with a failure of the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.corpus import corpus_files
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / f"{name}.py" for name in ("series_thumbnail", "instance_dump", "series_private_tags")]
FOLDER = "pydicom/data/test_files"
CUT_OFF = {  # 400: "Cannot parse an invalid DICOM file"
    "data_store/data/emri_small_jpeg_2k_lossless_too_short.dcm",
    *(f"{FOLDER}/{name}.dcm" for name in ("MR_truncated", "SC_rgb_jpeg", "rtplan_truncated")),
}
NOT_IDENTIFIED = {  # 404: "Inexistent tag": no identifier of a study, a series or an instance
    "nibabel/nicom/tests/data/decimal_rescale.dcm",
    *(f"pydicom/data/charset_files/{name}.dcm" for name in ("chrSQEncoding", "chrSQEncoding1")),
    *(
        f"pydicom/data/palettes/{name}.dcm"
        for name in ("fall", "hotiron", "hotmetalblue", "pet", "pet20step", "spring", "summer", "winter")
    ),
    *(
        f"{FOLDER}/{name}.dcm"
        for name in (
            "JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "SC_rgb_jls_lossy_line", "SC_rgb_jls_lossy_sample",
            "UN_sequence", "empty_charset_LEI", "meta_missing_tsyntax", "nested_priv_SQ", "no_meta_group_length", "priv_SQ",
        )
    ),
    *(
        f"{FOLDER}/dicomdirtests/{name}"
        for name in (
            "DICOMDIR", "DICOMDIR-bigEnd", "DICOMDIR-empty.dcm", "DICOMDIR-implicit", "DICOMDIR-nooffset",
            "DICOMDIR-nopatient", "DICOMDIR-reordered", "TINY_ALPHA/DICOMDIR",
        )
    ),
}  # fmt: skip
PRIVATE_TAGS = {"SeriesMainPrivateDicomTags": ["!!0029,1010:SIEMENS CSA HEADER", "0019,100c:SIEMENS MR HEADER"]}


@pytest.fixture(scope="module")
def corpus(start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory) -> OrthancServer:
    """All real files that Orthanc takes; nothing becomes stable."""
    script = combine_scripts(*SCRIPTS, to=tmp_path_factory.mktemp("corpus") / "all.py")
    server = start_orthanc_for_module(script, {"StableAge": 3600, **PRIVATE_TAGS})
    refused: dict[int, set[str]] = {}
    for name, path in corpus_files():
        status = server.request("POST", "/instances", data=path.read_bytes()).status_code
        if status != 200:
            refused.setdefault(status, set()).add(name)
    assert refused == {400: CUT_OFF, 404: NOT_IDENTIFIED}
    return server


def statuses(server: OrthancServer, paths: list[str]) -> dict[str, int]:
    """Return what is answered to each path, where that is a failure of the server."""
    answers = {path: server.request("GET", path).status_code for path in paths}
    assert 200 in answers.values(), answers  # the routes are there
    return {path: status for path, status in answers.items() if status >= 500}


def test_orthanc_takes_all_of_the_corpus_that_it_can_read(corpus: OrthancServer) -> None:
    assert len(corpus.get("/instances")) == 172  # many of the other files are one of these in another encoding


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
