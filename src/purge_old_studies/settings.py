# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section PurgeOldStudies of the configuration."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from common.routes import Refused
from common.settings import SettingsError, durability_field, not_empty, read_settings, state_path_field
from forwarding.node_proof import NODE_PROOFS

from .conditions import Conditions, conditions, day_back, is_label
from .disk import ALLOWED, Level, parse_level
from .parameters import MAX_DAYS, PARAMETERS

SECTION = "PurgeOldStudies"
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Metadata of a study that Orthanc gives by itself and that can mean something to a person; others are the user's.
KNOWN_METADATA = ("AnonymizedFrom", "ModifiedFrom", "RemoteAET")


def _age(text: str) -> str | None:
    return None if day_back(text, datetime.date(2000, 1, 1)) else "an age such as 90d, 18m or 7y"


def _time_of_day(text: str) -> str | None:
    return None if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?", text) else "a time of day as HH:MM"


def _days(texts: Sequence[str]) -> str | None:
    return None if texts and set(texts) <= set(DAYS) else ", ".join(DAYS)


def _level(text: str) -> str | None:
    return None if parse_level(text) else ALLOWED


def _oldest_by(text: str) -> str | None:
    if text == "LastAccess":
        return "received, StudyDate: Orthanc does not know when somebody last looked at a study"
    return None if text in ("received", "StudyDate") else "received, StudyDate"


def _destinations(names: Sequence[str]) -> str | None:
    return not_empty(names) or (None if all(name.strip() for name in names) else "names of destinations")


def _undated(value: object) -> str | None:
    return None if isinstance(value, bool) or value == "received" else 'true, false or "received"'


@dataclasses.dataclass(frozen=True)
class Rule:
    """One entry of `Rules`: what is deleted by itself."""

    name: str = dataclasses.field(default="", metadata={"help": "Its name in logs and in the history; needed."})
    older_than: str = dataclasses.field(
        default="", metadata={"check": _age, "help": "Age from which studies are deleted: `90d`, `18m`, `7y`; needed."}
    )
    at: str = dataclasses.field(
        default="",
        metadata={
            "check": _time_of_day,
            "help": "When, in the server's local time: `02:30`; needed, unless `WhenDiskAbove` says when.",
        },
    )
    days: tuple[str, ...] = dataclasses.field(
        default=DAYS, metadata={"check": _days, "help": "The days of the week on which it runs."}
    )
    by: str = dataclasses.field(
        default="StudyDate",
        metadata={
            "choices": ("StudyDate", "received"),
            "help": "`StudyDate`, or `received` (the study's `LastUpdate`).",
        },
    )
    query: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"check": not_empty, "help": 'A further condition, as in DICOM: `{"ModalitiesInStudy": "CR"}`.'},
    )
    labels: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"check": not_empty, "help": "Labels that a study must have; without the key: any study."}
    )
    labels_constraint: str = dataclasses.field(
        default="All",
        metadata={"choices": ("All", "Any", "None"), "help": "Whether a study must have all, any or none of `Labels`."},
    )
    limit: int | None = dataclasses.field(
        default=None, metadata={"minimum": 1, "help": "The most studies of one run, the oldest first; null: no limit."}
    )
    undated: Any = dataclasses.field(
        default=False,
        metadata={
            "check": _undated,
            "texts": (),
            "allowed": '`false`, `true`, `"received"`',
            "help": (
                "Studies without a valid date. `false`: they stay. `true`: they are deleted, whatever their age. "
                '`"received"`: their `LastUpdate` counts.'
            ),
        },
    )

    only_if_at: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "check": _destinations,
            "help": (
                "Destinations that must prove to have each instance of a study ([more](#only-what-is-elsewhere-too)): names "
                "from `DicomModalities`, `OrthancPeers`, `DicomWeb.Servers`, or `modality:PACS`, `peer:PACS`, `dicomweb:PACS`."
            ),
        },
    )
    proof: str = dataclasses.field(
        default=NODE_PROOFS[0],
        metadata={"choices": NODE_PROOFS, "help": "How the DICOM nodes of `OnlyIfAt` prove it."},
    )
    when_disk_above: str | None = dataclasses.field(
        default=None,
        metadata={
            "check": _level,
            "help": (
                "Instead of `At`: it deletes while the disk is fuller than this (see [by space](#by-space)): `85%` of the "
                "storage's file system, or the archive holds more than `900GB`, `1.5TiB`."
            ),
        },
    )
    down_to: str | None = dataclasses.field(
        default=None,
        metadata={"check": _level, "help": "With `WhenDiskAbove`: until it is down to this; needed, in the same unit."},
    )
    oldest_by: str = dataclasses.field(
        default="received",
        metadata={
            "check": _oldest_by,
            "allowed": '`"received"`, `"StudyDate"`',
            "help": (
                "With `WhenDiskAbove`: which studies are the oldest, and for `OlderThan`. Orthanc does not know when "
                "somebody last looked at a study."
            ),
        },
    )
    at_most: int = dataclasses.field(
        default=500, metadata={"minimum": 1, "help": "With `WhenDiskAbove`: the most studies of one look at the disk."}
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `PurgeOldStudies`."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "KeepDoneDays": "finished purges stay in the list for 30 days, and in the history for ever",
    }

    max_studies: int = dataclasses.field(
        default=0, metadata={"minimum": 0, "help": "More studies at once are refused without `force`; 0: no limit."}
    )
    max_percent: float = dataclasses.field(
        default=0,
        metadata={
            "minimum": 0,
            "maximum": 100,
            "help": "More percent of the archive's studies at once are refused without `force`; 0: no limit.",
        },
    )
    keep_labels: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "A study with one of these labels is never purged."}
    )
    keep_metadata: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "A study with one of these metadata is never purged, whatever the value."}
    )
    keep_received_days: float = dataclasses.field(
        default=7,
        metadata={
            "minimum": 0,
            "maximum": MAX_DAYS,
            "help": "A rule never takes a study of which something came in within so many days.",
        },
    )
    keep_undelivered: bool = dataclasses.field(
        default=True,
        metadata={
            "help": (
                "A study with which a forwarder, anonymize_series.py or auto_retries.py of this Orthanc is not done is "
                "never purged."
            )
        },
    )
    disk_look_seconds: float = dataclasses.field(
        default=600,
        metadata={
            "minimum": 1,
            "maximum": 86400,
            "help": "Seconds between two looks at the disk, for rules with `WhenDiskAbove`.",
        },
    )
    rules: tuple[Rule, ...] = dataclasses.field(
        default=(), metadata={"help": "What is deleted by itself, and when (below)."}
    )
    state_path: str | None = state_path_field("the ledger and the history")
    durability: str = durability_field("ledger and history survive")


