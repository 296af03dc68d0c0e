# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_private_tags.py: what a real Orthanc keeps and lists."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from testing.dicom import make_study, orthanc_identifier, part10_files, pydicom_files
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.series_private_tags.helpers import (
    EXPECTED,
    LISTED,
    ROOT,
    SCRIPT,
    SYNTAXES,
    TAGS,
    study,
    values,
    wait_for,
    wait_until_caught_up,
)


@pytest.mark.parametrize("syntax", list(SYNTAXES))
def test_values_are_as_orthanc_gives_them_in_every_transfer_syntax(server: OrthancServer, syntax: str) -> None:
    series = server.store(study(syntax, patient_id=syntax.replace(" ", ""), block=0x42))[0]["ParentSeries"]
    # Orthanc doesn't know a private sequence, nor other private tags, in Implicit VR: they come from the bytes.
    expected = dict(EXPECTED)
    if syntax == "implicit":
        instance = server.get(f"/series/{series}")["Instances"][0]
        content = server.get(f"/instances/{instance}/content/0029-4216")
        expected["0029,xx16:ACME"] = f"{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}"
    server.wait_until(lambda: values(server, series))
    assert values(server, series) == expected
    kept = server.get(f"/series/{series}/metadata/SeriesPrivateTags")
    assert (json.loads(kept) if isinstance(kept, str) else kept) == expected


def test_limits_of_c_find_cut_no_list_off(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT, {**LISTED, "LimitFindResults": 2, "LimitFindInstances": 2})
    stored = server.store(study(patient_id="LIST", series=5, instances=1))
    parents = stored[0]["ParentPatient"], stored[0]["ParentStudy"]
    for path in ("series", f"patients/{parents[0]}/series", f"studies/{parents[1]}/series"):
        listed = {each["ID"] for each in server.get(f"/with-private-tags/{path}")}
        assert listed == {each["ParentSeries"] for each in stored}
        assert len(server.get(f"/with-private-tags/{path}", limit=4)) == 4


def test_lists_are_as_orthanc_gives_them_with_the_tags(server: OrthancServer) -> None:
    stored = server.store(study(patient_id="LIST", series=3, instances=2))
    server.store(make_study(patient_id="PLAIN", series=2))
    tags = {each["ParentSeries"]: EXPECTED for each in stored}
    for way in ("modify", "anonymize"):
        copy = server.post(f"/studies/{stored[0]['ParentStudy']}/{way}", {"Replace": {"StudyDescription": way}})["ID"]
        tags |= dict.fromkeys(server.get(f"/studies/{copy}")["Series"], EXPECTED if way == "modify" else {})

    def all_are_listed() -> bool:
        listed = {each["ID"]: each["MainPrivateDicomTags"] for each in server.get("/with-private-tags/series")}
        return all(listed[series] == expected for series, expected in tags.items())

    server.wait_until(all_are_listed)
    for ours, theirs in (
        ("series", "series?expand"),
        ("series?short", "series?expand&short"),
        (f"studies/{stored[0]['ParentStudy']}/series", f"studies/{stored[0]['ParentStudy']}/series?expand"),
        (f"patients/{stored[0]['ParentPatient']}/series", f"patients/{stored[0]['ParentPatient']}/series?expand"),
    ):
        found = server.get(f"/with-private-tags/{ours}")
        expected = server.get(f"/{theirs}")
        full = server.get(f"/with-private-tags/{ours}{'&' if '?' in ours else '?'}instances=true")
        assert [
            {key: value for key, value in each.items() if key != "MainPrivateDicomTags"} for each in full
        ] == expected
        tags = {each["ID"]: each["MainPrivateDicomTags"] for each in full}
        assert [tags[series] for series in dict.fromkeys(each["ParentSeries"] for each in stored)] == [EXPECTED] * 3
        for each in full:
            del each["Instances"]
        assert found == full
    one = server.get(f"/with-private-tags/series/{stored[0]['ParentSeries']}")
    assert one == next(each for each in server.get("/with-private-tags/series") if each["ID"] == one["ID"])


def test_pages_make_up_the_list(server: OrthancServer) -> None:
    stored = server.store(make_study(patient_id="PAGES", series=7))
    for path in (
        "series",
        f"studies/{stored[0]['ParentStudy']}/series",
        f"patients/{stored[0]['ParentPatient']}/series",
    ):
        listed = server.get(f"/with-private-tags/{path}")
        pages = [server.get(f"/with-private-tags/{path}", since=since, limit=3) for since in range(0, len(listed), 3)]
        assert [each for page in pages for each in page] == listed
        assert all(len(page) == 3 for page in pages[:-1])
        assert server.get(f"/with-private-tags/{path}", since=len(listed) + 5, limit=3) == []
        assert server.get(f"/with-private-tags/{path}", since=4) == listed[4:]


