# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_private_tags.py: how it reads files and its list, without a server; and what a real Orthanc keeps and lists."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from testing.dicom import make_study, orthanc_identifier, part10_files, pydicom_files
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "series_private_tags.py"
SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "big endian": "1.2.840.10008.1.2.2",
    "deflated": "1.2.840.10008.1.2.1.99",
}
DICTIONARY = {
    "0029,1010": ["DS", "Factor", 1, 9, "ACME"],
    "0029,1011": ["LO", "Label", 1, 1, "ACME"],
    "7053,1003": ["FD", "Ratio", 1, 9, "PHIL"],
    "0033,1020": ["LO", "Anonymous", 1, 1],
}
TAGS = ["Factor", "!!Label", "Ratio", "Anonymous", "0029,xx12:ACME", "0029,xx16:ACME", "0029,xx15:ACME", "0031,1001"]
LISTED = {"Dictionary": DICTIONARY, "SeriesMainPrivateDicomTags": TAGS, "UserMetadata": {"SeriesPrivateTags": 1025}}


def private(dataset: Dataset, block: int = 0x10) -> None:
    """Private tags of two creators, in whatever block, of many VRs."""
    other = dataset.private_block(0x29, "OTHER", create=True)  # the first block is somebody else's
    other.add_new(0x10, "LO", "not this one")
    for _ in range(block - 0x11):
        dataset.add_new((0x29 << 16) + _ + 0x11, "LO", f"FILLER {_}")
    acme = dataset.private_block(0x29, "ACME", create=True)
    acme.add_new(0x10, "DS", ["1.50", "2"])
    acme.add_new(0x11, "LO", "a label")
    acme.add_new(0x12, "UN", b"\x00\x01\x02\xff")
    acme.add_new(0x15, "LT", "long " * 2000)
    first, second, code = Dataset(), Dataset(), Dataset()
    code.CodeValue = "c"
    first.PatientName, first.ConceptNameCodeSequence, second.SeriesDescription = "A^B", [code], "second"
    acme.add_new(0x16, "SQ", [first, second])
    dataset.private_block(0x7053, "PHIL", create=True).add_new(0x03, "FD", [0.1, 2.5])
    dataset.add_new(0x00330010, "LO", "")
    dataset.add_new(0x00331020, "LO", "without a creator")
    dataset.add_new(0x00310010, "LO", "WHOEVER")
    dataset.add_new(0x00311001, "LO", "by its number")


def encoded(dataset: Dataset, syntax: str) -> bytes:
    dataset.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
    for element in dataset.iterall():
        if element.VR == "OW" and syntax == "big endian":
            element.value = b"".join(element.value[i : i + 2][::-1] for i in range(0, len(element.value), 2))
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=syntax == "implicit", little_endian=syntax != "big endian",
                     enforce_file_format=True)  # fmt: skip
    return buffer.getvalue()


def study(syntax: str = "explicit", *, block: int = 0x11, **arguments: Any) -> list[bytes]:
    """A study whose images have private tags."""
    files = []
    for content in make_study(**arguments):
        dataset = pydicom.dcmread(io.BytesIO(content))
        private(dataset, block)
        files.append(encoded(dataset, syntax))
    return files


EXPECTED: dict[str, Any] = {
    "Factor": "1.50\\2",
    "Label": "EXISTS",
    "Ratio": "0.10000000000000001\\2.5",
    "Anonymous": "without a creator",
    "0029,xx12:ACME": f"4 bytes, SHA-256 {hashlib.sha256(bytes([0, 1, 2, 255])).hexdigest()}",
    "0029,xx16:ACME": [
        {"PatientName": "A^B", "ConceptNameCodeSequence": [{"CodeValue": "c"}]},
        {"SeriesDescription": "second"},
    ],
    "0029,xx15:ACME": f"{('long ' * 2000)[:4096]}… (cut, of 9999 characters)",
    "0031,1001": "by its number",
}


@pytest.fixture
def script() -> Iterator[ModuleType]:
    with StandIn("4.0").installed():
        sys.path.insert(0, str(ROOT))
        try:
            yield importlib.import_module("series_private_tags")
        finally:
            sys.path.remove(str(ROOT))
            sys.modules.pop("series_private_tags", None)


# How it reads


