# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/routing.py: which rule sends what where, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeOrthanc

ORIGINS = {"i1": {"RemoteAET": "CT1", "Origin": "DicomProtocol"}, "i2": {"RemoteAET": "MR1", "Origin": "DicomProtocol"}}


class Routing:
    def __init__(self, source: Any, rest: FakeOrthanc) -> None:
        self.module, self.rules, self.rest = source("forwarding.routing"), source("forwarding.rules"), rest
        self._loopback = source("common.loopback").Loopback({})

    def router(self, *rules: dict[str, Any], first_only: bool = True, matchers: Any = None) -> Any:
        made = [self.rules.Rule(**{"name": f"r{number}", **rule}) for number, rule in enumerate(rules)]
        return self.module.Router(self._loopback, made, first_only, matchers or {})

    def verdicts(
        self, *rules: dict[str, Any], known: Any = ("PACS", "VNA"), level: str = "Study", **more: Any
    ) -> list[Any]:
        batch = self.module.Batch(level, "a1", "1.2", ("i1", "i2"), ORIGINS)
        return list(self.router(*rules, **more).verdicts(batch, known, ("PACS",)))


@pytest.fixture
def routing(source: Any, rest: FakeOrthanc) -> Routing:
    return Routing(source, rest)


def shown(verdicts: list[Any]) -> list[tuple[str, tuple[str, ...], Any]]:
    return [(verdict.rule.name, tuple(verdict.destinations), verdict.instances) for verdict in verdicts]


def test_a_rule_without_destinations_sends_to_every_one_of_the_section(routing: Routing) -> None:
    assert shown(routing.verdicts({})) == [("r0", ("PACS",), ("i1", "i2"))]
    assert routing.rest.requests == []


def test_the_first_rule_that_matches_decides(routing: Routing) -> None:
    rules: list[dict[str, Any]] = [{"level": "Series"}, {"destinations": ("VNA",)}, {"destinations": ("PACS",)}]
    assert [verdict.matched for verdict in routing.verdicts(*rules)] == [False, True]
    assert shown(routing.verdicts(*rules))[1][1] == ("VNA",)
    assert [verdict.matched for verdict in routing.verdicts(*rules, first_only=False)] == [False, True, True]


def test_a_rule_of_another_level_does_not_match(routing: Routing) -> None:
    [verdict] = routing.verdicts({"level": "Series"})
    assert (verdict.matched, verdict.why) == (False, "is for a Series, this is a Study")


def test_for_an_unknown_destination_it_waits_and_no_other_rule_gets_the_study(routing: Routing) -> None:
    [verdict] = routing.verdicts({"destinations": ("gone",)}, {})
    assert (verdict.destinations, verdict.matched, verdict.unknown) == (("gone",), True, ())
    assert verdict.why == "matches; what is for gone waits until Orthanc knows it"
    [verdict] = routing.verdicts({"destinations": ("gone", "VNA")})
    assert verdict.destinations == ("gone", "VNA")


def test_an_unknown_destination_that_a_matcher_chose_is_left_out_unless_it_is_listed(routing: Routing) -> None:
    def chosen(**more: object) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        matchers = {"m.py:f": lambda _: ["gone", "VNA"]}
        routing.rest.studies["a1"] = ["i1"]
        [verdict] = routing.verdicts({"matcher": "m.py:f", **more}, {}, matchers=matchers)
        return verdict.destinations, verdict.unknown, verdict.why

    assert chosen() == (("VNA",), ("gone",), "unknown destinations are left out: gone")
    waits = "matches; what is for gone waits until Orthanc knows it"
    assert chosen(destinations=("gone",)) == (("gone", "VNA"), (), waits)


def test_of_a_study_only_the_instances_of_the_wanted_origin_are_sent(routing: Routing) -> None:
    origin = routing.rules.Origin(remote_aet=("CT*",))
    assert shown(routing.verdicts({"origin": origin})) == [("r0", ("PACS",), ("i1",))]
    [verdict] = routing.verdicts({"origin": routing.rules.Origin(called_aet=("X",))})
    assert (verdict.matched, verdict.why) == (False, "no instance has this Origin")


