# SPDX-License-Identifier: AGPL-3.0-or-later
"""anonymize_series.py: what its copies tell of patients, looked at by pydicom; the rules, the sending and the way back."""

from __future__ import annotations

import io
import re
import sqlite3
import stat
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from testing.dicom import make_study, part10_files, pydicom_files
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer
from testing.standin import StandIn

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "anonymize_series.py"
HIDDEN = "a secret for the tests, which nobody knows"
OPEN = {"AllowBurnedIn": True, "AllowNonImages": True}


def section(**more: Any) -> dict[str, Any]:
    return {"AnonymizeSeries": {"Secret": HIDDEN, "Recipes": {"strict": {}, "open": OPEN}, **more}}


def load() -> ModuleType:
    standin = StandIn("7.1", section())
    with standin.installed():
        return standin.load(SCRIPT)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load()


def read(server: OrthancServer, instance: str) -> Any:
    return pydicom.dcmread(io.BytesIO(server.request("GET", f"/instances/{instance}/file").content), force=True)


def anonymize(server: OrthancServer, resource: str, recipe: str) -> dict[str, Any]:
    """De-identify by hand, and wait until that is done."""
    return ended(server, server.post(f"/anonymize-series/{resource}", {"Recipe": recipe})["ID"])


def ended(server: OrthancServer, work: int) -> dict[str, Any]:
    def done() -> dict[str, Any] | None:
        found: dict[str, Any] = server.get(f"/anonymize-series/jobs/{work}")
        return found if found["State"] in ("done", "dead") else None

    return dict(server.wait_until(done, 120, f"work {work}"))


def register_of(server: OrthancServer) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{server.configuration['IndexDirectory']}/anonymize_series.sqlite?mode=ro", uri=True)


# What must not be in a copy, told here independently of the script (PS3.15 E.1).

TELLING = (
    *(
        "PatientID",
        "OtherPatientIDs",
        "AccessionNumber",
        "StudyID",
        "DeviceSerialNumber",
        "InstitutionName",
        "StationName",
    ),
    *("InstitutionAddress", "PatientAddress", "PatientTelephoneNumbers", "RequestedProcedureID", "AdmissionID"),
    *("InstitutionalDepartmentName", "PerformedProcedureStepID", "ScheduledProcedureStepID", "IssuerOfPatientID"),
    *("PatientComments", "AdditionalPatientHistory", "EthnicGroup", "Occupation"),
)
ELSEWHERE = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "DeviceSerialNumber", "AdmissionID")


def texts(element: Any) -> list[str]:
    if element.VR == "SQ" or element.value is None or isinstance(element.value, bytes):
        return []
    many = element.value if isinstance(element.value, pydicom.multival.MultiValue) else [element.value]
    return [text for each in many if (text := str(each).strip())]


def told_by(dataset: Any) -> tuple[dict[int, set[str]], set[str]]:
    """Identifying values by tag; and names, identifiers, UIDs and dates of four characters and more."""
    by_tag: dict[int, set[str]] = {}
    anywhere = set()
    for element in dataset.iterall():
        of_instances = element.VR == "UI" and "Class" not in element.keyword and "CodingScheme" not in element.keyword
        for text in texts(element):
            if of_instances and text.startswith("1.2.840.10008."):
                continue
            if of_instances or element.VR in ("PN", "DA", "DT") or element.keyword in TELLING:
                by_tag.setdefault(int(element.tag), set()).add(text)
            if of_instances or element.VR in ("PN", "DA", "DT") or element.keyword in ELSEWHERE:
                words = [text, *text.split("^")] if element.VR == "PN" else [text]
                anywhere |= {word for word in words if len(word) >= 4}
    return by_tag, anywhere


def told_again(original: Any, copy: Any) -> list[str]:
    by_tag, anywhere = told_by(original)
    found = []
    for element in [*copy.iterall(), *copy.file_meta]:
        values = texts(element)
        if set(values) & by_tag.get(int(element.tag), set()):
            found.append(f"{element.keyword}: the same value")
        if element.VR in ("DS", "IS"):
            found += [f"{element.keyword}: {value}" for value in values if value in anywhere]
        else:
            found += [f"{element.keyword} holds {word}" for value in values for word in anywhere if word in value]
        if isinstance(element.value, bytes) and element.tag.group != 0x7FE0:
            found += [f"{element.tag} holds {word}" for word in anywhere if word.encode() in element.value]
    return found