@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
@pytest.mark.parametrize("block", [0x11, 0x7F, 0xFF])
def test_a_file_gives_its_series_and_its_private_tags_in_whatever_block(
    script: ModuleType, syntax: str, block: int
) -> None:
    wanted = script.Wanted([script.parse_entry(text, DICTIONARY) for text in TAGS])
    content = study(syntax, block=block, patient_id="X")[0]
    scanned = script.scan(content, wanted, lambda series: False)
    dataset = pydicom.dcmread(io.BytesIO(content))
    assert scanned.series == orthanc_identifier("X", dataset.StudyInstanceUID, dataset.SeriesInstanceUID)
    assert {key: number for key, (number, _) in scanned.present.items()} == {
        "Factor": f"0029,{block:02x}10", "Label": f"0029,{block:02x}11", "0029,xx12:ACME": f"0029,{block:02x}12",
        "0029,xx15:ACME": f"0029,{block:02x}15", "0029,xx16:ACME": f"0029,{block:02x}16", "Ratio": "7053,1003",
        "Anonymous": "0033,1020", "0031,1001": "0031,1001",
    }  # fmt: skip
    assert scanned.present["Factor"][1] == b"1.50\\2"


def test_each_file_of_pydicom_is_read_as_pydicom_reads_it(script: ModuleType) -> None:
    read = 0
    for path in pydicom_files():
        dataset = pydicom.dcmread(path)
        creators = {(e.tag.group, e.tag.element): str(e.value) for e in dataset if e.tag.is_private_creator}
        texts = [
            f"{e.tag.group:04x},{e.tag.element:04x}"
            for e in dataset
            if e.tag.is_private and not e.tag.is_private_creator
        ]
        wanted = script.Wanted([script.parse_entry(text, {}) for text in texts])
        try:
            scanned = script.scan(path.read_bytes(), wanted, lambda series: False)
        except (ValueError, script.struct.error):
            syntax = str(dataset.file_meta.TransferSyntaxUID)
            assert (
                syntax in (SYNTAXES["big endian"], SYNTAXES["deflated"])
                or not str(dataset.get("PatientID", "")).isascii()
            )
            continue
        read += 1
        assert {number for number, _ in scanned.present.values()} == set(texts), (path, creators)
        uids = (str(dataset.get(name) or "") for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
        assert scanned.series == orthanc_identifier(*uids)
    assert read > 80


@given(st.data())
@settings(max_examples=300)
def test_a_broken_file_is_an_error_that_is_known_and_never_hangs(data: st.DataObject) -> None:
    with StandIn("4.0").installed():
        sys.path.insert(0, str(ROOT))
        module = importlib.import_module("series_private_tags")
        sys.path.remove(str(ROOT))
    content = bytearray(study(data.draw(st.sampled_from(["explicit", "implicit"])), rows=4, columns=4)[0])
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.sampled_from([0, 1, 0xFF, 0xFE, 0x53]))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    wanted = module.Wanted([module.parse_entry(text, DICTIONARY) for text in TAGS])
    with contextlib.suppress(ValueError, module.struct.error, RecursionError):  # those that `on_stored` expects
        module.scan(cut, wanted, lambda series: False)


@given(st.data())
@settings(max_examples=200)
def test_a_file_that_is_recognised_by_its_layout_has_the_series_that_a_whole_look_finds(data: st.DataObject) -> None:
    """Values of any length, a series named within a sequence before, a file that is changed anywhere."""
    with StandIn("4.0").installed():
        sys.path.insert(0, str(ROOT))
        module = importlib.import_module("series_private_tags")
        sys.path.remove(str(ROOT))
    wanted = module.Wanted([module.parse_entry(text, DICTIONARY) for text in TAGS])
    digits, syntax = st.text("12", min_size=1, max_size=3), data.draw(st.sampled_from(["explicit", "implicit"]))

    def file() -> bytes:
        referenced, uid = Dataset(), data.draw(digits)
        referenced.StudyInstanceUID, referenced.SeriesInstanceUID = f"1.3.{data.draw(digits)}", f"1.3.{uid}"

        def change(dataset: Dataset) -> None:
            dataset.ReferencedSeriesSequence = [referenced] * data.draw(st.integers(0, 2))
            dataset["ReferencedSeriesSequence"].is_undefined_length = data.draw(st.booleans())

        names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "AccessionNumber")
        tags: dict[str, Any] = {name: f"1.2.{data.draw(digits)}" for name in names}
        return study(syntax, change=change, rows=4, columns=4, patient_id=data.draw(digits), **tags)[0]

    learned, other = file(), bytearray(file())
    layout = module.scan(learned, wanted, lambda series: False).layout
    assert layout.series_of(learned) == module.scan(learned, wanted, lambda series: False).series
    if data.draw(st.booleans()):
        other = bytearray(learned)
        at = data.draw(st.integers(128, layout.identifiers[-1].start - 1))
        other[at] ^= 1 << data.draw(st.integers(0, 7))
    if (recognised := layout.series_of(bytes(other))) is not None:
        with contextlib.suppress(UnicodeDecodeError):  # in SpecificCharacterSet, which names no series
            assert recognised == module.scan(bytes(other), wanted, lambda series: True).series


