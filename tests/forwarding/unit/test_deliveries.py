# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/deliveries.py: what the routes of a forwarder show, and what a person may do."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

NAME = "/auto-forward-modality"
# Whatever is added stays as it is: both destinations are paused.
SECTION = {"Destinations": ["PACS", "VNA"]}
A1, B2, C3, D4 = ("-".join([f"{name:08x}"] * 5) for name in (0xA1, 0xB2, 0xC3, 0xD4))
SERIES = "-".join(["00005e41"] * 5)  # of A1


class Deliveries:
    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, standin: StandIn) -> None:
        self.rest, self._standin = rest, standin
        rest.known = {name: {"AET": name, "Host": "host", "Port": 104} for name in ("PACS", "VNA", "OTHER")}
        self.script = start("auto_forward_modality", {"AutoForwardModality": SECTION})
        for name in ("PACS", "VNA"):
            assert self.post(f"destinations/{name}/pause").status == 200
        rest.studies |= {A1: ["1", "2"], B2: ["3"], C3: ["4"]}
        rest.answers["GET", f"/series/{SERIES}"] = {"ID": SERIES}

    def get(self, path: str) -> Any:
        return self.script.get(f"{NAME}/{path}")

    def post(self, path: str, body: Any = None) -> Any:
        return self.script.post(f"{NAME}/{path}", body)

    def drop(self, number: int) -> Any:
        return self._standin.http("DELETE", f"{NAME}/deliveries/{number}")

    def refused(self, path: str) -> str:
        answer = self._standin.http("GET", f"{NAME}/{path}")
        assert answer.status in (400, 404)
        return str(answer.json()["Message"])

    def send(self, resource: str, *destinations: str, level: str = "Study") -> list[int]:
        body = {"Resource": resource, "Level": level, **({"Destinations": destinations} if destinations else {})}
        answer = self.post("send", body)
        assert answer.status == 202, answer.text
        found: list[int] = answer.json()["Deliveries"]
        return found


@pytest.fixture
def deliveries(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Deliveries:
    return Deliveries(start, rest, orthanc_standin)


def shown(page: Any) -> list[tuple[str, str]]:
    return [(row["Resource"], row["Destination"]) for row in page["Items"]]


def test_a_resource_is_sent_now_to_those_named_or_to_all(deliveries: Deliveries) -> None:
    deliveries.send(A1, "PACS")
    deliveries.send(B2)
    page = deliveries.get("deliveries")
    assert shown(page) == [(A1, "PACS"), (B2, "PACS"), (B2, "VNA")]
    assert {row["Instances"] for row in page["Items"]} == {None}  # all that it holds then


def test_what_waits_for_the_same_is_joined(deliveries: Deliveries) -> None:
    assert deliveries.send(A1, "PACS") == deliveries.send(A1, "PACS")
    assert deliveries.send(SERIES, "PACS", level="Series") != deliveries.send(A1, "PACS")
    assert len(deliveries.get("deliveries")["Items"]) == 2


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"Resource": A1, "Destinations": ["PASC"]}, 400, "Destination is 'PASC', allowed: PACS, VNA, OTHER"),
        (
            {"Resource": A1, "Destinations": "PACS"},
            400,
            'Destinations is "PACS", allowed: a list of at least one text',
        ),
        ({"Resource": A1, "Level": "Instance"}, 400, 'Level is "Instance", allowed: Patient, Study, Series'),
        ({"Resource": "../a1"}, 400, 'Resource is "../a1", allowed: an identifier of Orthanc'),
        ({"Resource": 3}, 400, "Resource is 3, allowed: an identifier of Orthanc"),
        ({}, 400, "Resource is missing, allowed: an identifier of Orthanc"),
        ({"Resource": D4}, 404, f"There is no Study {D4}"),
        ({"Resource": A1, "Level": "Series"}, 404, f"There is no Series {A1}"),
        ({"Resource": A1, "Destinations": []}, 400, "Destinations is [], allowed: a list of at least one text"),
        ({"Resource": A1, "Destination": "PACS"}, 400, 'Unknown parameter "Destination"; did you mean Destinations?'),
    ],
)
def test_a_wrong_request_to_send_names_the_parameter_and_sends_nothing(
    deliveries: Deliveries, body: dict[str, Any], status: int, named: str
) -> None:
    answer = deliveries.post("send", body)
    assert (answer.status, named in answer.json()["Message"]) == (status, True), answer.text
    assert deliveries.get("deliveries")["Total"] == 0


def test_the_list_comes_in_pages_oldest_first(deliveries: Deliveries) -> None:
    for study in (A1, B2, C3):
        deliveries.send(study, "PACS")
    page = deliveries.get("deliveries?limit=2")
    assert (shown(page), page["Total"]) == ([(A1, "PACS"), (B2, "PACS")], 3)
    page = deliveries.get(f"deliveries?limit=2&since={page['Next']}")
    assert (shown(page), page["Next"]) == ([(C3, "PACS")], None)