@pytest.fixture(scope="module")
def archive(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    """A server without rules, with pydicom's files in it."""
    server = start_orthanc_for_module(SCRIPT, {**section(ReIdentify=True), "StableAge": 3600})
    for path in pydicom_files(cstore=False):
        server.request("POST", "/instances", data=path.read_bytes())
    return server


def test_no_copy_of_pydicoms_files_tells_who_the_patient_is(archive: OrthancServer) -> None:
    originals = archive.get("/instances")
    studies = archive.get("/studies")
    assert len(originals) > 80
    work = [archive.post(f"/anonymize-series/{study}", {"Recipe": "open"})["ID"] for study in studies]
    for each in work:
        assert ended(archive, each)["State"] == "done", archive.get(f"/anonymize-series/jobs/{each}")
    rows = register_of(archive).execute("SELECT instance, original FROM copies WHERE recipe='open'").fetchall()
    held = {each["Instance"]: each["Reason"] for each in archive.get("/anonymize-series/held", limit=1000)["Items"]}
    assert {original for _, original in rows} | set(held) == set(originals)
    assert set(archive.get("/instances")) == set(originals) | {copy for copy, _ in rows}
    assert len(held) < 6, held
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for instance, original in rows:
            copy = read(archive, instance)
            before = read(archive, original)
            assert told_again(before, copy) == [], original
            assert copy.PatientIdentityRemoved == "YES"
            # Of two images with the same UIDs (rtdose….dcm: Orthanc sees some where the VR is UN) the first is there.
            if "PixelData" in before and [each for each, _ in rows].count(instance) == 1:
                assert copy.PixelData == before.PixelData
                assert copy.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID


def test_images_that_may_show_a_name_and_what_is_no_image_are_held_back_with_a_reason(archive: OrthancServer) -> None:
    kinds = {
        "BURNED": ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation is YES"),
        "FACE": ({"RecognizableVisualFeatures": "YES"}, "RecognizableVisualFeatures is YES"),
        "SECONDARY": ({"modality": "OT"}, "does not say NO"),
        "ULTRASOUND": ({"modality": "US"}, "does not say NO"),
        "CLEAN": ({"modality": "OT", "BurnedInAnnotation": "NO"}, None),
        "PLAIN": ({}, None),
    }
    for patient, (tags, reason) in kinds.items():
        stored = archive.store(make_study(patient_id=patient, **tags))[0]  # type: ignore[arg-type]
        done = anonymize(archive, stored["ParentSeries"], "strict")
        assert done["HeldBack"] == (reason is not None)
        assert len(done["Copies"]) == (reason is None)
        held = [each for each in held_back(archive) if each["Instance"] == stored["ID"]]
        assert [reason in each["Reason"] for each in held] == ([True] if reason else []), patient
    report = next(path for path in pydicom_files() if path.name == "test-SR.dcm")
    study = archive.store(report)[0]["ParentStudy"]
    assert anonymize(archive, study, "strict")["Copies"] == []
    assert any("it is no image" in each["Reason"] for each in held_back(archive))


def held_back(server: OrthancServer) -> list[dict[str, Any]]:
    found, since = [], 0
    while since is not None:
        page = server.get("/anonymize-series/held", since=since)
        found += page["Items"]
        since = page["Next"]
    return found


def tell_tales(dataset: Dataset) -> None:
    """Names and identifiers where a profile does not look for them."""
    item = Dataset()
    item.PersonName, item.PatientID, item.FrameOfReferenceUID = "Doe^Jane", "HOSP-4711", dataset.FrameOfReferenceUID
    dataset.ReferencedStudySequence = [item]
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    dataset.ReferencedImageSequence = [reference]
    dataset.private_block(0x29, "ACME", create=True).add_new(0x10, "LO", "Jane Doe")
    dataset.add_new(0x60003000, "OW", b"\0" * 512)


def test_series_of_one_patient_that_come_apart_stay_together_and_refer_to_each_other(archive: OrthancServer) -> None:
    files = make_study(patient_id="HOSP-4711", PatientName="Doe^Jane", series=2, instances=2, change=tell_tales)
    done = []
    for part in (files[:2], files[2:]):
        series = archive.store(part)[0]["ParentSeries"]
        done.append(anonymize(archive, series, "strict"))
    copies = [read(archive, each) for work in done for each in work["Copies"]]
    assert len(copies) == 4
    assert len({each.StudyInstanceUID for each in copies}) == 1
    assert len({each.SeriesInstanceUID for each in copies}) == 2
    assert len({each.PatientID for each in copies}) == 1
    assert len({each.FrameOfReferenceUID for each in copies}) == 1
    for each in copies:
        assert each.ReferencedImageSequence[0].ReferencedSOPInstanceUID == each.SOPInstanceUID
        assert str(each.SOPInstanceUID).startswith("2.25.")
        assert not [element for element in each if element.tag.is_private or element.tag.group == 0x6000]
    # The same again gives the same again.
    assert anonymize(archive, archive.store(files[0])[0]["ParentSeries"], "strict")["Copies"] == done[0]["Copies"]


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("SeriesDescription", "of Jane"),
        ("ImageComments", "hosp-4711"),
        ("ProtocolName", "study of 20240101"),
        ("Manufacturer", "DOE"),
    ],
)
def test_a_copy_that_still_tells_is_held_back(script: ModuleType, where: str, text: str) -> None:
    original = pydicom.dcmread(io.BytesIO(make_study(patient_id="HOSP-4711", PatientName="Doe^Jane^Mary")[0]))
    copy = Dataset()
    setattr(copy, where, text)
    found = script.what_remains(copy, original, frozenset())
    if where == "Manufacturer":
        assert found is None  # three characters
    else:
        assert where in found
        assert text not in found