def test_images_of_a_series_are_recognised_by_their_layout(script: ModuleType) -> None:
    wanted = script.Wanted([script.parse_entry(text, DICTIONARY) for text in TAGS])
    first, *others = study("explicit", instances=9, patient_id="X")
    layout = script.scan(first, wanted, lambda series: False).layout
    series = script.scan(first, wanted, lambda series: False).series
    assert [layout.series_of(each) for each in others] == [series] * 8
    elsewhere = study("explicit", patient_id="Y")[0]
    assert layout.series_of(elsewhere) == script.scan(elsewhere, wanted, lambda series: False).series != series
    assert layout.series_of(study("explicit", patient_id="X", AccessionNumber="longer")[0]) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("Faktor", "did you mean 'Factor'?"), ("0028,0010", "private tags, whose group is odd"),
     ("29,1010", "allowed: a name from Dictionary"), ("", "allowed: a name"), ("0029,1010:", "allowed: a name"),
     ("Rows", "allowed: a name")],
)  # fmt: skip
def test_an_entry_that_names_no_private_tag_is_refused(script: ModuleType, text: str, complaint: str) -> None:
    with pytest.raises(script.SettingsError, match=re.escape(complaint)):
        script.parse_entry(text, DICTIONARY)


def test_bytes_are_text_where_they_are_text(script: ModuleType) -> None:
    read = script.from_bytes
    assert read(b"plain \0", "") == "plain"
    assert read("Grüße".encode(), "ISO_IR 192") == "Grüße"
    assert read("Grüße".encode("latin-1"), "ISO_IR 100") == "Grüße"
    assert read("Привет".encode("iso8859-5"), "ISO_IR 144") == "Привет"
    assert read(b"\xff\xfe", "") == f"2 bytes, SHA-256 {hashlib.sha256(bytes([255, 254])).hexdigest()}"
    assert read(b"a\x00b", "").startswith("3 bytes")
    assert read(b"", "") == ""


def test_the_answer_of_a_search_is_read_the_same_whether_it_is_indented_or_not(script: ModuleType) -> None:
    series = """[
   {
      "ID" : "a",
      "MainDicomTags" : 
      {
         "SeriesDescription" : "\\"Metadata\\" : {}, \\"ParentStudy\\""
      },
      "Metadata" : 
      {
         "ExpectedNumberOfInstances" : "7",
         "LastUpdate" : "20240101T000000",
         "Mine" : "{\\"A\\": \\"1\\\\\\\\2, \\\\\\"x\\\\\\"\\"}",
         "ModifiedFrom" : "b"
      },
      "ParentStudy" : "c",
      "Status" : "STATUS",
      "Type" : "Series"
   }
]
"""  # noqa: W291 (as Orthanc writes it)
    for status, expected in (("Complete", 7), ("Unknown", None)):
        text = series.replace("STATUS", status).encode()
        compact = json.dumps(json.loads(text)).encode()
        first, second = (json.loads(script.found_with_tags(each, "Mine")) for each in (text, compact))
        assert first == second
        assert first[0] == {
            "ID": "a", "MainDicomTags": json.loads(text)[0]["MainDicomTags"], "ExpectedNumberOfInstances": expected,
            "LastUpdate": "20240101T000000", "ModifiedFrom": "b", "MainPrivateDicomTags": {"A": '1\\2, "x"'},
            "ParentStudy": "c", "Status": status, "Type": "Series",
        }  # fmt: skip
        assert json.loads(script.found_with_tags(text, "Yours"))[0]["MainPrivateDicomTags"] == {}


# On a real Orthanc


def values(server: OrthancServer, series: str) -> Any:
    return server.get(f"/with-private-tags/series/{series}")["MainPrivateDicomTags"]