def test_the_list_is_filtered_by_each_column(deliveries: Deliveries) -> None:
    deliveries.send(A1, "PACS")
    deliveries.send(B2, "VNA")
    assert shown(deliveries.get("deliveries?destination=VNA")) == [(B2, "VNA")]
    assert shown(deliveries.get(f"deliveries?study={A1}")) == [(A1, "PACS")]
    assert shown(deliveries.get(f"deliveries?resource={A1}&state=waiting")) == [(A1, "PACS")]
    assert shown(deliveries.get("deliveries?state=dead")) == []
    assert shown(deliveries.get("deliveries?job=none")) == []


def test_the_list_is_filtered_by_when_a_row_was_created_whatever_became_of_it(
    deliveries: Deliveries, clock: Clock
) -> None:
    times = []
    for study in (A1, B2, C3):
        times.append(datetime.datetime.fromtimestamp(clock.now, datetime.UTC).isoformat())
        deliveries.send(study, "PACS")
        clock.advance(86_400)
    assert deliveries.post("deliveries/2/retry").status == 200
    created = [row["Created"] for row in deliveries.get("deliveries")["Items"]]
    assert created == [f"{time}.000Z".replace("+00:00", "") for time in times]
    day, after = times[1][:10], times[2][:10]
    assert shown(deliveries.get(f"deliveries?from={day}&to={after}")) == [(B2, "PACS")]
    page = deliveries.get(f"deliveries?from={day.replace('-', '')}&state=waiting&destination=PACS&before={2**53}")
    assert (shown(page), page["Total"]) == ([(C3, "PACS"), (B2, "PACS")], 2)
    assert shown(deliveries.get(f"deliveries?to={times[0]}".replace("+", "%2B"))) == []
    assert "from must be before to" in deliveries.refused(f"deliveries?from={day}&to={day}")
    assert "to is" in deliveries.refused("deliveries?to=yesterday")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("state=ded", 'state is "ded", allowed: waiting, sending, done, gone, dead'),
        ("limit=x", 'limit is "x", allowed: a whole number from 1 to 1000'),
        ("limit=1001", 'limit is "1001", allowed'),
        ("since=-1", 'since is "-1", allowed'),
        ("limit=٣", "limit is"),
        ("stat=dead", 'Unknown parameter "stat"; did you mean state?'),
    ],
)
def test_a_wrong_parameter_of_the_list_is_named(deliveries: Deliveries, query: str, named: str) -> None:
    assert named in deliveries.refused(f"deliveries?{query}")


@pytest.mark.parametrize("number", ["99", "9" * 30])
def test_an_unknown_delivery_is_a_404(deliveries: Deliveries, number: str) -> None:
    assert deliveries.refused(f"deliveries/{number}") == f"There is no delivery {number[:20]}"


def test_one_that_waits_can_be_looked_at_and_dropped(deliveries: Deliveries) -> None:
    [number] = deliveries.send(A1, "PACS")
    assert deliveries.get(f"deliveries/{number}")["History"] == []
    assert deliveries.drop(number).json()["ID"] == number
    assert deliveries.get("deliveries")["Total"] == 0


def test_one_that_is_being_sent_can_neither_be_dropped_nor_retried(deliveries: Deliveries) -> None:
    [number] = deliveries.send(A1, "OTHER")
    eventually(lambda: deliveries.get("deliveries?job=OTHER-1")["Items"])
    assert deliveries.drop(number).status == 409
    assert deliveries.post(f"deliveries/{number}/retry").status == 409
    [row] = deliveries.get("deliveries?job=OTHER-1")["Items"]
    assert (row["ID"], row["Job"], row["Attempts"]) == (number, "OTHER-1", 1)


def test_all_dead_ones_of_a_destination_are_retried_and_no_others(deliveries: Deliveries, clock: Clock) -> None:
    [number] = deliveries.send(A1, "OTHER")
    eventually(lambda: deliveries.rest.jobs)
    clock.advance(100 * 3600)
    deliveries.rest.jobs["OTHER-1"] |= {"State": "Failure", "ErrorDescription": "refused"}
    deliveries.script.change("JOB_FAILURE", "OTHER-1")
    eventually(lambda: deliveries.get(f"deliveries/{number}")["State"] == "dead")
    assert [each["Error"] for each in deliveries.get(f"deliveries/{number}")["History"]] == ["refused"]
    assert deliveries.post("deliveries/retry", {"Destination": "PACS"}).json() == {"Retried": 0}
    assert deliveries.post("deliveries/retry", {"Destination": "NONE"}).status == 400
    assert deliveries.post("deliveries/retry", {}).status == 400
    assert deliveries.post("deliveries/retry", {"Destination": "OTHER"}).json() == {"Retried": 1}
    assert deliveries.get(f"deliveries/{number}")["Attempts"] == 0