def test_what_the_first_rule_leaves_for_its_origin_is_decided_by_the_next(routing: Routing) -> None:
    """A dose report from another device comes with the images of a study, or alone: it is sent to the same place."""
    origins = [routing.rules.Origin(remote_aet=(name,)) for name in ("CT*", "MR*")]
    rules: list[dict[str, Any]] = [{"origin": origins[0]}, {"destinations": ("VNA",)}, {"destinations": ("PACS",)}]
    assert shown(routing.verdicts(*rules)) == [("r0", ("PACS",), ("i1",)), ("r1", ("VNA",), ("i2",))]
    rules = [{"origin": origins[0], "destinations": ()}, {"origin": origins[1], "destinations": ("VNA",)}, {}]
    assert shown(routing.verdicts(*rules)) == [("r0", (), ("i1",)), ("r1", ("VNA",), ("i2",))]
    assert len(routing.verdicts({"origin": origins[0]})) == 1
    assert [each.instances for each in routing.verdicts(*rules, first_only=False)] == [("i1",), ("i2",), ("i1", "i2")]


def test_a_query_is_answered_by_orthanc_for_this_very_study(routing: Routing) -> None:
    query = {"StudyDescription": "HEAD*"}
    routing.rest.answers["POST", "/tools/find"] = ["another", "a1"]
    assert routing.verdicts({"query": query})[0].matched
    assert routing.rest.asked("POST", "/tools/find") == [
        {"Level": "Study", "Query": {"StudyDescription": "HEAD*", "StudyInstanceUID": "1.2"}}
    ]
    routing.rest.answers["POST", "/tools/find"] = ["another"]  # of another patient, with the same UID
    [verdict] = routing.verdicts({"query": query})
    assert (verdict.matched, verdict.why) == (False, "Query does not match")


@pytest.mark.parametrize(
    ("uids", "matches"), [("1.2", True), ("1.9\\1.*", True), ("1.9", False), ("1.9\\1.2.3", False)]
)
def test_a_query_by_uid_is_compared_here(routing: Routing, uids: str, matches: bool) -> None:
    routing.rest.answers["POST", "/tools/find"] = ["a1"]
    assert routing.verdicts({"query": {"StudyInstanceUID": uids}})[0].matched is matches
    assert {each["Query"]["StudyInstanceUID"] for each in routing.rest.asked("POST", "/tools/find")} <= {"1.2"}


@pytest.mark.parametrize(
    ("chosen", "destinations"), [("VNA", ("VNA",)), (["PACS", "VNA"], ("PACS", "VNA")), (["gone", "VNA"], ("VNA",))]
)
def test_a_matcher_chooses_the_destinations(routing: Routing, chosen: Any, destinations: tuple[str, ...]) -> None:
    seen: list[Any] = []
    routing.rest.answers["GET", "/studies/a1"] = {
        "PatientMainDicomTags": {"PatientID": "P"},
        "MainDicomTags": {"StudyDate": "20240101"},
    }

    def matcher(described: Any) -> Any:
        seen.append(described)
        return chosen

    [verdict] = routing.verdicts({"matcher": "m.py:f"}, matchers={"m.py:f": matcher})
    assert verdict.destinations == destinations
    assert seen == [
        {
            "Level": "Study",
            "ID": "a1",
            "Tags": {"PatientID": "P", "StudyDate": "20240101"},
            "Instances": 2,
            "Origins": list(ORIGINS.values()),
        }
    ]


@pytest.mark.parametrize("chosen", [None, "", []])
def test_a_matcher_that_chooses_nothing_does_not_match(routing: Routing, chosen: Any) -> None:
    routing.rest.studies["a1"] = ["i1"]
    verdicts = routing.verdicts({"matcher": "m"}, {"destinations": ("VNA",)}, matchers={"m": lambda _: chosen})
    assert [(verdict.matched, verdict.destinations) for verdict in verdicts] == [(False, ()), (True, ("VNA",))]