def rule_conditions(rule: Rule, today: datetime.date, *, has_labels: bool = True) -> Conditions:
    """Return what a rule means on a day. Raises `Refused` as a request would."""
    by = rule.oldest_by if rule.when_disk_above else rule.by
    found: dict[str, Any] = {"older-than": rule.older_than, "by": by, "Query": rule.query, "undated": rule.undated}
    if rule.limit is not None:
        found["limit"] = rule.limit
    if rule.labels:
        found |= {"Labels": list(rule.labels), "LabelsConstraint": rule.labels_constraint}
    if rule.only_if_at:
        found |= {"only-if-at": list(rule.only_if_at), "proof": rule.proof}
    return conditions(found, today, has_labels=has_labels)


def disk_levels(rule: Rule) -> tuple[Level, Level]:
    """Return above which level a rule by space begins, and down to which it goes."""
    above, down_to = parse_level(rule.when_disk_above or ""), parse_level(rule.down_to or "")
    assert above is not None  # `check_settings` has seen to it
    assert down_to is not None
    return above, down_to


def _check_space(rule: Rule, path: str) -> None:
    """Check that a rule is either for a time of the day or for a level of the disk. Raises `SettingsError`."""
    if rule.when_disk_above is None:
        others = {"DownTo": "down_to", "OldestBy": "oldest_by", "AtMost": "at_most"}
        why = dict.fromkeys(others, "only a rule with WhenDiskAbove has it")
    else:
        others = {"At": "at", "Days": "days", "By": "by", "Limit": "limit"}
        none = "a rule with WhenDiskAbove has none,"
        why = dict.fromkeys(("At", "Days"), f"{none} the disk says when")
        why |= {"By": f"{none} its key is OldestBy", "Limit": f"{none} its key is AtMost"}
    for key, field in others.items():
        if getattr(rule, field) != getattr(Rule(), field):
            raise SettingsError(f"{path}.{key}: {why[key]}")
    if rule.when_disk_above is None:
        return
    if rule.down_to is None:
        raise SettingsError(f"{path}.DownTo is missing: a rule with WhenDiskAbove needs it")
    if rule.undated is True:
        raise SettingsError(
            f'{path}.Undated: found true, allowed: false, "received": a rule with WhenDiskAbove never takes what may be '
            "younger than OlderThan"
        )
    above, down_to = disk_levels(rule)
    if above.is_percent != down_to.is_percent or down_to.amount >= above.amount:
        raise SettingsError(
            f'{path}.DownTo: found "{rule.down_to}", allowed: less than WhenDiskAbove ("{rule.when_disk_above}"), in the '
            "same unit: both in %, or both in bytes"
        )