def test_destinations_tell_their_state(deliveries: Deliveries) -> None:
    deliveries.send(A1, "PACS")
    found = deliveries.get("destinations")
    assert found["PACS"] == {
        "Away": False,
        "Misconfigured": False,
        "Error": "",
        "Paused": True,
        "Open": True,
        "OneAtATimeUntil": None,
        "Slow": None,
        "Totals": {"waiting": 1, "sending": 0, "done": 0, "gone": 0, "dead": 0},
    }
    assert [*found] == ["PACS", "VNA", "OTHER"]
    assert deliveries.post("destinations/NONE/pause").status == 400


def test_rules_and_what_they_would_do_are_told_and_nothing_is_sent(deliveries: Deliveries) -> None:
    deliveries.rest.metadata["1"] = {"RemoteAET": "PACS"}
    assert [rule["Name"] for rule in deliveries.get("rules")["Rules"]] == ["all"]
    found = deliveries.post("rules/test", {"Resource": A1}).json()
    assert found["Rules"] == [
        {"Name": "all", "Destinations": {"PACS": 1, "VNA": 2}, "Why": "matches; 1 of 2 came from PACS itself"}
    ]
    assert found["Instances"] == 2
    assert deliveries.get("deliveries")["Total"] == 0


# Backfill


def dated(deliveries: Deliveries, **days: str) -> None:
    found = [{"ID": study, "MainDicomTags": {"StudyDate": day} if day else {}} for study, day in days.items()]
    deliveries.rest.answers["POST", "/tools/find"] = found


def test_backfill_sends_the_studies_of_these_days_and_no_others(deliveries: Deliveries) -> None:
    """Orthanc compares dates as text: what it finds is looked at once more."""
    dated(deliveries, a1="20240110", b2="20240131", c3="20240201", d4="", e5="2024", f6="20240132", a7="20231231")
    body = {"From": "20240110", "To": "20240131", "Destination": "PACS"}
    dry = deliveries.post("backfill", {**body, "DryRun": True})
    assert (dry.status, dry.json()["Studies"], dry.json()["DryRun"]) == (200, 2, True)
    assert deliveries.get("deliveries")["Total"] == 0
    answer = deliveries.post("backfill", body)
    assert (answer.status, answer.json()) == (
        202,
        {"Studies": 2, "Destinations": ["PACS"], "Deliveries": 2, "DryRun": False},
    )
    assert shown(deliveries.get("deliveries")) == [("a1", "PACS"), ("b2", "PACS")]


def test_backfill_asks_month_by_month_and_for_each_day_once(deliveries: Deliveries) -> None:
    dated(deliveries)
    deliveries.post("backfill", {"From": "20231230", "To": "20240302", "DryRun": True})
    asked = [body["Query"]["StudyDate"] for body in deliveries.rest.asked("POST", "/tools/find") if "Expand" in body]
    assert asked == ["20231230-20231231", "20240101-20240131", "20240201-20240229", "20240301-20240302"]


def test_backfill_takes_all_days_of_the_calendar_in_few_questions(deliveries: Deliveries) -> None:
    dated(deliveries, a1="20240110")
    answer = deliveries.post("backfill", {"From": "00010101", "To": "99991231", "DryRun": True})
    assert (answer.status, answer.json()["Studies"] > 0) == (200, True), answer.text
    asked = [body["Query"]["StudyDate"] for body in deliveries.rest.asked("POST", "/tools/find") if "Expand" in body]
    assert asked[0] == "00010101-18991231"
    assert asked[-1] == "21000101-99991231"
    assert "20240201-20240229" in asked
    assert len(asked) < 2500


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"From": "20240101"},
        {"From": "20240102", "To": "20240101"},
        {"From": "20240101", "To": "20240231"},
        {"From": "20240101", "To": "20240131", "DryRun": "yes"},
        {"From": "20240101", "To": "20240131", "dry-run": True},
        {"From": "20240101", "To": "20240131", "Destination": "NONE"},
    ],
)
def test_a_wrong_backfill_is_a_400_and_sends_nothing(deliveries: Deliveries, body: dict[str, Any]) -> None:
    dated(deliveries, a1="20240110")
    assert deliveries.post("backfill", body).status == 400
    assert deliveries.get("deliveries")["Total"] == 0


def test_the_status_tells_totals(deliveries: Deliveries) -> None:
    deliveries.send(A1, "PACS")
    assert deliveries.get("status")["State"] == "running"
    assert deliveries.get("status")["Totals"]["waiting"] == 1