def test_later_instances_complete_a_series_and_the_first_value_stays(server: OrthancServer) -> None:
    def change(dataset: Dataset) -> None:
        number = int(dataset.InstanceNumber)
        if number in (2, 3):
            acme = dataset.private_block(0x29, "ACME", create=True)
            acme.add_new(0x10, "DS", str(number))
            if number == 3:
                acme.add_new(0x11, "LO", "late")

    files = make_study(patient_id="LATE", instances=4, change=change)
    series = server.store(files[:2])[0]["ParentSeries"]
    wait_for(server, series, {"Factor": "2"})
    server.store(files[2:])
    wait_for(server, series, {"Factor": "2", "Label": "EXISTS"})


def test_a_patient_id_that_is_not_ascii_is_no_obstacle(server: OrthancServer) -> None:
    dataset = pydicom.dcmread(io.BytesIO(study(patient_id="UMLAUT")[0]))
    dataset.SpecificCharacterSet, dataset.PatientID = "ISO_IR 100", "Größe"
    series = server.store(dataset)[0]["ParentSeries"]
    wait_for(server, series, EXPECTED)


def test_what_comes_by_c_store_is_read_too(server: OrthancServer) -> None:
    files = study(patient_id="CSTORE", instances=3)
    server.store_scu(files)
    dataset = pydicom.dcmread(io.BytesIO(files[0]))
    wait_for(server, orthanc_identifier("CSTORE", dataset.StudyInstanceUID, dataset.SeriesInstanceUID), EXPECTED)


def test_a_series_that_was_deleted_and_comes_again_has_its_tags_again(server: OrthancServer) -> None:
    files = study(patient_id="AGAIN")
    for _ in range(3):
        series = server.store(files)[0]["ParentSeries"]
        wait_for(server, series, EXPECTED)
        server.delete(f"/series/{series}")
        assert server.request("GET", f"/with-private-tags/series/{series}").status_code == 404


def in_lists(server: OrthancServer, stored: dict[str, Any]) -> list[Any]:
    """The tags of a series in each list that has it; the last is that of all series."""
    parents = f"studies/{stored['ParentStudy']}", f"patients/{stored['ParentPatient']}"
    paths = ["series?limit=1000", *(f"{parent}/series" for parent in parents), "series"]
    listed = [each for path in paths for each in server.get(f"/with-private-tags/{path}")]
    return [each["MainPrivateDicomTags"] for each in listed if each["ID"] == stored["ParentSeries"]]


def test_what_somebody_else_writes_into_the_metadata_is_what_lists_show(server: OrthancServer) -> None:
    stored = server.store(study(patient_id="EDITED"))[0]
    path = f"/series/{stored['ParentSeries']}/metadata/SeriesPrivateTags"
    wait_for(server, stored["ParentSeries"], EXPECTED)
    server.wait_until(lambda: in_lists(server, stored) == [EXPECTED] * 4)
    for written, shown in (
        ('{"Factor": "3"}', {"Factor": "3"}),
        ("no JSON", {}),
        ("[1, 2]", {}),
        ("[" * 9999, {}),
        (None, {}),
    ):
        if written is None:
            server.delete(path)
        else:
            server.request("PUT", path, data=written)
        assert in_lists(server, stored)[:3] == [shown] * 3
        server.wait_until(functools.partial(lambda shown: in_lists(server, stored)[3] == shown, shown))


def test_a_series_that_comes_again_without_tags_shows_none(server: OrthancServer) -> None:
    stored = server.store(study(patient_id="BARE"))[0]
    server.wait_until(lambda: in_lists(server, stored) == [EXPECTED] * 4)
    dataset = pydicom.dcmread(io.BytesIO(study(patient_id="BARE")[0]))
    dataset.remove_private_tags()
    server.delete(f"/series/{stored['ParentSeries']}")
    server.store(dataset)
    server.wait_until(lambda: in_lists(server, stored) == [{}] * 4)


