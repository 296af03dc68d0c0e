# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which destinations get a resource, and when a destination may be sent to: decisions, without Orthanc."""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.aets import ANY_CASE, AeTitles
from common.settings import not_empty
from common.wildcards import matches_any
from forwarding.modify import Modify
from forwarding.uids import SOP_CLASSES, TRANSFER_SYNTAXES, check_names, is_wanted

# The tags that `/tools/find` answers at a level besides those of the levels above (Orthanc's main DICOM tags).
# A tag of a lower level would silently match nothing: such a rule is refused.
ANSWERED = {
    "Patient": {"PatientID", "PatientName", "PatientBirthDate", "PatientSex", "OtherPatientIDs"},
    "Study": {
        *(
            "StudyInstanceUID",
            "StudyDate",
            "StudyTime",
            "StudyID",
            "StudyDescription",
            "AccessionNumber",
            "InstitutionName",
        ),
        *("ReferringPhysicianName", "RequestingPhysician", "RequestedProcedureDescription", "ModalitiesInStudy"),
    },
    "Series": {
        *(
            "SeriesInstanceUID",
            "SeriesDate",
            "SeriesTime",
            "SeriesNumber",
            "SeriesDescription",
            "Modality",
            "Manufacturer",
        ),
        *(
            "StationName",
            "BodyPartExamined",
            "SequenceName",
            "ProtocolName",
            "ImagesInAcquisition",
            "ImageOrientationPatient",
        ),
        *("NumberOfSlices", "NumberOfTemporalPositions", "NumberOfTimeSlots", "CardiacNumberOfImages", "SeriesType"),
        *(
            "PerformedProcedureStepDescription",
            "AcquisitionDeviceProcessingDescription",
            "ContrastBolusAgent",
            "OperatorsName",
        ),
    },
}
LEVELS = ("Patient", "Study", "Series")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
METHODS = ("DicomProtocol", "RestApi", "Plugins", "Lua", "WebDav", "Unknown")


def check_patterns(values: Sequence[str]) -> str | None:
    """Refuse an empty list (a `check`), and an empty text in one, which would match whatever says nothing of itself."""
    if complaint := not_empty(values):
        return complaint
    return None if all(values) else "texts that are not empty (is the environment variable set?)"


def check_alternates(alternates: Mapping[str, Any]) -> str | None:
    """Refuse what names no other destination (a `check`)."""
    for name, names in alternates.items():
        if not (
            isinstance(names, list)
            and names
            and all(isinstance(one, str) and one for one in names)
            and name not in names
        ):
            return 'a list of other destinations for each, as {"PACS": ["PACS-B"]}'
    return None


def clock_time(text: str) -> datetime.time | None:
    """Return the time of `HH:MM`, or None; `24:00` is the end of the day."""
    try:
        return datetime.time.max if text == "24:00" else datetime.datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007
    except ValueError:
        return None


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where instances came from; each list of wildcard patterns (`*`, `?`) that is there must hold the value."""

    remote_aet: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"key": "RemoteAET", "check": check_patterns, "help": "AE titles of the sender (C-STORE)."}
    )
    called_aet: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "key": "CalledAET",
            "check": check_patterns,
            "help": "AE titles under which the sender called Orthanc.",
        },
    )
    remote_ip: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"key": "RemoteIP", "check": check_patterns, "help": "Addresses of the sender."}
    )
    method: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "check": check_patterns,
            "help": "How it came in: DicomProtocol, RestApi, Plugins, Lua, WebDav, Unknown.",
        },
    )
    user: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"check": check_patterns, "help": "Names of the user that uploaded it (HTTP)."}
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is sent where."""

    name: str = dataclasses.field(
        default="", metadata={"check": lambda text: None if text else "a name", "help": "Shown in logs and routes."}
    )
    level: str = dataclasses.field(
        default="Study", metadata={"choices": LEVELS, "help": "What is looked at when it is stable, and sent."}
    )
    destinations: tuple[str, ...] | None = dataclasses.field(
        default=None,
        metadata={"help": "Names of destinations; null: all of the section; `[]`: what it matches is sent nowhere."},
    )
    query: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "DICOM matching as in C-FIND, answered by Orthanc: wildcards, ranges, lists."},
    )
    origin: Origin = dataclasses.field(
        default=Origin(), metadata={"help": "Only what came from there (RemoteAET, CalledAET, RemoteIP, Method, User)."}
    )
    sop_classes: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "key": "SOPClasses",
            "check": check_names(SOP_CLASSES),
            "help": "Only instances of these SOP classes (keywords or UIDs); with a `!`: only those of others.",
        },
    )
    transfer_syntaxes: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "check": check_names(TRANSFER_SYNTAXES),
            "help": "Only instances in these transfer syntaxes (keywords or UIDs); with a `!`: only those in others.",
        },
    )
    matcher: str = dataclasses.field(
        default="",
        metadata={
            "help": (
                "`module.py:function`: a Python function of yours that chooses the destinations, where no `Query` can."
            )
        },
    )
    priority: int = dataclasses.field(default=0, metadata={"help": "Higher is sent first."})