def _check_proof(rule: Rule, path: str) -> None:
    if rule.proof != Rule().proof and not rule.only_if_at:
        raise SettingsError(f"{path}.Proof: only a rule with OnlyIfAt has it")


def check_settings(settings: Settings, configuration: Mapping[str, Any]) -> None:
    """Check what the types don't say. Raises `SettingsError`."""
    known = {*(configuration.get("UserMetadata") or {}), *KNOWN_METADATA}
    for name in settings.keep_metadata:
        if name not in known and not re.fullmatch("[0-9]{4,5}", name):
            allowed = ", ".join(sorted(known))
            raise SettingsError(f'{SECTION}.KeepMetadata: found "{name}", allowed: names from UserMetadata, {allowed}')
    for label in settings.keep_labels:
        if not is_label(label):
            raise SettingsError(f"{SECTION}.KeepLabels: found {json.dumps(label)}, allowed: letters, digits, - and _")
    names = [rule.name for rule in settings.rules]
    for number, rule in enumerate(settings.rules):
        path = f"{SECTION}.Rules[{number}]"
        for key, value in (
            ("Name", rule.name.strip()),
            ("OlderThan", rule.older_than),
            ("At", rule.at or rule.when_disk_above),
        ):
            if not value:
                raise SettingsError(f"{path}.{key} is missing: a rule needs Name, OlderThan and At (or WhenDiskAbove)")
        if names.count(rule.name) > 1:
            raise SettingsError(f'{path}.Name: found "{rule.name}" twice, allowed: a name of its own')
        if not all(isinstance(value, str) for value in rule.query.values()):
            raise SettingsError(f"{path}.Query: found {json.dumps(rule.query)}, allowed: {PARAMETERS['Query'].allowed}")
        _check_proof(rule, path)
        _check_space(rule, path)
        today = datetime.date.today()  # noqa: DTZ011 - days are the server's local ones
        try:
            last = rule_conditions(rule, today).last
        except Refused as refused:
            raise SettingsError(f"{path}: {refused.message}") from None
        by = rule.oldest_by if rule.when_disk_above else rule.by
        if by == "received" and (today - last).days < settings.keep_received_days:
            raise SettingsError(
                f'{path}.OlderThan: found "{rule.older_than}" by received, allowed: at least KeepReceivedDays '
                f"({settings.keep_received_days:g} days); or set a lower {SECTION}.KeepReceivedDays"
            )


def read_configuration(configuration: Mapping[str, Any]) -> Settings:
    """Return the settings. Raises `SettingsError` for what is wrong anywhere."""
    settings = read_settings(Settings, SECTION, configuration)
    check_settings(settings, configuration)
    named = {number: name for name, number in (configuration.get("UserMetadata") or {}).items()}
    kept = tuple(_as_orthanc_calls(each, named) for each in settings.keep_metadata)
    return dataclasses.replace(settings, keep_metadata=kept)


def _as_orthanc_calls(metadata: str, named: Mapping[int, str]) -> str:
    """Return how Orthanc calls a kind of metadata that is given by its name or number.

    By the number only if it has no name: `5000`, where UserMetadata has `"Keep": 5000`, would keep nothing.
    """
    return named.get(int(metadata), str(int(metadata))) if re.fullmatch("[0-9]{4,5}", metadata) else metadata
