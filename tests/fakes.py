# SPDX-License-Identifier: AGPL-3.0-or-later
"""What unit tests put in the place of a server: a small Orthanc behind loopback, a clock, and the sources on a stand-in.

A script is imported from src/ and driven as Orthanc drives it: by its registered callbacks and its routes (`orthanc_standin`).
Its own requests to Orthanc end in `rest`; its threads wait for milliseconds where they would wait for seconds.
"""

from __future__ import annotations

import datetime
import importlib
import json
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from http.client import HTTPMessage
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest

from testing.standin import StandIn

T = TypeVar("T")
SRC = Path(__file__).parents[1] / "src"
LONGEST_WAIT = 0.005  # seconds that a thread of a script waits at most
REAL_TIME, REAL_SLEEP, REAL_DATETIME, REAL_EVENT = time.perf_counter, time.sleep, datetime.datetime, threading.Event
RESOURCES = {"patients": "Patient", "studies": "Study", "series": "Series"}


def eventually(condition: Callable[[], T], within: float = 10) -> T:
    """Wait for what another thread does; give what is true then."""
    end = REAL_TIME() + within
    while not (found := condition()):
        assert REAL_TIME() < end, "it has not happened"
        REAL_SLEEP(0.002)
    return found


class Clock:
    """The time of a test: it stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = self
        self.now, self.ticks = 1_700_000_000.0, 1000.0

        class Datetime(datetime.datetime):
            @classmethod
            def now(cls, tz: datetime.tzinfo | None = None) -> Any:
                found = REAL_DATETIME.fromtimestamp(clock.now, tz or datetime.UTC)
                return found if tz else found.replace(tzinfo=None)  # this machine lies in Greenwich

            @classmethod
            def fromtimestamp(cls, timestamp: float, tz: datetime.tzinfo | None = None) -> Any:
                found = REAL_DATETIME.fromtimestamp(timestamp, tz or datetime.UTC)
                return found if tz else found.replace(tzinfo=None)

        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.ticks)
        monkeypatch.setattr(time, "clock_gettime", lambda _: self.ticks)
        monkeypatch.setattr(datetime, "datetime", Datetime)

    def advance(self, seconds: float) -> None:
        self.now, self.ticks = self.now + seconds, self.ticks + seconds

    def jump(self, seconds: float) -> None:
        """Set the clock on the wall; the time that has passed stays the same."""
        self.now += seconds


class QuickEvent(threading.Event):
    """An event that nobody waits long for: threads that look now and then look at once."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(timeout if timeout is None else min(timeout, LONGEST_WAIT))


