# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules applied to what arrived: which instances go to which destination, and why."""

import dataclasses
import difflib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.aets import ANY_CASE, AeTitles
from common.identifiers import PLURAL, UID_TAG_OF
from common.loopback import Loopback, LoopbackError
from common.routes import one_line
from common.wildcards import matches_any
from forwarding.rules import ANSWERED, ForwardingRule, Rule, has_kind, has_origin

Matcher = Callable[[dict[str, Any]], Any]


@dataclasses.dataclass(frozen=True)
class Batch:
    """What is to be routed: instances of one resource, `None` for all of it, each with its origin."""

    level: str
    resource: str
    uid: str
    instances: tuple[str, ...] | None
    origins: Mapping[str, Mapping[str, str]]


@dataclasses.dataclass
class Verdict:
    """What a rule makes of a batch: the instances that meet its conditions, where they go, or why not.

    A destination that is listed counts, known or not: it may be known again in a moment. `unknown` are those that a matcher chose
    and nobody has listed.
    """

    rule: Rule
    destinations: tuple[str, ...] = ()
    instances: tuple[str, ...] | None = ()
    why: str = ""
    matched: bool = False
    unknown: tuple[str, ...] = ()


class Share(NamedTuple):
    """What goes to a destination by a rule, and what does not, since it came from there."""

    destination: str
    rule: ForwardingRule
    instances: set[str]
    own: set[str]


