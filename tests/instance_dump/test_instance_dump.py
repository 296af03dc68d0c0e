# SPDX-License-Identifier: AGPL-3.0-or-later
"""instance_dump.py: what a real Orthanc answers for pydicom's own files, and what is refused."""

from __future__ import annotations

import base64
import io
import random
import shutil
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from testing.dicom import make_study, pydicom_files
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "instance_dump.py"
DICTIONARY = {"0029,1010": ["DS", "AcmeFactor", 1, 9, "ACME DUMPS"], "0010,1234": ["LO", "NotPrivate", 1, 1]}


def load() -> ModuleType:
    standin = StandIn("4.0")
    with standin.installed():
        return standin.load(SCRIPT)


SHARED = load()


@pytest.fixture
def script() -> ModuleType:
    return SHARED


@pytest.fixture(scope="module")
def server(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    return start_orthanc_for_module(SCRIPT, {"StableAge": 3600, "Dictionary": DICTIONARY})


@pytest.fixture(scope="module")
def stored(server: OrthancServer) -> dict[str, Path]:
    """Orthanc identifiers of pydicom's files, those that are in there."""
    found = {}
    for path in pydicom_files(cstore=False):
        answer = server.request("POST", "/instances", data=path.read_bytes())
        if answer.ok and answer.json()["Status"] == "Success":
            found[answer.json()["ID"]] = path
    assert len(found) > 80
    return found


# What is shown


def test_each_file_of_pydicom_is_shown_as_pydicom_prints_it_and_without_its_pixels(
    server: OrthancServer, stored: dict[str, Path]
) -> None:
    cut = 0
    for instance, path in stored.items():
        answer = server.request("GET", f"/pydicom/{instance}")
        assert answer.status_code == 200, (path, answer.text)
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        expected = str(pydicom.dcmread(path)).encode("utf-8", "replace").decode().split("\n")
        shown = answer.text.removesuffix("\n").split("\n")
        assert len(shown) == len(expected)
        for ours, theirs in zip(shown, expected, strict=True):
            kept, mark, length = ours.partition("… (cut, of ")
            assert len(ours) < 400
            assert theirs.startswith(kept)
            assert theirs == ours or int(length.split()[0]) > len(kept.partition(": ")[2])
            cut += bool(mark)
    assert cut > 2


def test_json_is_the_dicom_json_of_pydicom_with_addresses_for_what_is_large(
    server: OrthancServer, stored: dict[str, Path]
) -> None:
    fetched = 0
    for instance, path in stored.items():
        answer = server.request("GET", f"/pydicom/{instance}", headers={"Accept": "application/dicom+json"})
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/dicom+json"), path
        assert len(answer.content) < 200_000
        dataset = pydicom.dcmread(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fetched += compare(server, instance, answer.json(), dataset)
    assert fetched > 40


def compare(server: OrthancServer, instance: str, found: dict[str, Any], dataset: Dataset) -> int:
    """Compare each element with what pydicom says; gives the number of values that were fetched by their address."""
    fetched = 0
    assert set(found) == {f"{tag:08X}" for tag in dataset.keys()}  # noqa: SIM118
    for element in dataset:
        shown = found[f"{element.tag:08X}"]
        assert shown["vr"] in str(element.VR)
        if element.VR == "SQ":
            items = shown.get("Value", [])
            fetched += sum(compare(server, instance, *pair) for pair in zip(items, element.value, strict=True))
        elif "BulkDataURI" in shown:
            assert shown["BulkDataURI"].startswith(f"../instances/{instance}/content/")
            answer = server.request("GET", f"/pydicom/{shown['BulkDataURI']}")
            assert answer.ok
            if isinstance(element.value, bytes) and element.tag.group != 0x7FE0 and element.VR != "UN":
                assert len(answer.content) == len(element.value) + len(element.value) % 2
                fetched += 1
            fetched += element.tag.group == 0x7FE0
        elif "InlineBinary" in shown:
            assert element.tag.group != 0x7FE0
            assert base64.b64decode(shown["InlineBinary"]) == element.value
        elif element.VR in ("LO", "SH", "UI", "CS", "DA", "TM") and element.VM == 1 and not element.is_empty:
            assert shown["Value"] == [str(element.value)]
        elif element.is_empty:
            assert not shown.get("Value")
    return fetched


def odd(dataset: Dataset) -> None:
    block = dataset.private_block(0x29, "ACME DUMPS", create=True)
    block.add_new(0x10, "DS", ["1.5"])
    block.add_new(0x11, "UT", "long " * 100_000)
    dataset.private_block(0x29, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"\0" * 4000)
    dataset.SelectorFDValue = [float("nan"), float("inf"), 1.5]
    dataset.PatientComments = "<script>alert(1)</script>\r\n(0010,0010) Patient's Name  PN: 'Forged'"


def test_private_tags_have_the_names_that_pydicom_and_orthancs_dictionary_know(server: OrthancServer) -> None:
    instance = server.store(make_study(patient_id="ODD", change=odd))[0]["ID"]
    answer = server.request("GET", f"/pydicom/{instance}")
    lines = {line[:11]: line for line in answer.text.splitlines()}
    assert "[AcmeFactor]" in lines["(0029,1010)"]
    assert "[CSA Image Header Type]" in answer.text or "[CSA Image Header Info]" in answer.text
    assert lines["(0029,1011)"].endswith("UT: Array of 499999 elements")
    # A value is no line, and no page.
    assert answer.text.count("\n(0010,0010)") == 1
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    found = server.get(f"/pydicom/{instance}", format="json")
    assert found["00720074"]["Value"] == ["nan", "inf", 1.5]
    assert found["00291011"] == {"vr": "UT", "BulkDataURI": f"../instances/{instance}/content/0029-1011"}


def test_no_value_makes_a_line_of_its_own_or_moves_a_cursor(script: ModuleType) -> None:
    content = make_study(DoseReferenceUID=b"1\n(0010,0010) ", RelatedFrameOfReferenceUID="1.2\x1b[2J")[0]
    shown = script.shown(content, "id", "text").content.decode()
    assert shown.count("\n(0010,0010) ") == 1
    assert "\x1b" not in shown
    assert "1\\n(0010,0010)" in shown


def test_an_element_that_breaks_its_vr_is_shown_by_its_bytes(script: ModuleType) -> None:
    content = make_study(change=lambda dataset: dataset.add_new(0x00189087, "FD", 1.5))[0]
    at = content.index(b"\x18\x00\x87\x90FD\x08\x00")
    broken = content[: at + 4] + b"FD\x07\x00" + content[at + 9 :]  # a number of seven bytes
    shown = script.shown(broken, "id", "text").content.decode()
    assert "(0018,9087) Diffusion b-value" in shown
    assert "OB: b'" in shown
    assert "Test^PATIENT" in shown


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.sampled_from(["text", "json"]))
def test_a_broken_file_is_shown_or_refused(seed: int, chosen: str) -> None:
    module = SHARED
    chance = random.Random(seed)
    content = bytearray(chance.choice([p for p in pydicom_files() if p.stat().st_size < 20_000]).read_bytes())
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(len(content))] = chance.choice([0, 1, 0xFE, 0xFF, 0x53])
    try:
        status = module.shown(bytes(content[: chance.choice([len(content), 700])]), "id", chosen).status
    except module.Refused as refused:
        status = refused.status
    assert status in (200, 415)