def test_what_is_kept_and_replaced_and_removed_is_as_the_recipe_says(start_orthanc: StartOrthanc) -> None:
    recipe = {
        "Keep": ["StudyDescription", "StudyDate", "0008,0070"],
        "Replace": {"InstitutionName": "Somewhere"},
        "Remove": ["KVP"],
        "KeepPrivateTags": True,
    }
    server = start_orthanc(SCRIPT, section(Recipes={"mine": recipe}, PseudonymPrefix="STUDY7-"))
    files = make_study(
        change=lambda dataset: dataset.private_block(0x29, "ACME", create=True).add_new(0x10, "LO", "grey")
    )
    study = server.store(files)[0]["ParentStudy"]
    done = ended(server, server.post(f"/anonymize-series/{study}")["ID"])  # the only recipe
    copy = read(server, done["Copies"][0])
    assert (copy.StudyDescription, copy.StudyDate, copy.Manufacturer) == ("Generated study", "20240101", "Generated")
    assert (copy.InstitutionName, copy.get("KVP"), copy[0x00291010].value) == ("Somewhere", None, "grey")
    assert re.fullmatch("STUDY7-[B-Z]{16}", copy.PatientID)
    assert copy.get("ContentDate", "") == ""


# Rules and destinations


MR_TO = {"Rules": [{"Name": "mr", "Level": "Series", "Query": {"Modality": "MR"}, "Destinations": ["out"]}]}


