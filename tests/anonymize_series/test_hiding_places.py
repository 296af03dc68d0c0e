# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names in places that are easily forgotten: gone from the copy, or the image is held back with a reason."""

from __future__ import annotations

import array
import io
from typing import NamedTuple

import pydicom
import pytest
from PIL import Image

from testing.dicom import part10_files
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.anonymize_series.helpers import HIDDEN, OPEN, SCRIPT, ended
from tests.anonymize_series.hiding_places import PLACES, image, words_in

RECIPES = {"open": OPEN, "private": {**OPEN, "KeepPrivateTags": True}}


class Done(NamedTuple):
    """What came of an image in a place: its identifier, and of each recipe the job."""

    server: OrthancServer
    instance: str
    series: str


@pytest.fixture(scope="module")
def done(start_orthanc_for_module: StartOrthanc) -> dict[str, Done]:
    """Every place in one server."""
    section = {"Secret": HIDDEN, "Recipes": RECIPES}
    server = start_orthanc_for_module(SCRIPT, {"AnonymizeSeries": section, "StableAge": 3600})
    found = {}
    for name, place in PLACES.items():
        stored = server.request("POST", "/instances", data=image(place)).json()
        assert stored["Status"] == "Success", name
        found[name] = Done(server, stored["ID"], stored["ParentSeries"])
    return found


@pytest.fixture(scope="module", params=RECIPES)
def jobs(request: pytest.FixtureRequest, done: dict[str, Done]) -> tuple[str, dict[str, int]]:
    """The recipe, and the numbers of its jobs, by place."""
    recipe = request.param
    return recipe, {
        name: each.server.post(f"/anonymize-series/{each.series}", {"Recipe": recipe})["ID"]
        for name, each in done.items()
    }


def reasons(server: OrthancServer, instance: str, recipe: str) -> list[str]:
    items = server.get("/anonymize-series/held", limit="1000")["Items"]
    return [each["Reason"] for each in items if (each["Instance"], each["Recipe"]) == (instance, recipe)]


def drawn(server: OrthancServer, instance: str) -> list[int] | None:
    """The pixels of the first frame as Orthanc reads them, which shows unused bits too; None where it can't decode it."""
    answer = server.request("GET", f"/instances/{instance}/frames/0/image-uint16")
    if answer.status_code != 200:
        return None
    return [pixel & 0xFFF for pixel in array.array("H", Image.open(io.BytesIO(answer.content)).tobytes())]


def test_there_are_the_places_that_were_found() -> None:
    assert len(PLACES) >= 27 + 5


@pytest.mark.parametrize(
    "name", [name for name in PLACES if name != "retired overlay in compressed bits"]
)  # not unpacked
def test_the_look_finds_the_name_in_the_original(name: str) -> None:
    """Where it is only there: each has it in PatientName."""
    place = PLACES[name]
    dataset = pydicom.dcmread(io.BytesIO(image(place)))
    del dataset.PatientName
    assert words_in(next(part10_files(dataset)), place.words) != []


@pytest.mark.parametrize("name", PLACES)
def test_a_name_is_gone_or_the_image_is_held_back(
    done: dict[str, Done], jobs: tuple[str, dict[str, int]], name: str
) -> None:
    recipe, numbers = jobs
    place, (server, instance, _) = PLACES[name], done[name]
    expected = place.private if recipe == "private" else place.reason
    job = ended(server, numbers[name])
    found = reasons(server, instance, recipe)
    assert (job["HeldBack"], len(job["Copies"])) == ((0, 1) if expected is None else (1, 0)), found
    if expected is not None:
        assert expected in found[0]
        assert not any(word.lower() in found[0].lower() for word in place.words)
        return
    [copy] = job["Copies"]
    content = server.request("GET", f"/instances/{copy}/file").content
    assert words_in(content, place.words) == []
    assert drawn(server, copy) == drawn(server, instance)