def test_lists_are_right_also_where_others_follow_the_log(start_orthanc: StartOrthanc) -> None:
    section = {"Tags": TAGS, "Reconcile": False, "CatchUp": False}
    server = start_orthanc(SCRIPT, {**LISTED, "SeriesMainPrivateDicomTags": section, "StableAge": 3600})
    stored = server.store(study(patient_id="OTHERS"))[0]
    server.wait_until(lambda: in_lists(server, stored) == [EXPECTED] * 4)
    server.request("PUT", f"/series/{stored['ParentSeries']}/metadata/SeriesPrivateTags", data='{"Factor": "3"}')
    assert in_lists(server, stored) == [{"Factor": "3"}] * 4


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=",
        "since=-1",
        "since=1e3",
        "short=1",
        "instances=2",
        "Limit=3",
        "limit=99999999999",
    ],
)
def test_a_parameter_that_is_wrong_is_a_400(server: OrthancServer, query: str) -> None:
    answer = server.request("GET", f"/with-private-tags/series?{query}")
    assert answer.status_code == 400
    assert "allowed" in answer.json()["Message"]


UNKNOWN = "00000000-00000000-00000000-00000000-00000000"


@pytest.mark.parametrize("path", ["series/{}", "studies/{}/series", "patients/{}/series"])
def test_unknown_identifiers_are_404(server: OrthancServer, path: str) -> None:
    for identifier in (UNKNOWN, "x", "a%20b", "%D9%A3", UNKNOWN.upper().replace("0", "A")):
        assert server.request("GET", f"/with-private-tags/{path.format(identifier)}").status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [('{"Study": "x"}', 404), (f'{{"Series": "{UNKNOWN}"}}', 404), ("[]", 400), ("{", 400), ('{"Instance": "x"}', 400),
     ('{"Study": "x", "Series": "y"}', 400), ('{"Study": 3}', 400)],
)  # fmt: skip
def test_what_can_not_be_reconstructed_is_refused(server: OrthancServer, body: str, status: int) -> None:
    answer = server.request("POST", "/with-private-tags/reconstruct", data=body)
    assert answer.status_code == status
    assert answer.json()["Message"]


WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="/?#\0%", exclude_categories=["Cs"]), min_size=1, max_size=30
)


@settings(max_examples=150)
@given(
    path=st.sampled_from(["series/{}", "studies/{}/series", "patients/{}/series", "series"]),
    identifier=WORDS | st.from_regex("[0-9a-f]{8}(-[0-9a-f]{8}){4}", fullmatch=True),
    query=st.dictionaries(st.sampled_from(["limit", "since", "short", "instances"]) | WORDS, WORDS, max_size=3),
)
def test_whatever_is_asked_is_never_a_500(
    server: OrthancServer, path: str, identifier: str, query: dict[str, str]
) -> None:
    import urllib.parse

    address = (
        f"/with-private-tags/{path.format(urllib.parse.quote(identifier, safe=''))}?{urllib.parse.urlencode(query)}"
    )
    answer = server.request("GET", address)
    assert answer.status_code in ((200, 400) if path == "series" else (400, 404))
    assert answer.status_code in (200, 404) or answer.json()["Message"]


def test_a_page_of_another_site_reconstructs_nothing(server: OrthancServer) -> None:
    headers = {"User-Agent": "Mozilla/5.0", "Sec-Fetch-Site": "cross-site"}
    assert server.request("POST", "/with-private-tags/reconstruct", data="{}", headers=headers).status_code == 403


def test_large_instances_are_read_afterwards(start_orthanc: StartOrthanc) -> None:
    small = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import series_private_tags
series_private_tags.LARGEST = 100
"""
    server = start_orthanc(small, LISTED)
    wait_for(server, server.store(study())[0]["ParentSeries"], EXPECTED)


def test_the_files_of_pydicom_list_the_private_tags_that_orthanc_sees(start_orthanc: StartOrthanc) -> None:
    datasets = [pydicom.dcmread(content) for content in map(io.BytesIO, part10_files(pydicom_files()))]
    texts = {f"{e.tag.group:04x},{e.tag.element:04x}" for dataset in datasets for e in dataset
             if e.tag.is_private and not e.tag.is_private_creator and e.tag.group > 8}  # fmt: skip
    server = start_orthanc(SCRIPT, {"SeriesMainPrivateDicomTags": sorted(texts), "StableAge": 3600})
    server.store(pydicom_files())
    wait_until_caught_up(server)
    server.wait_until(lambda: server.get("/with-private-tags/status")["Series"] == len(server.get("/series")))
    compared = 0
    for series in server.get("/with-private-tags/series?instances=true"):
        if len(series["Instances"]) == 1:
            tags = server.get(f"/instances/{series['Instances'][0]}/tags")
            for number, value in series["MainPrivateDicomTags"].items():
                if tags[number]["Type"] == "String" and len(tags[number]["Value"]) < 4000:
                    assert value == tags[number]["Value"]
                    compared += 1
            assert set(series["MainPrivateDicomTags"]) == texts & set(tags)
    assert compared > 20