@pytest.mark.parametrize("kind", ["Modality", "Peer"])
def test_a_stable_series_goes_out_de_identified_and_the_copy_is_deleted_and_killed_it_goes_on(
    start_orthanc: StartOrthanc, kind: str
) -> None:
    research = start_orthanc(aet="RESEARCH")
    known = {"DicomModalities": {"RESEARCH": research.as_modality()}, "OrthancPeers": {"RESEARCH": research.as_peer()}}
    recipes = {"out": {kind: "RESEARCH", "DeleteCopy": True}}
    server = start_orthanc(SCRIPT, {**section(Recipes=recipes, **MR_TO), **known})
    research.stop()
    originals = server.store(make_study(modality="MR", patient_id="4711", instances=3))
    server.store(make_study(modality="CT", patient_id="4712"))
    server.wait_until(lambda: server.get("/anonymize-series/status")["Copies"] == 3, what="make the copies")
    server.kill()
    research.start()
    server.start()
    server.wait_until(lambda: len(research.get("/instances")) == 3, 60, "arrive")
    server.wait_until(lambda: len(server.get("/instances")) == 4, 60, "delete the copies, and nothing else")
    assert {each["ID"] for each in originals} < set(server.get("/instances"))
    for each in research.get("/instances"):
        dataset = read(research, each)
        assert told_again(pydicom.dcmread(io.BytesIO(make_study(modality="MR", patient_id="4711")[0])), dataset) == []
    # Its own copies are no reason to make copies.
    server.wait_until_stable()
    assert server.get("/anonymize-series/status")["Copies"] == 3


