# SPDX-License-Identifier: AGPL-3.0-or-later
"""Values from environment variables on a real Orthanc, numbers, true and false too: a wrong or unset one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.every_script.test_misspelt_keys import ROOT, SECTIONS, Script
from tests.every_script.test_misspelt_keys import script as script
from tests.scripts import combine_scripts

SECRET = "opensesame"  # noqa: S105 - too short, and never to be seen
ENVIRONMENT = {"MAX_JOBS": "3", "NEVER": "false", "DESTINATION": "DEST", "PERCENT": "ninety", "SHORT_SECRET": SECRET}
CONFIGURATION = {
    "AutoForwardModality": {
        "Destinations": ["${DESTINATION}"],
        "MaxPerDestination": "${MAX_JOBS}",
        "DeleteAfterForward": "${NEVER}",
        "Retry": {"GiveUpHours": "${GIVE_UP_FORWARDING:-2.5}"},
        "DestinationOptions": {"DEST": {"Options": {"Timeout": "${STORE_TIMEOUT:-20}"}}},
    },
    "AutoRetries": {"Retry": {"GiveUpHours": "${GIVE_UP:-never}"}},
    "PurgeOldStudies": {"MaxPercent": "${PERCENT}"},
    "AnonymizeSeries": {"Secret": "${SHORT_SECRET}"},
    "AuditLog": {"Key": "${KEY_THAT_NOBODY_SET}"},
    "DicomEvents": {
        "Brokers": {
            "one": {"Type": "log"},
            "two": {"Type": "rabbitmq", "RabbitConfig": {"URL": "amqp://me:${PASSWORD_THAT_NOBODY_SET}@127.0.0.1/"}},
        }
    },
}
EXPECTED = {
    "auto-retries": 'AutoRetries.Retry.GiveUpHours: found "never" from the environment variable GIVE_UP, allowed: a number',
    "purge-old-studies": 'PurgeOldStudies.MaxPercent: found "ninety" from the environment variable PERCENT, allowed: a',
    "audit-log": "AuditLog.Key: the environment variable KEY_THAT_NOBODY_SET is not set, allowed: at least 32 characters",
    "anonymize-series": "AnonymizeSeries.Secret: found a value that is not shown here from the environment variable SHORT_SECRET",
}


@pytest.fixture(scope="module")
def server(
    start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory
) -> tuple[OrthancServer, OrthancServer]:
    """An Orthanc with several scripts, and its destination."""
    names = (
        "anonymize_series.py",
        "audit_log.py",
        "auto_forward_modality.py",
        "auto_retries.py",
        "dicom_events",
        "purge_old_studies.py",
    )
    path = combine_scripts(*(ROOT / name for name in names), to=tmp_path_factory.mktemp("combined") / "combined.py")
    destination = start_orthanc_for_module(aet="DEST")
    nodes = {"DicomModalities": {"DEST": destination.as_modality()}}
    whole = {**nodes, **CONFIGURATION, "CombinedScripts": {"LogPrefix": "${PREFIX:-false}"}}
    return start_orthanc_for_module(path, whole, environment=ENVIRONMENT), destination


def test_a_script_runs_with_numbers_and_flags_from_variables(server: tuple[OrthancServer, OrthancServer]) -> None:
    orthanc, destination = server
    assert orthanc.get("/auto-forward-modality/status")["State"] == "running"
    study = make_study()
    orthanc.store(study)
    destination.wait_until(lambda: len(destination.get("/instances")) == len(study))


def test_each_script_names_the_variable_that_is_wrong_or_not_set_in_one_line(
    server: tuple[OrthancServer, OrthancServer],
) -> None:
    orthanc, _ = server
    for name, line in EXPECTED.items():
        answer = orthanc.request("GET", f"/{name}/status")
        assert answer.status_code == 503
        assert answer.json()["Message"].startswith(line)
        assert sum(line in each for each in orthanc.log.splitlines()) == 1


def test_a_broker_with_a_variable_that_is_not_set_is_off_alone(server: tuple[OrthancServer, OrthancServer]) -> None:
    orthanc, _ = server
    orthanc.assert_logged(
        "DicomEvents.Brokers.two.RabbitConfig.URL: the environment variable PASSWORD_THAT_NOBODY_SET is not set"
    )
    assert orthanc.get("/dicom-events/status")["State"] == "running"


def test_no_value_of_a_variable_that_may_be_secret_is_in_the_log(server: tuple[OrthancServer, OrthancServer]) -> None:
    assert SECRET not in server[0].log


def test_each_script_names_a_variable_that_is_not_set(script: Script, tmp_path: Path) -> None:
    written = {
        **script.configuration,
        script.section: script.with_section({"StatePath": "${NOT_SET_1}"})[script.section],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(written))
    script.standin.returns["GetConfigurationPath"] = str(tmp_path / "orthanc.json")
    try:
        as_read = json.loads(json.dumps(written).replace("${NOT_SET_1}", ""))
        lines = script.start(as_read)
    finally:
        del script.standin.returns["GetConfigurationPath"]
    if script.section == "SeriesThumbnail":  # it has no state
        assert "not a known key" in lines[0]
    else:
        [line] = lines
        assert line.startswith(
            f"{script.section}.StatePath: the environment variable NOT_SET_1 is not set, allowed: a "
        )
        script.check_idle(line)


def test_each_section_is_tried() -> None:
    assert len(SECTIONS) >= 11