@dataclasses.dataclass(frozen=True)
class ForwardingRule(Rule):
    """What is sent where by a forwarder."""

    alternates: dict[str, list[str]] = dataclasses.field(
        default_factory=dict,
        metadata={
            "check": check_alternates,
            "help": "As `Alternates` of the section, and instead of them, for what it matches.",
        },
    )
    modify: Modify | None = dataclasses.field(
        default=None,
        metadata={"help": "What is changed in each image on its way (DICOM nodes and peers); null: nothing."},
    )

    @property
    def changes(self) -> dict[str, Any] | None:
        """Return what it changes on the way, as a row keeps it; None: nothing."""
        return None if self.modify is None else self.modify.as_json()


@dataclasses.dataclass(frozen=True)
class Window:
    """Hours of a destination, in the server's local time; one that ends before it begins spans midnight."""

    days: tuple[str, ...] = dataclasses.field(
        default=DAYS,
        metadata={
            "check": lambda days: None if days and set(days) <= set(DAYS) else "a list of " + ", ".join(DAYS),
            "help": "Days of the week on which it begins.",
        },
    )
    start: str = dataclasses.field(
        default="00:00",
        metadata={
            "key": "From",
            "check": lambda text: None if clock_time(text) else "a time as HH:MM",
            "help": "When it begins, in the server's local time.",
        },
    )
    end: str = dataclasses.field(
        default="24:00",
        metadata={
            "key": "To",
            "check": lambda text: None if clock_time(text) else "a time as HH:MM",
            "help": "When it ends. A time before `From` is on the next day.",
        },
    )


def is_open(windows: Sequence[Window], now: datetime.datetime) -> bool:
    """Return whether a destination may be sent to now; without windows it always may."""
    return not windows or any(_is_in(window, now) for window in windows)


def _is_in(window: Window, now: datetime.datetime) -> bool:
    start, end = clock_time(window.start), clock_time(window.end)
    assert start is not None and end is not None  # noqa: PT018 - checked when the settings were read
    today, yesterday = DAYS[now.weekday()] in window.days, DAYS[now.weekday() - 1] in window.days
    if start < end:
        return today and start <= now.time() < end
    return (today and now.time() >= start) or (yesterday and now.time() < end)


def wrong_with(rule: Rule, extra_tags: Iterable[str] = ()) -> str | None:
    """Return what a rule can't be, by its key: conditions that its level can't answer; None if all is well."""
    above = LEVELS[: LEVELS.index(rule.level) + 1]
    answered = set().union(*(ANSWERED[level] for level in above))
    below = set().union(*(ANSWERED[level] for level in LEVELS)) - answered
    for tag, wanted in rule.query.items():
        if tag in below or (tag == "ModalitiesInStudy" and rule.level != "Study"):
            return f"Query.{tag}: a {rule.level} can't be asked for it, allowed: {', '.join(sorted(answered | set(extra_tags)))}"
        if complaint := _wrong_with_value(tag, wanted):
            return f"Query.{tag}: {complaint}"
    if wrong := [method for method in rule.origin.method if method not in METHODS]:
        return f"Origin.Method: found {wrong[0]!r}, allowed: {', '.join(METHODS)}"
    path, _, function = rule.matcher.rpartition(":")
    if rule.matcher and not (path.endswith(".py") and function.isidentifier()):
        return f"Matcher: found {rule.matcher!r}, allowed: module.py:function"
    return None


def _wrong_with_value(tag: str, wanted: Any) -> str | None:
    """Return why a condition of a `Query` can't be meant so, and what is allowed; None if it can."""
    if not isinstance(wanted, str):
        return f"found {wanted!r}, allowed: a text (several values by a backslash)"
    # DICOM finds all by what names no value: only a `*` that a person wrote may.
    if wanted != "*" and any(not part.strip(" *-") for part in wanted.split("\\")):
        return (
            f"found {wanted!r}, which everything matches (is the environment variable set?), allowed: a text; "
            "to set no condition, leave the key out"
        )
    if tag == "ModalitiesInStudy" and ("*" in wanted or "?" in wanted):
        return "wildcards are not answered by every Orthanc, allowed: a list as CT\\MR"
    if tag.endswith("Date") and any(part.count("-") > 1 for part in wanted.split("\\")):  # to DICOM a range of nothing
        return f"found {wanted!r}, allowed: a day as 20240131, or a range as 20240101-20240131"
    return None


def has_origin(wanted: Origin, origin: Mapping[str, str], aets: AeTitles = ANY_CASE) -> bool:
    """Return whether one instance's origin (Orthanc's metadata by name) meets the conditions."""
    conditions = (
        (wanted.remote_aet, "RemoteAET", aets.matches_any),
        (wanted.called_aet, "CalledAET", aets.matches_any),
        (wanted.remote_ip, "RemoteIP", matches_any),
        (wanted.method, "Origin", matches_any),
        (wanted.user, "HttpUsername", matches_any),
    )
    return all(matches(origin.get(name, ""), patterns) for patterns, name, matches in conditions if patterns)


def has_kind(rule: Rule, origin: Mapping[str, str]) -> bool:
    """Return whether one instance (Orthanc's metadata by name) has a SOP class and a transfer syntax that a rule takes."""
    return is_wanted(origin.get("SopClassUid", ""), rule.sop_classes, SOP_CLASSES) and is_wanted(
        origin.get("TransferSyntax", ""), rule.transfer_syntaxes, TRANSFER_SYNTAXES
    )