def test_copies_go_to_a_dicomweb_server_by_the_plugins_route(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    plugin = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
import orthanc
import anonymize_series
def stow(output, uri, **request):
    job = json.loads(orthanc.RestApiPost("/modalities/NODE/store", request["body"]))
    output.AnswerBuffer(json.dumps({{"ID": job["ID"], "Path": job["Path"]}}).encode(), "application/json")
orthanc.RegisterRestCallback("/dicom-web/servers/cloud/stow", stow)
"""
    research = start_orthanc(aet="RESEARCH")
    server = start_orthanc(
        plugin,
        {**section(Recipes={"out": {"Stow": "cloud"}}), "DicomModalities": {"NODE": research.as_modality()}},
    )
    study = server.store(make_study())[0]["ParentStudy"]
    done = anonymize(server, study, "out")
    assert (done["State"], research.get("/instances")) == ("done", done["Copies"])


def test_a_destination_that_is_not_there_is_tried_again_then_dead_until_a_person_retries(
    start_orthanc: StartOrthanc, storescp: StoreScp
) -> None:
    storescp.stop()
    recipes = {"out": {"Modality": "NODE", "DeleteCopy": True}}
    retry = {"GiveUpHours": 1 / 3600}
    server = start_orthanc(
        SCRIPT, {**section(Recipes=recipes, Retry=retry), "DicomModalities": {"NODE": storescp.as_modality()}}
    )
    study = server.store(make_study())[0]["ParentStudy"]
    done = anonymize(server, study, "out")
    assert done["State"] == "dead"
    assert set(done["Copies"]) <= set(server.get("/instances"))  # what did not arrive is not deleted
    storescp.start()
    server.post(f"/anonymize-series/jobs/{done['ID']}/retry")
    assert ended(server, done["ID"])["State"] == "done"
    assert len(storescp.files()) == 1
    assert server.request("POST", f"/anonymize-series/jobs/{done['ID']}/retry").status_code == 409


# The way back


def result_on(copy: Any, **tags: Any) -> Any:
    """What a service makes of a copy: another image, in a series of its own, that refers to it."""
    result = pydicom.dcmread(io.BytesIO(next(part10_files(copy))))
    result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    result.SeriesInstanceUID, result.SeriesDescription = pydicom.uid.generate_uid(), "Result"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = copy.SOPClassUID, copy.SOPInstanceUID
    result.ReferencedImageSequence = [reference]
    for keyword, value in tags.items():
        setattr(result, keyword, value)
    return result


@pytest.mark.parametrize("name", ["Müller^Jürgen", "Yamada^Tarou=山田^太郎=やまだ^たろう"])
def test_a_result_is_put_into_the_original_study_with_its_identity(archive: OrthancServer, name: str) -> None:
    files = make_study(
        patient_id=f"B{len(name)}", PatientName=name, AccessionNumber="ACC-77", modality="MR", PatientSex="F", seed=name
    )
    stored = archive.store(files)[0]
    original = read(archive, stored["ID"])
    copy = read(archive, anonymize(archive, stored["ParentStudy"], "strict")["Copies"][0])
    came = archive.store(result_on(copy))[0]
    done = ended(archive, archive.post(f"/anonymize-series/{came['ParentSeries']}/re-identify")["ID"])
    [made] = done["Copies"]
    result = read(archive, made)
    assert archive.get(f"/instances/{made}/study")["ID"] == stored["ParentStudy"]
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
                    "AccessionNumber", "StudyDescription", "FrameOfReferenceUID"):  # fmt: skip
        assert result[keyword].value == original[keyword].value, keyword
    assert result.ReferencedImageSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert (result.SeriesDescription, result.PixelData) == ("Result", original.PixelData)
    assert "PatientIdentityRemoved" not in result
    # Its own UIDs are others: who knows the result as it came can't tell whose it is.
    assert read(archive, came["ID"]).SOPInstanceUID != result.SOPInstanceUID
    # Twice it is the same; and the copy itself, which may come back too, is no result that replaces its original.
    again = ended(archive, archive.post(f"/anonymize-series/{came['ParentStudy']}/re-identify")["ID"])
    assert (again["Copies"], again["Instances"]) == (done["Copies"], 2)
    assert read(archive, stored["ID"]) == original
    for asked in ({"patient": original.PatientID}, {"study": original.StudyInstanceUID}, {"pseudonym": copy.PatientID}):
        [entry] = archive.get("/anonymize-series/register", **asked)["Items"]
        assert (entry["PatientID"], entry["Pseudonym"]) == (original.PatientID, copy.PatientID)


def test_a_result_is_taken_back_also_when_the_original_is_gone_from_here(archive: OrthancServer) -> None:
    stored = archive.store(make_study(patient_id="GONE-1", PatientName="Roe^Richard"))[0]
    copy = read(archive, anonymize(archive, stored["ParentStudy"], "strict")["Copies"][0])
    archive.delete(f"/studies/{stored['ParentStudy']}")
    came = archive.store(result_on(copy))[0]
    done = ended(archive, archive.post(f"/anonymize-series/{came['ID']}/re-identify")["ID"])
    result = read(archive, done["Copies"][0])
    assert (result.PatientName, result.PatientID) == ("Roe^Richard", "GONE-1")
    assert archive.get(f"/instances/{done['Copies'][0]}/study")["ID"] == stored["ParentStudy"]


def test_nobody_is_told_whose_a_copy_is_unless_that_is_configured(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, section())
    stored = server.store(make_study(patient_id="HIDDEN-1"))[0]
    copy = anonymize(server, stored["ParentStudy"], "strict")["Copies"][0]
    answers = [
        server.request("POST", f"/anonymize-series/{copy}/re-identify"),
        server.request("GET", "/anonymize-series/register?patient=HIDDEN-1"),
    ]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert "ReIdentify is false" in answers[0].json()["Message"]
    path = Path(server.configuration["IndexDirectory"]) / "anonymize_series.sqlite"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert HIDDEN not in server.log
    assert "HIDDEN-1" not in server.log
    assert HIDDEN.encode() not in path.read_bytes()


# What is asked for


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "00000000-00000000-00000000-00000000-00000000", {"Recipe": "open"}, 404),
        ("POST", "00000000-00000000-00000000-00000000-00000000", {"Recipe": "other"}, 400),
        ("POST", "00000000-00000000-00000000-00000000-00000000", {}, 400),
        ("POST", "00000000-00000000-00000000-00000000-00000000", {"Recipe": "open", "Keep": []}, 400),
        ("POST", "00000000-00000000-00000000-00000000-00000000/re-identify", {}, 404),
        ("POST", "{original}/re-identify", {}, 409),
        ("GET", "jobs/999999999999999999999", None, 404),
        ("GET", "jobs?state=lost", None, 400),
        ("GET", "held?limit=0", None, 400),
        ("GET", "register", None, 400),
        ("DELETE", "status", None, 405),
    ],
)
def test_what_can_not_be_done_is_a_4xx_that_says_why(
    archive: OrthancServer, method: str, path: str, body: Any, status: int
) -> None:
    if "{original}" in path:
        path = path.format(original=archive.store(make_study(patient_id="NEVER"))[0]["ParentStudy"])
    answer = archive.request(method, f"/anonymize-series/{path}", json=body)
    assert answer.status_code == status
    assert status == 405 or answer.json()["Message"]
    evil = {"Origin": "https://evil.example"}
    if method == "POST":
        assert archive.request(method, f"/anonymize-series/{path}", json=body, headers=evil).status_code == 403


@pytest.mark.parametrize(
    ("configuration", "complaint"),
    [
        ({"Secret": None}, "AnonymizeSeries.Secret: found none, allowed: at least 32 characters"),
        ({"Secret": "too short to be one"}, "AnonymizeSeries.Secret: found a value that is not shown here"),
        ({"Recipes": {"a": {"Modality": "A", "Peer": "B"}}}, "Recipes.a: found A and B"),
        ({"Recipes": {"a": {"DeleteCopy": True}}}, "Recipes.a.DeleteCopy"),
        ({"Recipes": {"a": {"Keep": ["PatientNaem"]}}}, 'Recipes.a.Keep: found "PatientNaem"'),
        ({"Recipes": {"a": {"Replace": {"PatientID": "X"}}}}, "Recipes.a: found PatientID"),
        ({"Recipes": {"a": {"Keep": ["StudyInstanceUID"]}}}, "Recipes.a: found StudyInstanceUID"),
        ({"Rules": [{"Name": "r", "Level": "Patient"}]}, "Rules[0].Level"),
        ({"Rules": [{"Name": "r", "Destinations": ["none"]}]}, 'Rules[0].Destinations: found "none"'),
        ({"Rules": [{"Name": "r", "Query": {"Modality": "MR"}}]}, "Rules[0].Query.Modality"),
        ({"Results": {"RemoteAET": ["AI"]}}, "ReIdentify: found false"),
    ],
)
def test_what_is_misconfigured_is_one_error_that_names_the_key(configuration: dict[str, Any], complaint: str) -> None:
    standin = StandIn("7.1", section(**configuration))
    with standin.installed():
        standin.load(SCRIPT)
    [error] = [text for level, text in standin.logs if level == "error"]
    assert complaint in error
    assert "allowed: " in error
    assert "too short" not in error
    assert "RegisterOnChangeCallback" not in standin.registered


SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40)
JSON = SCALAR | st.lists(SCALAR, max_size=2) | st.dictionaries(st.text(max_size=4), SCALAR, max_size=2)
KEYS = [
    "Secret",
    "Recipes",
    "Rules",
    "RuleMode",
    "PseudonymPrefix",
    "ReIdentify",
    "Results",
    "Retry",
    "Durability",
    "Sercet",
]
RECIPE = st.dictionaries(st.sampled_from(["Keep", "Replace", "Remove", "Modality", "DeleteCopy", "DicomVersion"]), JSON)


@given(
    found=st.dictionaries(st.sampled_from(KEYS), JSON | st.dictionaries(st.text(max_size=3), RECIPE, max_size=2)) | JSON
)
@settings(max_examples=60)
def test_whatever_the_section_holds_the_script_runs_or_is_idle_with_one_error(found: Any) -> None:
    standin = StandIn("7.1", {"AnonymizeSeries": found})
    with standin.installed():
        standin.load(SCRIPT)
    errors = [text for level, text in standin.logs if level == "error"]
    assert len(errors) <= 1
    assert bool(errors) != ("RegisterOnChangeCallback" in standin.registered)
    says = ("allowed: ", "did you mean ")
    assert all(error.startswith("AnonymizeSeries") and any(each in error for each in says) for error in errors)


# Pseudonyms


@given(st.text(), st.text())
def test_pseudonyms_are_uids_that_are_valid_the_same_and_others_for_others(one: str, other: str) -> None:
    make = SHARED.Pseudonyms(HIDDEN, "")
    elsewhere = SHARED.Pseudonyms(HIDDEN + "!", "")
    assert pydicom.uid.UID(make.uid(one)).is_valid
    assert (make.uid(one) == make.uid(other)) == (one == other)
    assert make.uid(one) != make.uid(one, "result")
    assert make.uid(one) != elsewhere.uid(one)
    assert make.patient(one, "1") != elsewhere.patient(one, "1")
    assert (make.patient(one, "1") == make.patient(one, "2")) == bool(one)


SHARED = load()
