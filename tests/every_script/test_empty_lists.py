# SPDX-License-Identifier: AGPL-3.0-or-later
"""An empty list means nothing, never everything: in each setting of each script, and in requests."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.settings import key_of
from testing.dicom import make_study
from testing.installed import dicomweb_plugin, python_plugin
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.scripts import FILES, ROOT

SECTIONS = {
    "dicom_events": "DicomEvents",
    "series_private_tags": "SeriesMainPrivateDicomTags",
    "cmove_interceptor": "CMoveInterceptor",
}

REFUSED = "an error"
# What an empty list does, where it is no error: each is about less, never about more.
EMPTY: dict[str, dict[str, str]] = {
    "anonymize_series": {
        "Recipes.*.Keep": "nothing stays beyond the profile",
        "Recipes.*.Remove": "nothing goes beyond the profile",
        "Rules": "nothing is de-identified by itself",
        "Rules[].Destinations": "what the rule matches is left alone",
        **{f"Rules[].Origin.{key}": REFUSED for key in ("RemoteAET", "CalledAET", "RemoteIP", "Method", "User")},
        "Rules[].SOPClasses": REFUSED,
        "Rules[].TransferSyntaxes": REFUSED,
        **{f"Results.{key}": REFUSED for key in ("RemoteAET", "CalledAET", "RemoteIP", "Method", "User")},
    },
    "audit_log": {},
    **{
        name: {
            "Destinations": "nothing is sent",
            "Rules": "nothing is sent by itself",
            "Rules[].Destinations": "what the rule matches goes nowhere",
            **{f"Rules[].Origin.{key}": REFUSED for key in ("RemoteAET", "CalledAET", "RemoteIP", "Method", "User")},
            "Rules[].SOPClasses": REFUSED,
            "Rules[].TransferSyntaxes": REFUSED,
            "Rules[].Modify.Remove": "nothing is taken out",
            "DestinationOptions.*.Windows": REFUSED,
            "DestinationOptions.*.Windows[].Days": REFUSED,
        }
        for name in ("auto_forward_dicomweb", "auto_forward_modality", "auto_forward_peer")
    },
    "auto_retries": {"Types": "no job is run again"},
    "cmove_interceptor": {
        "Rules": "the mode of the section is that of all requests",
        "Rules[].Levels": REFUSED,
        "Rules[].TargetAETs": REFUSED,
        "Rules[].OriginatorAETs": REFUSED,
        "Notify": "nobody is told",
        "Fetch.From": "nobody is asked",
    },
    "dashboard": {"Notify.Mail.Recipients": REFUSED},
    "dicom_events": {
        "Events.StoredInstanceSkipOrigin": "no origin is left out",
        "Events.StoredInstancePublishTags": "no tag is told",
        "Events.StableSeriesPublishTags": "no tag is told",
        "Events.StableStudyPublishTags": "no tag is told",
        "Events.StablePatientPublishTags": "no tag is told",
    },
    "instance_dump": {},
    "purge_old_studies": {
        "KeepLabels": "no label keeps a study: what is so without the key, too",
        "KeepMetadata": "likewise",
        "Rules": "nothing is purged by itself",
        "Rules[].Days": REFUSED,
        "Rules[].Labels": REFUSED,
        "Rules[].OnlyIfAt": REFUSED,
    },
    "series_private_tags": {"Tags": "the script stays idle"},
    "series_thumbnail": {},
}  # fmt: skip


@pytest.fixture(scope="module", params=FILES, ids=lambda path: name_of(path))
def script(request: pytest.FixtureRequest) -> Iterator[tuple[str, types.ModuleType, StandIn]]:
    standin, path = StandIn("7.1"), request.param
    with standin.installed():
        module = standin.load(path)
        sys.modules[module.__name__] = module
        yield name_of(path), module, standin
    for name in [each for each in sys.modules if each.partition(".")[0] == path.parent.name]:
        del sys.modules[name]


def name_of(path: Path) -> str:
    return path.parent.name if path.name == "__init__.py" else path.stem


def lists_of(settings: Any, path: str = "") -> Iterator[str]:
    """The paths of all lists of a section: `*` for a name in an object, `[]` for an entry of a list."""
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        union = typing.get_origin(hints[field.name]) in (typing.Union, types.UnionType)
        for hint in typing.get_args(hints[field.name]) if union else (hints[field.name],):
            origin, key = typing.get_origin(hint), f"{path}{key_of(field)}"
            if dataclasses.is_dataclass(hint):
                yield from lists_of(hint, f"{key}.")
            elif origin in (tuple, list):
                yield key
                if dataclasses.is_dataclass(inner := typing.get_args(hint)[0]):
                    yield from lists_of(inner, f"{key}[].")
            elif origin is dict and dataclasses.is_dataclass(inner := typing.get_args(hint)[1]):
                yield from lists_of(inner, f"{key}.*.")


def section_with(path: str, value: Any) -> Any:
    """The smallest section that holds a value at a path."""
    for part in reversed(path.split(".")):
        value = {"name" if part == "*" else part.removesuffix("[]"): [value] if part.endswith("[]") else value}
    return value


def test_it_is_written_down_of_each_list_what_an_empty_one_means(
    script: tuple[str, types.ModuleType, StandIn],
) -> None:
    name, module, _ = script
    found = set(lists_of(module.Settings)) if hasattr(module, "Settings") else set()
    assert found == set(EMPTY[name])


def test_an_empty_list_where_nothing_makes_no_sense_is_an_error_that_names_the_key(
    script: tuple[str, types.ModuleType, StandIn],
) -> None:
    name, module, standin = script
    section = SECTIONS.get(name, "".join(word.capitalize() for word in name.split("_")))
    for path in [path for path, means in EMPTY[name].items() if means == REFUSED]:
        standin.logs.clear()
        standin.registered.clear()
        standin.configuration = {section: section_with(path, [])}
        module.register()
        [line] = [text for level, text in standin.logs if level == "error"]
        assert line.startswith(f"{section}.{path.replace('[]', '[0]').replace('*', 'name')}: found [], allowed: ")


@pytest.mark.parametrize(
    ("name", "section", "key"),
    [
        ("anonymize_series", {"Results": {}, "ReIdentify": True}, "Results"),
        ("purge_old_studies", {"Rules": [{"Query": {}}]}, "Rules[0].Query"),
        ("cmove_interceptor", {"Rules": [{"Identifiers": {}}]}, "Rules[0].Identifiers"),
    ],
)
def test_so_does_an_empty_object_of_conditions(
    orthanc_standin: StandIn, name: str, section: dict[str, Any], key: str
) -> None:
    full = SECTIONS.get(name, "".join(word.capitalize() for word in name.split("_")))
    orthanc_standin.configuration = {full: section}
    orthanc_standin.load(ROOT / f"{name}.py")
    [line] = [text for level, text in orthanc_standin.logs if level == "error"]
    assert line.startswith(f"{full}.{key}: found ")


@pytest.mark.parametrize(("listed", "sent_to"), [((), ()), (None, ("A", "B")), (("A",), ("A",))])
def test_a_rule_with_an_empty_list_matches_and_sends_nowhere_one_without_a_list_sends_to_all(
    orthanc_standin: StandIn, listed: tuple[str, ...] | None, sent_to: tuple[str, ...]
) -> None:
    module: Any = orthanc_standin.load(ROOT / "auto_forward_modality.py")
    router = module.Router(None, [module.Rule("r", destinations=listed)], True, {})
    [verdict] = router.verdicts(module.Batch("Study", "id", "1.2", ("a",), {"a": {}}), ["A", "B"], ["A", "B"])
    assert (verdict.destinations, verdict.matched) == (sent_to, True)


# On a real Orthanc


@pytest.mark.parametrize(
    "section",
    [
        {"Destinations": []},
        {"Destinations": [], "Rules": [{"Name": "all"}]},
        {"Rules": []},
        {"Rules": [{"Name": "none", "Destinations": []}]},
        # The first rule that matches decides: it keeps here what it matches.
        {"Rules": [{"Name": "keep", "Query": {"PatientID": "P*"}, "Destinations": []}, {"Name": "rest"}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["auto_forward_dicomweb", "auto_forward_modality", "auto_forward_peer"])
def test_a_forwarder_with_an_empty_list_sends_nothing(
    start_briefly: StartOrthanc, name: str, section: dict[str, Any]
) -> None:
    plugins = {"Plugins": [str(python_plugin()), str(dicomweb_plugin())]} if name == "auto_forward_dicomweb" else {}
    destination = start_briefly(aet="DEST", configuration=plugins)
    known: dict[str, Any] = {
        "DicomModalities": {"DEST": destination.as_modality()},
        "OrthancPeers": {"DEST": destination.as_peer()},
        "DicomWeb": {"Servers": {"DEST": [f"{destination.url}/dicom-web/"]}},
        **plugins,
    }
    key = "".join(word.capitalize() for word in name.split("_"))
    server = start_briefly(ROOT / f"{name}.py", {**known, key: section})
    study = server.store(make_study(patient_id="P1"))[0]["ParentStudy"]
    server.wait_until_stable()
    route = f"/{name.replace('_', '-')}"
    # Once what is stable was looked at, a rule was applied to it: nothing is left to be routed.
    server.wait_until(lambda: not waiting(server, route), what="apply the rules")
    assert server.request("POST", f"{route}/send", json={"Resource": study, "Destinations": []}).status_code == 400
    if section.get("Destinations") == []:
        answer = server.request("POST", f"{route}/send", json={"Resource": study})
        assert (answer.status_code, "Destinations is missing" in answer.text) == (400, True)
    assert server.get(f"{route}/deliveries")["Items"] == []
    assert (server.get("/jobs"), destination.get("/instances")) == ([], [])


def waiting(server: OrthancServer, route: str) -> int:
    totals = server.get(f"{route}/status")["Totals"]
    return int(sum(totals.values()))