def _of_kind(rule: Rule, batch: Batch, instances: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return which of these instances of a batch (None: all) have a SOP class and a transfer syntax that a rule takes."""
    if not (rule.sop_classes or rule.transfer_syntaxes):
        return instances
    taken = batch.origins if instances is None else instances
    return tuple(one for one in taken if has_kind(rule, batch.origins.get(one, {})))


def _without(batch: Batch, taken: Sequence[str] | None) -> Batch:
    """Return what is left of a batch; None stands for all of it."""
    gone = set(taken or ())
    left = () if taken is None else tuple(one for one in batch.instances or batch.origins if one not in gone)
    origins = {one: batch.origins[one] for one in left if one in batch.origins}
    return dataclasses.replace(batch, instances=left, origins=origins)


def _is_wanted(value: str, wanted: str) -> bool:
    """Return whether a PatientID or UID is one of those that a `Query` names: as Orthanc does, without regard to case.

    Spaces in front, which Orthanc keeps and DICOM lets pass, may be named or not.
    """
    value, wanted = value.lower(), wanted.lower()
    return any(matches_any(each, (*wanted.split("\\"), wanted)) for each in (value, value.strip()))


def load_matcher(spec: str, folder: Path) -> Matcher:
    """Return the function of `module.py:function`, the path relative to the script's folder, or to the configuration's.

    The latter is `/tmp` in images that generate their configuration.

    Raises
    ------
    ValueError : it can't be loaded, with the reason.
    """
    text, _, name = spec.rpartition(":")
    own = Path(__file__).absolute().parent / text
    path = own if own.exists() else folder / text
    if path == own and (folder / text).exists() and not own.samefile(folder / text):
        raise ValueError(f"there are {own} and {folder / text}: give the whole path of the one that is meant")
    try:
        found = importlib.util.spec_from_file_location(f"matcher_{path.stem}", path)
        assert found and found.loader  # noqa: PT018 - the name ends with .py
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        matcher: Matcher = getattr(module, name)
    except Exception as error:
        raise ValueError(f"{path} can't be loaded: {error!r}") from error
    return matcher


class Router:
    """Applies rules in order. Questions go to Orthanc over loopback, `Query` to `/tools/find` itself."""

    def __init__(
        self,
        loopback: Loopback,
        rules: Sequence[Rule],
        first_only: bool,
        matchers: Mapping[str, Matcher],
        aets: AeTitles = ANY_CASE,
    ) -> None:
        self._loopback, self._rules, self._first_only, self._matchers = loopback, rules, first_only, matchers
        self._aets = aets

    def check(self) -> str | None:
        """Ask Orthanc whether it can answer each tag of each `Query`; return what it refuses, by its key.

        Raises
        ------
        LoopbackError : it can't answer anything now (its database is away), which is nothing against a rule.
        """
        for number, rule in enumerate(self._rules):
            for tag, wanted in rule.query.items():
                of_none = {UID_TAG_OF[rule.level]: "0"}
                plain: dict[str, Any] = {"Level": rule.level, "Query": of_none, "Limit": 1}
                try:
                    self._loopback.post("/tools/find", {**plain, "Query": {**of_none, tag: wanted}})
                except LoopbackError as error:
                    if error.status == 0:
                        raise
                    self._loopback.post("/tools/find", plain)
                    near = difflib.get_close_matches(tag, set().union(*ANSWERED.values()), 1)
                    meant = f" (did you mean {near[0]}?)" if near else ""
                    return f"Rules[{number}].Query.{one_line(tag)} (rule {rule.name!r}) is refused by Orthanc{meant}: {error}"
        return None

    def verdicts(self, batch: Batch, known: Sequence[str], every: Sequence[str]) -> list[Verdict]:
        """Return what each rule says, where only the first counts up to that.

        A rule that wants an origin takes only the instances that have it. The next rules are asked for the others, as they are
        where those arrive alone.

        `known` are the destinations there are, `every` those of a rule without a list of them, known or not.

        Raises
        ------
        LoopbackError : Orthanc can't answer now. What a matcher raises is raised as it is.
        """
        found = []
        for rule in self._rules:
            found.append(self._verdict(rule, batch, known, every))
            if found[-1].matched and self._first_only:  # also if its destinations are unknown: no other rule gets it
                batch = _without(batch, found[-1].instances)
                if not batch.instances:
                    break
        return found

    def possible(self, batch: Batch, known: Sequence[str], every: Sequence[str]) -> dict[str, set[str]]:
        """Return which instances each destination may get of a batch, now or when more has come that makes a rule match."""
        found: dict[str, set[str]] = {}
        for rule in self._rules:
            if rule.level == batch.level:
                names = known if rule.matcher else every if rule.destinations is None else rule.destinations
                for name in names:
                    found.setdefault(name, set()).update(_of_kind(rule, batch, self._from_origin(rule, batch)) or ())
        return found

    def _verdict(self, rule: Rule, batch: Batch, known: Sequence[str], every: Sequence[str]) -> Verdict:
        if rule.level != batch.level:
            return Verdict(rule, why=f"is for a {rule.level}, this is a {batch.level}")
        instances = self._from_origin(rule, batch)
        if any(vars(rule.origin).values()) and not instances:
            return Verdict(rule, why="no instance has this Origin")
        instances = _of_kind(rule, batch, instances)
        if (rule.sop_classes or rule.transfer_syntaxes) and not instances:
            return Verdict(rule, why="no instance has these SOPClasses and TransferSyntaxes")
        if rule.query and not self._answers(rule, batch):
            return Verdict(rule, why="Query does not match")
        names: Sequence[str] = every if rule.destinations is None else rule.destinations
        if rule.matcher:
            chosen = self._ask_matcher(rule.matcher, batch)
            names = [chosen] if chosen and isinstance(chosen, str) else list(chosen or ())
            if not names:
                return Verdict(rule, why="Matcher chose no destination")
        missing = [name for name in names if name not in known]
        unknown = [name for name in missing if name not in every and name not in (rule.destinations or ())]
        why = "matches" if names else "there is no destination"
        if unknown:
            why = f"unknown destinations are left out: {', '.join(unknown)}"
        elif missing:
            why = f"matches; what is for {', '.join(missing)} waits until Orthanc knows it"
        names = [name for name in names if name not in unknown]
        return Verdict(rule, tuple(names), instances, why, True, tuple(unknown))

    def _from_origin(self, rule: Rule, batch: Batch) -> tuple[str, ...] | None:
        """Return the instances of a batch with the origin that a rule wants."""
        if not any(vars(rule.origin).values()):
            return batch.instances
        return tuple(one for one in batch.origins if has_origin(rule.origin, batch.origins[one], self._aets))

    def _ask_matcher(self, name: str, batch: Batch) -> Any:
        described = self._describe(batch)
        try:
            return self._matchers[name](described)
        except Exception:
            raise
        except BaseException as error:  # its exit is not that of the thread that serves all
            raise RuntimeError(f"it ended with {type(error).__name__}") from error

    def _answers(self, rule: Rule, batch: Batch) -> bool:
        tag = UID_TAG_OF[batch.level]
        if (wanted := rule.query.get(tag)) and not _is_wanted(batch.uid, wanted):
            return False
        # To Orthanc a backslash would mean several. What else it finds by this does not matter: one StudyInstanceUID, too,
        # may belong to two patients, which are two studies of Orthanc.
        find = {"Level": batch.level, "Query": {**rule.query, tag: batch.uid.replace("\\", "?")}}
        return batch.resource in self._loopback.post("/tools/find", find)

    def _describe(self, batch: Batch) -> dict[str, Any]:
        content = self._loopback.get(f"/{PLURAL[batch.level]}/{batch.resource}")
        tags = {**content.get("PatientMainDicomTags", {}), **content["MainDicomTags"]}
        origins = [dict(origin) for origin in batch.origins.values()]
        return {
            "Level": batch.level,
            "ID": batch.resource,
            "Tags": tags,
            "Instances": None if batch.instances is None else len(batch.instances),
            "Origins": [origin for number, origin in enumerate(origins) if origin not in origins[:number]],
        }
