# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor.py, mode `fetch`: what is here is compared with what a source has by UIDs, since numbers can be the same."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.cmove_interceptor.helpers import KEYS, SCRIPT, SUCCESS, Destination, c_move, configuration, identifiers

# An archive that finds nothing at the level IMAGE, as some do.
NO_IMAGE_LEVEL = """
function IncomingFindRequestFilter(source, origin)
  if source['0008,0052'] == 'IMAGE' then source['0008,0018'] = '9.9.9' end
  return source
end
"""
SAYS = "cmove_interceptor: modality:far does not answer C-FIND down to the level IMAGE"


def start_both(
    start: StartOrthanc, destination: Destination, folder: Path, source: str = "modality", *, image_level: bool = True
) -> tuple[OrthancServer, OrthancServer]:
    """An archive, and an Orthanc that fetches from there."""
    more: dict[str, Any] = {}
    if not image_level:
        (folder / "no_image_level.lua").write_text(NO_IMAGE_LEVEL)
        more["LuaScripts"] = [str(folder / "no_image_level.lua")]
    far = start(None, {"DicomAlwaysAllowMove": True, "DicomAlwaysAllowFind": True, **more}, aet="FAR")
    section = {"Mode": "fetch", "Fetch": {"From": [f"{source}:far"]}}
    modalities = {"dest": destination.as_modality(), "far": far.as_modality()}
    peers = {"far": far.as_peer()}
    near = start(SCRIPT, configuration(destination, section, DicomModalities=modalities, OrthancPeers=peers))
    far.put("/modalities/near", near.as_modality())
    return far, near


@pytest.mark.parametrize("source", ["modality", "peer"])
@pytest.mark.parametrize("level", ["PATIENT", "STUDY", "SERIES", "accession"])
def test_as_many_others_there_are_fetched(
    start_briefly: StartOrthanc, destination: Destination, tmp_path: Path, level: str, source: str
) -> None:
    """Three images of one series are here, three others there; also two of another series, with a series for each."""
    images = make_study(patient_id="P1", instances=6, AccessionNumber="A1")
    more = make_study(patient_id="P1", instances=2, series=3, AccessionNumber="A1")[
        2:
    ]  # series 2 and 3 of the same study
    far, near = start_both(start_briefly, destination, tmp_path, source)
    near.store([*images[:3], *more[:2]])
    far.store([*images[3:], *more[2:]])
    if level == "accession":
        level, keys = "STUDY", {"AccessionNumber": "A1"}
    else:
        dataset = dcmread(BytesIO(images[0]))
        names = list(KEYS.values())[: list(KEYS).index(level) + 1]
        keys = {name: str(getattr(dataset, name)) for name in names}
    count = 6 if level == "SERIES" else 10
    assert c_move(near, level, **keys)[-1].status == SUCCESS
    assert len(destination.take()) == count
    assert c_move(near, level, **keys)[-1].status == SUCCESS
    assert len(destination.take()) == count


def test_what_is_here_whole_is_not_fetched_again(
    start_briefly: StartOrthanc, destination: Destination, tmp_path: Path
) -> None:
    far, near = start_both(start_briefly, destination, tmp_path)
    for server in (far, near):
        server.store(make_study(patient_id="P1", instances=3, series=3))
    [study] = identifiers(near, "P1")["STUDY"]
    assert c_move(near, "STUDY", StudyInstanceUID=study)[-1].status == SUCCESS
    assert len(destination.received) == 9
    assert [job["Type"] for job in near.get("/jobs?expand")] == ["DicomModalityStore"]


@pytest.mark.parametrize("apart", ["series", "numbers"])
def test_a_source_that_finds_no_images_is_compared_by_series_and_numbers_and_the_log_says_so_once(
    start_briefly: StartOrthanc, destination: Destination, tmp_path: Path, apart: str
) -> None:
    far, near = start_both(start_briefly, destination, tmp_path, image_level=False)
    images = make_study(patient_id="P1", instances=3, series=2)
    near.store(images[:3] if apart == "series" else images[2:])
    far.store(images[3:] if apart == "series" else images[:3])
    [study] = identifiers(near, "P1")["STUDY"]
    for _ in range(2):
        assert c_move(near, "STUDY", StudyInstanceUID=study)[-1].status == SUCCESS
        assert len(destination.take()) == 6
    assert near.log.count(SAYS) == 1
