# SPDX-License-Identifier: AGPL-3.0-or-later
"""`Scripts.StatePath`: the folder of the state of all scripts, but of one that has a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.every_script.test_misspelt_keys import ROOT, SECRET, Script
from tests.every_script.test_misspelt_keys import script as script
from tests.scripts import PACKAGES, SCRIPTS, combine_scripts

SECTIONS = {
    "AnonymizeSeries": {"Secret": SECRET},
    "AutoForwardDicomweb": {"Destinations": []},
    "AutoForwardModality": {"Destinations": []},
    "AutoForwardPeer": {"Destinations": []},
    "PurgeOldStudies": {"StatePath": "of-the-purge"},
    "SeriesMainPrivateDicomTags": {"Tags": ["0029,1010:CREATOR"]},
}
STATE_OF_ALL = {
    *("anonymize_series.sqlite", "audit-log", "audit_log.key", "audit_log.sqlite", "auto_forward_modality.sqlite"),
    *(
        "auto_forward_peer.sqlite",
        "auto_retries.sqlite",
        "cmove_interceptor.sqlite",
        "dashboard.sqlite",
        "dicom_events.jsonl",
    ),
    *("dicom_events.journal", "dicom_events.sqlite", "kept.sqlite", "series_private_tags.sqlite"),
}
# A script of a user's own, whose events are kept.
HANDLERS = """
import orthanc
from event_dispatcher import AtLeastOnce, register_event_handlers
register_event_handlers({orthanc.ChangeType.STABLE_STUDY: lambda event, _: None}, orthanc, at_least_once=AtLeastOnce(name="kept"))
"""


def test_all_state_is_in_one_folder_but_that_of_a_script_with_a_folder_of_its_own(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    names = [path for path in SCRIPTS if path.name != "auto_forward_dicomweb.py"]  # it needs a plugin
    (tmp_path / "handlers.py").write_text(HANDLERS)
    (tmp_path / "event_dispatcher.py").write_text((ROOT / "event_dispatcher.py").read_text())
    combine_scripts(*names, *PACKAGES, tmp_path / "handlers.py", to=tmp_path / "all.py")
    server = start_orthanc(
        tmp_path / "all.py",
        {"Scripts": {"StatePath": "${STATE_OF_ALL:-state}/all"}, **SECTIONS},
        environment={"STATE_OF_ALL": str(tmp_path / "scripts")},
    )
    server.store(make_study())
    folder, own = tmp_path / "scripts" / "all", server.folder / "of-the-purge"

    def state() -> set[str]:
        return {path.name for path in folder.glob("*") if not path.name.endswith((".lock", "-wal", "-shm"))}

    server.wait_until(lambda: state() >= STATE_OF_ALL and (own / "purge_old_studies.sqlite").exists())
    assert state() == STATE_OF_ALL
    assert {path.name.partition(".")[0] for path in own.iterdir()} == {"purge_old_studies"}
    storage = {
        path.name for path in server.folder.rglob("*") if path.suffix in (".sqlite", ".journal", ".jsonl", ".key")
    }
    assert storage == {"purge_old_studies.sqlite", "purge_old_studies.jsonl"}, "beside the index nothing of ours"
    server.wait_until_stable()


def test_a_wrong_one_leaves_each_script_idle(script: Script, tmp_path: Path) -> None:
    for wrong, found in ((5, "found 5"), ("", "is empty (is its environment variable set?)"), (["x"], 'found ["x"]')):
        [line] = script.start({**script.configuration, "Scripts": {"StatePath": wrong}})
        assert line.startswith("Scripts.StatePath")
        assert found in line
        script.check_idle(line)
    configuration = {**script.configuration, "Scripts": {"StatePath": "/var/lib/${NOT_SET_1}"}}
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    script.standin.returns["GetConfigurationPath"] = str(tmp_path / "orthanc.json")
    try:
        [line] = script.start({**script.configuration, "Scripts": {"StatePath": "/var/lib/"}})
    finally:
        del script.standin.returns["GetConfigurationPath"]
    assert line.startswith("Scripts.StatePath: the environment variable NOT_SET_1 is not set, allowed: a text")
    script.check_idle(line)