class FakeOrthanc:
    """An archive behind loopback. A study `a1` has the patient `a1-9a`, the series `a1-5e`, and the instances that it got.

    Attributes
    ----------
    answers
        What goes before the archive: `answers["GET", "/system"]` = JSON, bytes, an error to raise, or a function of path and
        body. A path with its parameters goes before one without.
    requests
        Method, path and body of each request, in order.
    known
        `/modalities?expand` and `/peers?expand`.
    """

    def __init__(self, error: Callable[[int, str], Exception]) -> None:
        self._error = error
        self.answers: dict[tuple[str, str], Any] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.studies: dict[str, list[str]] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.changes: list[dict[str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.protected: set[str] = set()
        self.known: dict[str, dict[str, Any]] = {"PACS": {"AET": "PACS", "Host": "pacs", "Port": 104}}

    # What a test does to it

    def receive(self, study: str, *instances: str, **metadata: str) -> None:
        """Instances arrive."""
        for instance in instances:
            self.studies.setdefault(study, []).append(instance)
            self.metadata[instance] = metadata
            self._log("NewInstance", "Instance", instance)

    def become_stable(self, study: str) -> None:
        self._log("StableStudy", "Study", study)

    def _log(self, change: str, level: str, resource: str) -> None:
        date = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time()))
        seq = self.changes[-1]["Seq"] + 1 if self.changes else 1
        self.changes.append({"Seq": seq, "ChangeType": change, "ResourceType": level, "ID": resource, "Date": date})

    def asked(self, method: str, path: str) -> list[Any]:
        """The bodies of the requests of this route."""
        return [body for verb, target, body in self.requests if verb == method and target.partition("?")[0] == path]

    def error(self, status: int, text: str = "because of the test") -> Exception:
        return self._error(status, text)

    # What a script asks

    def request_raw(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Message, bytes]:
        """As `Loopback.request_raw`."""
        self.requests.append((method, path, body))
        answer = self._answer(method, path, body)
        if isinstance(answer, Exception):
            raise answer
        found = HTTPMessage()
        found["Content-Type"] = "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        return found, answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    def _answer(self, method: str, path: str, body: Any) -> Any:
        route, _, query = path.partition("?")
        for key in ((method, path), (method, route)):
            if key in self.answers:
                found = self.answers[key]
                return found(path, body) if callable(found) else found
        match method, *route.strip("/").split("/"):
            case "GET", "system":
                return {"Version": "1.10.1", "ApiVersion": 17}
            case "GET", "scripts":
                return []
            case "GET", "changes":
                return self._changes(dict(urllib.parse.parse_qsl(query, keep_blank_values=True)))
            case "GET", ("patients" | "studies" | "series") as kind, name, "instances" if self._study_of(name, kind):
                return self.studies[self._study_of(name, kind)]
            case "GET", ("patients" | "studies" | "series") as kind, name if self._study_of(name, kind):
                return {"ID": name, "MainDicomTags": {}}
            case "GET", "instances", name, ("patient" | "study" | "series") as kind if self._study_of(name):
                return {"ID": self._study_of(name) + {"patient": "-9a", "study": "", "series": "-5e"}[kind]}
            case "GET", "patients", patient, "protected":
                return int(patient in self.protected)
            case "PUT", "patients", patient, "protected":
                (self.protected.add if body == b"1" else self.protected.discard)(patient)
                return {}
            case "POST", "tools", "bulk-content":
                return self._content(body)
            case "POST", "tools", "bulk-delete":
                self.studies = {
                    name: left
                    for name, all_ in self.studies.items()
                    if (left := [i for i in all_ if i not in body["Resources"]])
                }
                return {}
            case "POST", "tools", "find":
                return []
            case "GET", ("modalities" | "peers"):
                return self.known
            case "GET", "jobs":
                return list(self.jobs.values())
            case "GET", "jobs", job if job in self.jobs:
                return self.jobs[job]
            case "POST", "jobs", job, ("cancel" | "resubmit") if job in self.jobs:
                return {}
            case "POST", ("modalities" | "peers"), name, "store":
                job = f"{name}-{len(self.jobs) + 1}"
                content = {"RemoteAet": name, "ParentResources": body["Resources"]}
                self.jobs[job] = {"ID": job, "Type": "DicomModalityStore", "State": "Pending", "Content": content}
                return {"ID": job}
        return self.error(404, f"{method} {path}")

    def _changes(self, query: Mapping[str, str]) -> Any:
        newest = self.changes[-1]["Seq"] if self.changes else 0
        if "last" in query:
            return {"Last": newest}
        since = int(query["since"])
        page = [change for change in self.changes if change["Seq"] > since][: int(query["limit"])]
        last = page[-1]["Seq"] if page else since
        return {"Changes": page, "Last": last, "Done": last >= newest}

    def _study_of(self, name: str, kind: str = "instances") -> str:
        """The study of a resource; an empty text if there is none."""
        if kind == "instances":
            return next((study for study, instances in self.studies.items() if name in instances), "")
        suffix = {"patients": "-9a", "studies": "", "series": "-5e"}[kind]
        study = name.removesuffix(suffix)
        return study if name.endswith(suffix) and study in self.studies else ""

    def _type_and_parent(self, name: str, study: str) -> dict[str, str]:
        found = {
            study: {"Type": "Study", "ParentPatient": f"{study}-9a"},
            f"{study}-5e": {"Type": "Series", "ParentStudy": study},
            f"{study}-9a": {"Type": "Patient"},
        }
        return found.get(name, {"Type": "Instance", "ParentSeries": f"{study}-5e"})

    def _content(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """`/tools/bulk-content`: the resources named, or what they hold or belong to at a level."""
        found = {}
        for name in body["Resources"]:
            study = self._study_of(name) or next((s for kind in RESOURCES if (s := self._study_of(name, kind))), "")
            if study and "Level" not in body:
                found[name] = {"ID": name, **self._type_and_parent(name, study)}
                found[name] |= {"Metadata": self.metadata.get(name, {})}
            elif study:
                whole = {"Patient": [f"{study}-9a"], "Study": [study], "Series": [f"{study}-5e"]}
                named = [name] if name in self.studies[study] else self.studies[study]
                for each in {**whole, "Instance": named}[body["Level"]]:
                    found[each] = {"ID": each, "Metadata": self.metadata.get(each, {})}
                    if body["Level"] == "Study":
                        found[each] |= {"ParentPatient": f"{study}-9a"}
                    if body["Level"] == "Series":
                        found[each] |= {"ParentStudy": study, "Instances": self.studies[study]}
        return list(found.values())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def source(orthanc_standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a module of src/ on the stand-in, afresh in each test."""
    yield from _imported_from_src(monkeypatch)


@pytest.fixture(scope="module")
def source_for_module() -> Iterator[Callable[[str], ModuleType]]:
    """As `source`, once for a module of tests: for plain functions, as an import takes longer than their tests."""
    with pytest.MonkeyPatch.context() as monkeypatch, StandIn().installed():
        yield from _imported_from_src(monkeypatch)


def _imported_from_src(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    ours = {path.stem for path in SRC.iterdir()}
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ours}
    for name in kept:
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(SRC))
    monkeypatch.setattr(threading, "Event", QuickEvent)
    yield importlib.import_module
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.fixture
def rest(source: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> FakeOrthanc:
    """What every script's loopback reaches."""
    loopback = source("common.loopback")
    fake = FakeOrthanc(loopback.LoopbackError)
    monkeypatch.setattr(
        loopback.Loopback, "request_raw", lambda _, *arguments, **more: fake.request_raw(*arguments, **more)
    )
    return fake


class Script:
    """A script that runs: what Orthanc tells it, and its routes."""

    def __init__(self, module: ModuleType, standin: StandIn) -> None:
        self.module, self._standin = module, standin
        self.change("ORTHANC_STARTED")

    def change(self, name: str, resource: str = "", level: str = "NONE") -> None:
        """What OnChange tells; nothing, if the script does not listen."""
        if "RegisterOnChangeCallback" not in self._standin.registered:
            return
        orthanc: Any = self._standin.module
        self._standin.change(getattr(orthanc.ChangeType, name), getattr(orthanc.ResourceType, level), resource)

    def get(self, path: str) -> Any:
        answer = self._standin.http("GET", path)
        assert answer.status == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        return self._standin.http("POST", path, body=json.dumps(body or {}))


@pytest.fixture
def start(
    source: Callable[[str], ModuleType], rest: FakeOrthanc, orthanc_standin: StandIn, tmp_path: Path
) -> Iterator[Callable[..., Script]]:
    """Start a script of src/ with a configuration; it is stopped at the end."""
    started: list[Script] = []
    (tmp_path / "orthanc.json").write_text("{}")
    orthanc_standin.returns |= {
        "GetConfigurationPath": str(tmp_path / "orthanc.json"),
        "SetMetricsValue": None,
        "ExtendOrthancExplorer": None,
        "CheckVersionAdvanced": 0,  # 1.10.1, as `GET /system` says
    }

    def start_script(name: str, configuration: Mapping[str, Any] | None = None) -> Script:
        stop()  # a second time: Orthanc was started again
        for each in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[each]
        orthanc_standin.registered.clear()
        orthanc_standin.configuration = {"StorageDirectory": "db", **(configuration or {})}
        started.append(Script(source(name), orthanc_standin))
        return started[-1]

    def stop() -> None:
        while started:
            started.pop().change("ORTHANC_STOPPED")

    yield start_script
    stop()