# What is asked for


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "text"),
        ("*/*", "text"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8", "text"),
        ("application/json", "json"),
        ("application/dicom+json", "dicom+json"),
        ("application/*", "json"),
        ("text/plain;q=0.1, application/json", "json"),
        ("text/plain;q=0, */*", "json"),
        ("TEXT/*;q=1.0,*/*;q=0.1", "text"),
        ("image/png", None),
        ("text/plain;q=nonsense", None),
    ],
)
def test_accept_chooses_the_format(script: ModuleType, accept: str, chosen: str | None) -> None:
    if chosen:
        assert script.chosen_format({}, accept) == chosen
        assert script.chosen_format({"format": "json"}, accept) == "json"
    else:
        with pytest.raises(script.Refused) as refused:
            script.chosen_format({}, accept)
        assert refused.value.status == 406


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_whatever_accept_says_it_is_a_format_or_a_406(accept: str) -> None:
    module = SHARED
    try:
        chosen = module.chosen_format({}, accept)
    except module.Refused as refused:
        chosen = refused.status
    assert chosen in (*module.FORMATS, 406)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("00000000-00000000-00000000-00000000-00000000", 404),
        ("patients", 404),
        ("%0d%0aX-Injected%3A%20yes", 404),
        ("{}?format=xml", 400),
        ("{}?size=3", 400),
    ],
)
def test_what_is_not_there_is_404_and_what_is_not_understood_400(
    server: OrthancServer, stored: dict[str, Path], path: str, status: int
) -> None:
    answer = server.request("GET", f"/pydicom/{path.format(next(iter(stored)))}")
    assert answer.status_code == status
    assert answer.headers["Content-Type"] in ("application/json", "text/plain") or status == 404
    if status == 400:
        assert "allowed: " in answer.json()["Message"]


def test_other_methods_are_405_and_other_formats_406(server: OrthancServer, stored: dict[str, Path]) -> None:
    path = f"/pydicom/{next(iter(stored))}"
    answer = server.request("DELETE", path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    assert server.request("GET", path, headers={"Accept": "image/png"}).status_code == 406


def test_what_orthanc_takes_and_pydicom_cannot_read_is_415(server: OrthancServer) -> None:
    content = bytearray(next(p for p in pydicom_files() if p.name == "SC_rgb_dcmtk_+eb+cy+n1.dcm").read_bytes())
    uid = pydicom.dcmread(io.BytesIO(content)).SOPInstanceUID.encode()
    content[352] = 0  # a length of its file meta information
    content = content.replace(uid, uid[:-1] + b"9")  # the file as it was may be there
    stored = server.post("/instances", bytes(content))
    assert stored["Status"] == "Success"
    answer = server.request("GET", f"/pydicom/{stored['ID']}")
    assert answer.status_code == 415
    assert answer.json()["Message"] == "pydicom can't read this instance: ValueError"


def test_without_pydicom_one_line_names_it_and_orthanc_runs(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    (tmp_path / "pydicom.py").write_text("raise ImportError('none here')\n")  # the script's folder comes first
    shutil.copy(SCRIPT, tmp_path)
    server = start_orthanc(tmp_path / SCRIPT.name)
    instance = server.store(make_study())[0]["ID"]
    answer = server.request("GET", f"/pydicom/{instance}")
    assert answer.status_code == 503
    assert "apt install python3-pydicom," in answer.json()["Message"]
    assert server.log.count("instance_dump stays idle: it needs the Python package pydicom") == 1
    assert "Traceback" not in server.log


def test_it_works_combined_with_other_scripts(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    others = [ROOT / "purge_old_studies.py", ROOT / "series_private_tags.py"]
    combined = combine_scripts(*others, SCRIPT, to=tmp_path / "combined.py")
    server = start_orthanc(combined)
    instance = server.store(make_study(patient_id="COMBINED"))[0]["ID"]
    assert "'COMBINED'" in server.get(f"/pydicom/{instance}")
