# SPDX-License-Identifier: AGPL-3.0-or-later
"""An option of a store call that the running Orthanc would ignore is an error: the study would go somewhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.standin import StandIn

SCRIPT = Path(__file__).parents[2] / "auto_forward_modality.py"
PATH = "AutoForwardModality.DestinationOptions.PACS.Options"


def section(**options: Any) -> dict[str, Any]:
    return {"AutoForwardModality": {"DestinationOptions": {"PACS": {"Options": options}}}}


@pytest.mark.parametrize("version", [(1, 10, 1), (1, 11, 2), (1, 11, 3), (1, 13, 0)])
def test_what_this_orthanc_ignores_leaves_the_script_idle(orthanc_standin: StandIn, version: tuple[int, ...]) -> None:
    orthanc_standin.returns["CheckVersionAdvanced"] = lambda *least: int(version >= least)
    orthanc_standin.configuration = section(Host="192.0.2.1", LocalAet="ME", CalledAet="X", Port=104)
    orthanc_standin.load(SCRIPT)
    said = [text for level, text in orthanc_standin.logs if level == "error"]
    if version >= (1, 11, 3):
        assert said == []
    else:
        [line] = said
        found = "CalledAet (from Orthanc 1.11.3), Host (from Orthanc 1.11.3), Port (from Orthanc 1.11.3)"
        assert line == (
            f"{PATH}: found {found}, which this Orthanc ignores. auto_forward_modality is idle until this is corrected."
        )


def test_a_study_goes_where_the_options_say_or_nowhere(start_orthanc: StartOrthanc) -> None:
    """Of the running Orthanc: `Port` leads to another server than the node's own entry."""
    own, other = start_orthanc(aet="OWN"), start_orthanc(aet="OTHER")
    configuration = {
        "DicomModalities": {"PACS": own.as_modality()},
        **section(Port=other.dicom_port, CalledAet="OTHER"),
    }
    configuration["AutoForwardModality"]["Destinations"] = ["PACS"]
    source = start_orthanc(SCRIPT, configuration)
    source.store(make_study())
    source.wait_until_stable()
    version = tuple(int(part) for part in source.get("/system")["Version"].split("."))
    if version < (1, 11, 3):
        source.wait_for_log(f"{PATH}: found CalledAet (from Orthanc 1.11.3), Port (from Orthanc 1.11.3), which this")
        assert source.request("GET", "/auto-forward-modality/deliveries").status_code == 503
    else:
        source.wait_until(lambda: other.get("/instances"), what="send where the options say")
    assert own.get("/instances") == []