def test_what_a_matcher_raises_comes_out(routing: Routing) -> None:
    routing.rest.studies["a1"] = ["i1"]

    def matcher(_: Any) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        routing.verdicts({"matcher": "m"}, matchers={"m": matcher})


# Whether Orthanc can answer the rules


def test_each_query_is_tried_at_start(routing: Routing) -> None:
    router = routing.router({"query": {"PatientID": "x"}}, {"level": "Series", "query": {"Modality": "CT"}})
    assert router.check() is None
    assert routing.rest.asked("POST", "/tools/find") == [
        {"Level": "Study", "Query": {"PatientID": "x", "StudyInstanceUID": "0"}, "Limit": 1},
        {"Level": "Series", "Query": {"Modality": "CT", "SeriesInstanceUID": "0"}, "Limit": 1},
    ]


def refuse_nonsense(routing: Routing) -> Any:
    """What Orthanc answers to a query by a tag that it does not know."""
    return lambda _path, body: routing.rest.error(400, "unknown tag") if "Nonsense" in body["Query"] else []


def test_what_orthanc_refuses_is_named(routing: Routing) -> None:
    routing.rest.answers["POST", "/tools/find"] = refuse_nonsense(routing)
    complaint = routing.router({"name": "mine", "query": {"Nonsense": "x"}}).check()
    assert complaint == "Rules[0].Query.Nonsense (rule 'mine') is refused by Orthanc: unknown tag"


def test_no_answer_is_no_refusal(routing: Routing) -> None:
    routing.rest.answers["POST", "/tools/find"] = routing.rest.error(0)
    with pytest.raises(Exception, match="because of the test"):
        routing.router({"query": {"PatientName": "x"}}).check()


@pytest.mark.parametrize("status", [500, 503, 401])
def test_an_error_that_every_question_meets_is_no_refusal(routing: Routing, status: int) -> None:
    """The database is away when Orthanc starts: that passes."""
    routing.rest.answers["POST", "/tools/find"] = routing.rest.error(status)
    with pytest.raises(Exception, match="because of the test"):
        routing.router({"query": {"PatientName": "x"}}).check()


# Matchers


def test_a_matcher_is_loaded_beside_the_configuration(routing: Routing, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def f(described):\n    return described['x']\n")
    assert routing.module.load_matcher("m.py:f", tmp_path)({"x": 3}) == 3


@pytest.fixture
def beside_the_script(routing: Routing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    monkeypatch.setattr(routing.module, "__file__", str(folder / "script.py"))
    (folder / "m.py").write_text("def f(described):\n    return 'beside the script'\n")
    return folder


def test_a_matcher_is_loaded_beside_the_script_first(routing: Routing, tmp_path: Path, beside_the_script: Path) -> None:
    assert routing.module.load_matcher("m.py:f", tmp_path)({}) == "beside the script"
    assert routing.module.load_matcher("m.py:f", beside_the_script)({}) == "beside the script"
    assert routing.module.load_matcher(f"{beside_the_script}/m.py:f", tmp_path)({}) == "beside the script"


def test_two_files_of_one_name_are_not_chosen_between(
    routing: Routing, tmp_path: Path, beside_the_script: Path
) -> None:
    (tmp_path / "m.py").write_text("def f(described):\n    return 'beside the configuration'\n")
    with pytest.raises(
        ValueError, match=rf"there are {beside_the_script}/m\.py and {tmp_path}/m\.py: give the whole path"
    ):
        routing.module.load_matcher("m.py:f", tmp_path)


@pytest.mark.parametrize(
    ("text", "spec"), [("f = 1 +", "m.py:f"), ("", "m.py:f"), ("", "absent.py:f"), ("1/0", "m.py:f")]
)
def test_one_that_can_not_be_loaded_is_named_with_the_reason(
    routing: Routing, tmp_path: Path, text: str, spec: str
) -> None:
    (tmp_path / "m.py").write_text(text)
    with pytest.raises(ValueError, match=r"m\.py can't be loaded|absent\.py can't be loaded"):
        routing.module.load_matcher(spec, tmp_path)
