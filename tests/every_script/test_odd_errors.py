# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a user's own code raises, even if it can't be shown, holds up nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.event_dispatcher.test_orthanc import written

ROOT = Path(__file__).parents[2]
ODD = {
    "it can't be shown": """
class Odd(Exception):
    def __repr__(self):
        raise RuntimeError("no")
    __str__ = __repr__
""",
    "half of a character": """
class Odd(Exception):
    def __repr__(self):
        return "\\ud800"
    __str__ = __repr__
""",
    "it ends the program": """
Odd = SystemExit
""",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_an_error_of_a_handler_holds_up_no_other(start_orthanc: StartOrthanc, tmp_path: Path, odd: str) -> None:
    notes = tmp_path / "notes"
    script = f"""{odd}
def fails(event, session):
    raise Odd

def works(event, session):
    with open({str(notes)!r}, "a") as file:
        file.write(event.resource_id + "\\n")

from event_dispatcher import AtLeastOnce
register_event_handlers({{orthanc.ChangeType.NEW_INSTANCE: [fails, works]}}, orthanc, None,
    at_least_once=AtLeastOnce("odd", first=1, longest=1))
"""
    server = start_orthanc(written(tmp_path / "scripts", script))
    for patient in range(5):
        server.store(make_study(patient_id=f"P{patient}"))
    server.wait_until(
        lambda: notes.exists() and len(set(notes.read_text().splitlines())) == 5, timeout=20, what="handle all"
    )


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_an_error_of_a_matcher_holds_up_no_other(start_orthanc: StartOrthanc, tmp_path: Path, odd: str) -> None:
    there = start_orthanc(aet="THERE")
    (tmp_path / "matcher.py").write_text(f"""{odd}
def choose(batch):
    if batch["Tags"]["PatientID"] == "ODD":
        raise Odd
    return "THERE"
""")
    rules = [{"Name": "chosen", "Matcher": f"{tmp_path / 'matcher.py'}:choose"}]
    here = start_orthanc(
        ROOT / "auto_forward_modality.py",
        {"DicomModalities": {"THERE": there.as_modality()}, "AutoForwardModality": {"Rules": rules}},
        aet="HERE",
    )
    here.store_scu(make_study(patient_id="ODD"))
    here.wait_for_log("the rules can't be applied")
    here.store_scu(make_study(patient_id="PLAIN"))
    here.wait_until(lambda: len(there.get("/instances")) == 1, timeout=20, what="send the other")
