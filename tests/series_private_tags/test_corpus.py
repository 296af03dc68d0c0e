# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_private_tags.py: of each real file, the private tags that it finds are those that pydicom reads."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pydicom

from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.corpus import corpus_files
from tests.series_private_tags.helpers import SCRIPT, wait_until_caught_up

TEXT_VRS = ("LO", "LT", "SH", "ST")
Elements = dict[str, tuple[str, str | None]]


def private_elements(path: Path) -> Elements:
    """Return the private elements of a file by their numbers: creator ("": none), and the value of a text that is ASCII."""
    with pydicom.dcmread(path, force=True) as dataset:
        raws = [dataset.get_item(tag) for tag in sorted(dataset.keys()) if tag.is_private]
    creators: dict[tuple[int, int], str] = {}
    found: Elements = {}
    for raw in raws:
        content = raw.value if isinstance(raw.value, bytes) else b""
        if 0x10 <= raw.tag.element <= 0xFF:
            creators[raw.tag.group, raw.tag.element] = content.decode("ascii", "replace").strip(" \0")
            continue
        creator = creators.get((raw.tag.group, raw.tag.element >> 8), "")
        is_text = raw.VR in TEXT_VRS and content.isascii() and content.rstrip(b" \0").decode().isprintable()
        text = content.decode().rstrip(" \0") if is_text else None
        found[f"{raw.tag.group:04x},{raw.tag.element:04x}"] = (creator, text)
    return found


def instance_of(path: Path) -> str:
    return str(pydicom.dcmread(path, force=True, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID") or path)


def name_of(number: str, creator: str) -> str:
    return f"{number[:5]}xx{number[7:]}:{creator}" if creator else number


def test_the_tags_of_each_real_file_are_those_that_pydicom_reads(start_orthanc: StartOrthanc) -> None:
    """Where they are there before the script looks for them, and as they arrive."""
    # Of files of one instance the first: Orthanc keeps that one, but reports the others to scripts as stored, too.
    first = {instance_of(path): path for _, path in reversed(corpus_files())}
    files = {path: private_elements(path) for path in first.values()}
    listed = sorted({name_of(number, creator) for found in files.values() for number, (creator, _) in found.items()})
    assert len(listed) > 400
    expected: dict[str, dict[str, set[str | None]]] = defaultdict(lambda: defaultdict(set))
    configuration = {"StableAge": 3600, "SeriesMainPrivateDicomTags": listed}
    arrives = start_orthanc(SCRIPT, configuration)
    was_there = start_orthanc(SCRIPT, {**configuration, "SeriesMainPrivateDicomTags": ["0001,1001"]})
    for server in (arrives, was_there):
        wait_until_caught_up(server)
        for path, found in files.items():
            answer = server.request("POST", "/instances", data=path.read_bytes())
            if not answer.ok or answer.json()["Status"] != "Success":
                continue
            of_series = expected[answer.json()["ParentSeries"]]
            for number, (creator, text) in found.items():
                for name in {number, name_of(number, creator)} & {*listed}:
                    of_series[name].add(text)
    was_there.configuration["SeriesMainPrivateDicomTags"] = listed
    was_there.restart()
    assert sum(map(bool, expected.values())) > 20
    for server in (arrives, was_there):
        wait_until_caught_up(server)
        compare(server, expected)


def compare(server: OrthancServer, expected: dict[str, dict[str, set[str | None]]]) -> None:
    """Assert that the tags of each series are those of its files, and each text what one of them has."""
    for series in server.get("/series"):
        shown = server.get(f"/with-private-tags/series/{series}")["MainPrivateDicomTags"]
        assert set(shown) == set(expected[series]), series
        for name, texts in expected[series].items():
            assert None in texts or shown[name] in texts, (series, name)