def wait_for(server: OrthancServer, series: str, expected: Any) -> None:
    path = f"/with-private-tags/series/{series}"

    def is_there() -> bool:
        answer = server.request("GET", path)  # 404 for a moment after C-STORE
        return answer.ok and answer.json()["MainPrivateDicomTags"] == expected

    server.wait_until(is_there, what=f"{expected} of {series}")


def wait_until_caught_up(server: OrthancServer) -> dict[str, Any]:
    def done() -> dict[str, Any] | None:
        status: dict[str, Any] = server.get("/with-private-tags/status")
        return status if not status["CatchUp"]["Running"] and not status["Arriving"] else None

    return dict(server.wait_until(done))


@pytest.fixture(scope="module")
def server(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    return start_orthanc_for_module(SCRIPT, {**LISTED, "StableAge": 3600})


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


# What was there before


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


def test_a_page_of_another_site_reconstructs_nothing(server: OrthancServer) -> None:
    headers = {"User-Agent": "Mozilla/5.0", "Sec-Fetch-Site": "cross-site"}
    assert server.request("POST", "/with-private-tags/reconstruct", data="{}", headers=headers).status_code == 403


# Configurations


def test_without_its_name_in_user_metadata_the_number_2000_is_used_and_the_line_logged(
    start_orthanc: StartOrthanc,
) -> None:
    server = start_orthanc(SCRIPT, {"SeriesMainPrivateDicomTags": {"Tags": ["0031,1001"], "MaximumLength": 16}})
    series = server.store(study())[0]["ParentSeries"]
    wait_for(server, series, {"0031,1001": "by its number"})
    kept = server.get(f"/series/{series}/metadata/2000")
    assert "by its number" in str(kept)
    assert 'add "UserMetadata": {"SeriesPrivateTags": 2000}' in server.log


@pytest.mark.parametrize(
    ("configuration", "complaint"),
    [
        (
            {"SeriesMainPrivateDicomTags": ["0031,1001"], "UserMetadata": {"Mine": 2000}},
            'UserMetadata: 2000 is "Mine" here',
        ),
        ({"SeriesMainPrivateDicomTags": ["Faktor"], "Dictionary": DICTIONARY}, "did you mean 'Factor'?"),
        ({"SeriesMainPrivateDicomTags": "Factor"}, "SeriesMainPrivateDicomTags: found"),
        ({}, '"SeriesMainPrivateDicomTags" names no tags'),
    ],
)
def test_what_is_misconfigured_is_one_line_and_orthanc_runs(
    start_orthanc: StartOrthanc, configuration: dict[str, Any], complaint: str
) -> None:
    server = start_orthanc(SCRIPT, configuration)
    series = server.store(study())[0]["ParentSeries"]
    answer = server.request("GET", "/with-private-tags/series")
    assert answer.status_code == 503
    assert complaint in answer.json()["Message"]
    assert server.log.count(complaint) == 1
    level = "W" if "names no tags" in complaint else "E"
    assert re.search(f"^{level}.*{re.escape(complaint)}", server.log, re.MULTILINE)
    server.restart()  # whatever was to be written is
    assert set(server.get(f"/series/{series}/metadata")) <= {"LastUpdate", "RemoteAET", "MainDicomTagsSignature"}


def test_where_users_must_log_in_and_revisions_are_checked_tags_are_kept_and_completed(
    start_orthanc: StartOrthanc,
) -> None:
    server = start_orthanc(
        SCRIPT,
        {**LISTED, "AuthenticationEnabled": True, "RegisteredUsers": {"user": "secret"}, "CheckRevisions": True},
    )
    full = study(patient_id="R", instances=2)

    def only_factor(dataset: Dataset) -> None:
        dataset.private_block(0x29, "ACME", create=True).add_new(0x10, "DS", "7")

    series = server.store(make_study(patient_id="R", instances=2, change=only_factor)[0])[0]["ParentSeries"]
    wait_for(server, series, {"Factor": "7"})
    server.store(full[1])
    wait_for(server, series, {**EXPECTED, "Factor": "7"})


def test_it_works_combined_with_other_scripts(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    combined = tmp_path / "combined.py"
    others = [ROOT / "purge_old_studies.py", ROOT / "series_thumbnail.py"]
    subprocess.run([sys.executable, ROOT / "combine.py", *others, SCRIPT, "-o", combined], check=True)
    server = start_orthanc(combined, LISTED)
    stored = server.store(study(instances=3))[0]
    wait_for(server, stored["ParentSeries"], EXPECTED)
    assert server.request("GET", f"/series/{stored['ParentSeries']}/thumbnail").status_code == 200


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
