# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_thumbnail.py: a picture is drawn once, kept, and never old."""

from __future__ import annotations

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.series_thumbnail.helpers import (
    NAMED,
    ROOT,
    SCRIPT,
    chosen,
    let_the_second_pass,
    picture_of,
    thumbnail,
    wait_until_kept,
)


@pytest.fixture(scope="module")
def ward(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    """What is kept has its names, and series become stable."""
    return start_orthanc_for_module(SCRIPT, {**NAMED, "OverwriteInstances": True})


def test_a_series_is_drawn_once_when_it_is_stable_and_outlives_a_restart(ward: OrthancServer) -> None:
    stored = ward.store(make_study(patient_id="ONCE", instances=3))
    series = stored[0]["ParentSeries"]
    wait_until_kept(ward, series)  # nobody has asked for it
    assert chosen(ward, series) == stored[1]["ID"]
    before = ward.request("GET", f"/series/{series}/thumbnail")
    ward.restart()
    after = ward.request("GET", f"/series/{series}/thumbnail")
    assert (after.content, after.headers["ETag"]) == (before.content, before.headers["ETag"])
    assert ward.get("/series-thumbnail/status")["Drawn"] == 0
    kept = ward.get(f"/series/{series}/attachments/4455/data")
    assert max(picture_of(kept).size) == 128


def test_later_instances_that_move_the_middle_give_another_picture(ward: OrthancServer) -> None:
    files = make_study(patient_id="GROWS", instances=9)
    stored = ward.store(files[:3])
    series = stored[0]["ParentSeries"]
    wait_until_kept(ward, series)
    assert chosen(ward, series) == stored[1]["ID"]
    first = ward.request("GET", f"/series/{series}/thumbnail").content
    stored += ward.store(files[3:])
    let_the_second_pass()
    assert ward.request("GET", f"/series/{series}/thumbnail").content != first
    ward.wait_until(lambda: chosen(ward, series) == stored[4]["ID"])


def test_an_image_that_replaces_the_one_shown_is_shown(ward: OrthancServer) -> None:
    dark, bright = (
        make_study(patient_id="AGAIN", instances=3, PixelData=bytes([0, level]) * 4096) for level in (30, 220)
    )
    series = ward.store(dark)[0]["ParentSeries"]

    def shown(level: int) -> bool:
        value = thumbnail(ward, "series", series).getpixel((64, 64))
        return isinstance(value, int | float) and abs(value - level) < 3

    assert shown(30)
    wait_until_kept(ward, series)
    ward.store(bright[1])
    let_the_second_pass()
    assert shown(220)
    ward.wait_until_stable()
    ward.restart()
    assert shown(220)


def test_what_is_deleted_is_gone_from_memory_too(ward: OrthancServer) -> None:
    stored = ward.store(make_study(patient_id="GONE"))[0]
    paths = [f"/{level}/{stored[key]}/thumbnail" for level, key in
             (("series", "ParentSeries"), ("studies", "ParentStudy"), ("instances", "ID"))]  # fmt: skip
    assert {ward.request("GET", path).status_code for path in paths} == {200}
    ward.delete(f"/patients/{stored['ParentPatient']}")
    let_the_second_pass()
    assert [ward.request("GET", path).status_code for path in paths] == [404] * 3


def test_when_events_never_come_an_old_picture_is_given_for_one_second_at_most(start_orthanc: StartOrthanc) -> None:
    deaf = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import orthanc
real = orthanc.RegisterOnChangeCallback
kept = []
def register(callback):
    kept.append(lambda change, *of: callback(change, *of) if change in (orthanc.ChangeType.ORTHANC_STARTED,
                                                                        orthanc.ChangeType.ORTHANC_STOPPED) else None)
    real(kept[0])
orthanc.RegisterOnChangeCallback = register
import series_thumbnail
"""
    server = start_orthanc(deaf, {"StableAge": 3600})
    files = make_study(patient_id="DEAF", instances=5)
    stored = server.store(files[:1])
    series = stored[0]["ParentSeries"]
    first = server.request("GET", f"/series/{series}/thumbnail").content
    stored += server.store(files[1:])
    let_the_second_pass()
    assert server.request("GET", f"/series/{series}/thumbnail").content != first
    server.wait_until(lambda: chosen(server, series) == stored[2]["ID"])
    server.delete(f"/instances/{stored[2]['ID']}")  # the one that is shown
    server.wait_until(
        lambda: server.request("GET", f"/series/{series}/thumbnail").ok and chosen(server, series) == stored[3]["ID"]
    )
    paths = [f"/{level}/{stored[0][key]}/thumbnail" for level, key in
             (("series", "ParentSeries"), ("studies", "ParentStudy"), ("instances", "ID"))]  # fmt: skip
    assert [server.request("GET", path).status_code for path in paths] == [200] * 3
    server.delete(f"/series/{series}")
    let_the_second_pass()
    assert [server.request("GET", path).status_code for path in paths] == [404] * 3


ASKED = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
import orthanc, series_thumbnail
exchange, asked = series_thumbnail.Loopback.request_raw, []
def counted(self, method, path, *more, **named):
    asked.append(path)
    return exchange(self, method, path, *more, **named)
series_thumbnail.Loopback.request_raw = counted
def give(output, uri, **request):
    series_thumbnail.QUICK_SECONDS = float(request["get"].get("quick", series_thumbnail.QUICK_SECONDS))
    output.AnswerBuffer(json.dumps(asked), "application/json")
    asked.clear()
orthanc.RegisterRestCallback("/asked", give)
"""


def test_while_nothing_is_stored_or_deleted_one_question_a_second_is_asked_for_all_pictures(
    start_orthanc: StartOrthanc,
) -> None:
    server = start_orthanc(ASKED, {"StableAge": 3600})
    series = [server.store(make_study(patient_id=f"P{n}", instances=2))[0]["ParentSeries"] for n in range(8)]

    def ask_each() -> list[str]:
        for each in series:
            assert server.request("GET", f"/series/{each}/thumbnail").ok
        asked: list[str] = server.get("/asked")
        return asked

    def asks_a_second_later(expected: set[str]) -> bool:
        let_the_second_pass()
        return set(ask_each()) == expected

    server.request("GET", "/asked?quick=60")
    # Not at once: what is drawn is kept, and that changes the archive too.
    server.wait_until(lambda: asks_a_second_later({"/statistics", "/changes?last"}))
    # One is deleted here and one as large is stored there: as many as before, yet not the same.
    counts = server.get("/statistics")
    server.delete(f"/instances/{server.get(f'/series/{series[0]}')['Instances'][0]}")
    server.store(make_study(patient_id="P1", instances=3)[2:])
    assert server.get("/statistics") == counts
    let_the_second_pass()
    assert f"/series/{series[0]}/statistics" in ask_each()
    # An archive so large that counting it takes long is left alone.
    server.request("GET", "/asked?quick=0")
    server.wait_until(lambda: asks_a_second_later({f"/series/{each}/statistics" for each in series}))
