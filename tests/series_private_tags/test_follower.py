# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_private_tags.py: what was there before, what came while it was away, and kills."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.series_private_tags.helpers import (
    EXPECTED,
    LISTED,
    ROOT,
    SCRIPT,
    study,
    values,
    wait_for,
    wait_until_caught_up,
)

COUNTED = f"""
import pathlib
import sys
import threading
sys.path.insert(0, {str(ROOT)!r})
import orthanc
import series_private_tags
read, reads = series_private_tags.Archive.read, []
def counted(self, instance, wanted):
    reads.append(instance)
    orthanc.LogWarning(f"READ {{instance}} for {{sorted(wanted.entries)}}")
    if len(reads) == HANGS_AT:
        threading.Event().wait()
    return read(self, instance, wanted)
series_private_tags.Archive.read = counted
HANGS_AT = 0
"""


def test_what_was_there_before_is_caught_up_also_when_a_tag_is_added_and_nothing_is_read_twice(
    start_orthanc: StartOrthanc,
) -> None:
    server = start_orthanc(COUNTED, {**LISTED, "SeriesMainPrivateDicomTags": ["0001,1001"], "StableAge": 3600})
    wait_until_caught_up(server)  # what is stored while the script starts may be looked at twice
    without = make_study(patient_id="WITHOUT", instances=3)
    stored = server.store([*study(patient_id="BEFORE", series=4, instances=3), *without])
    all_series = list(dict.fromkeys(each["ParentSeries"] for each in stored))
    server.wait_until(lambda: server.get("/with-private-tags/status")["Series"] == 5)
    assert "READ" not in server.log  # the callback took all
    server.configuration["SeriesMainPrivateDicomTags"] = ["0001,1001", "Factor"]
    server.restart()
    caught_up = {"Total": 5, "Done": 5, "Running": False}
    server.wait_until(lambda: server.get("/with-private-tags/status")["CatchUp"] == caught_up)
    assert [values(server, series) for series in all_series] == [{"Factor": "1.50\\2"}] * 4 + [{}]
    reads = re.findall(r"READ (\S+) for (.*)", server.log)
    assert len(reads) == 4 + 3  # the first instance of each that has the tag, and all of the one that has it nowhere
    assert {entries for _, entries in reads} == {"['Factor']"}
    server.restart()
    wait_until_caught_up(server)
    assert len(re.findall("READ", server.log)) == len(reads)


def test_catching_up_goes_on_where_it_was_killed(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(COUNTED, {**LISTED, "SeriesMainPrivateDicomTags": ["0001,1001"], "StableAge": 3600})
    wait_until_caught_up(server)
    stored = server.store([each for number in range(12) for each in study(patient_id=f"P{number}")])
    server.wait_until(lambda: server.get("/with-private-tags/status")["Series"] == 12)
    server.configuration["SeriesMainPrivateDicomTags"] = ["0001,1001", "Factor"]
    script = Path(server.configuration["PythonScript"])
    script.write_text(COUNTED.replace("HANGS_AT = 0", "HANGS_AT = 8"))
    server.restart()
    server.wait_until(lambda: server.log.count("READ") == 8)
    assert server.get("/with-private-tags/status")["CatchUp"] == {"Total": 12, "Done": 7, "Running": True}
    server.kill()
    script.write_text(COUNTED)
    server.start()
    assert wait_until_caught_up(server)["CatchUp"] == {"Total": 12, "Done": 12, "Running": False}
    assert [values(server, each["ParentSeries"]) for each in stored] == [{"Factor": "1.50\\2"}] * 12
    assert server.log.count("READ") == 12 + 1  # the one that was being read


def test_a_kill_loses_nothing(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, {**LISTED, "StableAge": 3600})
    stored = []
    for number in range(30):
        stored += server.store(study(patient_id=f"P{number}"))
        if number % 10 == 4:
            server.kill()
            server.start()
    for each in stored:
        wait_for(server, each["ParentSeries"], EXPECTED)


def test_reconstruct_looks_at_all_anew_also_where_metadata_was_lost(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, {**LISTED, "StableAge": 3600})
    stored = [each for number in range(3) for each in server.store(study(patient_id=f"P{number}", series=2))]
    series = [each["ParentSeries"] for each in stored]
    for each in series:
        wait_for(server, each, EXPECTED)

    def lost(which: list[str]) -> None:
        for each in which:
            server.delete(f"/series/{each}/metadata/SeriesPrivateTags")
            assert values(server, each) == {}

    for body, count in (({"Series": series[0]}, 1), ({"Study": stored[2]["ParentStudy"]}, 2),
                        ({"Patient": stored[4]["ParentPatient"]}, 2), ({}, 6)):  # fmt: skip
        which = {1: series[:1], 2: series[2:4] if "Study" in body else series[4:], 6: series}[count]
        lost(which)
        assert server.post("/with-private-tags/reconstruct", body) == {"Series": count}
        for each in which:
            wait_for(server, each, EXPECTED)


@pytest.mark.parametrize("form", ["first", "current"])
def test_a_series_that_came_again_while_the_script_was_away_is_looked_at_anew(
    start_orthanc: StartOrthanc, form: str
) -> None:
    server = start_orthanc(SCRIPT, {**LISTED, "StableAge": 3600})
    wait_until_caught_up(server)  # what comes while the script starts is caught up, not followed
    path = server.folder / "storage" / "series_private_tags.sqlite"

    def store(name: str) -> str:
        return str(server.store(study(patient_id=name))[0]["ParentSeries"])

    followed = store("FOLLOWED")
    wait_for(server, followed, EXPECTED)
    with contextlib.closing(sqlite3.connect(path)) as ledger:
        server.wait_until(lambda: ledger.execute("SELECT born FROM series WHERE born>0").fetchall())
    just_came = store("JUST CAME")
    wait_for(server, just_came, EXPECTED)
    with_script = {key: server.configuration[key] for key in ("Plugins", "PythonScript")}
    server.configuration["Plugins"] = []
    server.restart()
    for series in (followed, just_came):
        server.delete(f"/series/{series}")
    assert [store(name) for name in ("FOLLOWED", "JUST CAME")] == [followed, just_came]
    if form == "first":  # ledgers of the first version came without that column
        with contextlib.closing(sqlite3.connect(path)) as ledger:
            ledger.execute("ALTER TABLE series DROP COLUMN born")
    server.configuration.update(with_script)
    server.restart()
    for series in (followed, just_came):
        wait_for(server, series, EXPECTED)


def test_a_file_that_is_gone_from_the_disk_holds_no_other_series_up(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, {"StableAge": 3600})  # it names no tags yet
    stored = [server.store(study(patient_id=f"P{number}"))[0] for number in range(4)]
    first = min(stored, key=lambda each: str(each["ParentSeries"]))  # is looked at first
    content = server.request("GET", f"/instances/{first['ID']}/file").content
    server.kill()
    files = [path for path in (server.folder / "storage").rglob("*-*") if path.is_file()]
    [file] = [path for path in files if path.read_bytes() == content]
    file.unlink()
    server.configuration |= LISTED
    server.start()
    found = {"Total": 4, "Done": 3, "Running": True}
    server.wait_until(
        lambda: server.get("/with-private-tags/status")["CatchUp"] == found, what="catch up with the others"
    )
    assert [bool(values(server, each["ParentSeries"])) for each in stored] == [each is not first for each in stored]
    server.assert_logged(f"looks at series {first['ParentSeries']} again in an hour", "warning")
