# SPDX-License-Identifier: AGPL-3.0-or-later
"""The settings of the forwarders, and what can be wrong with them beyond their types."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import orthanc

from common.retry import Retry
from common.routes import one_line
from common.settings import durability_field, not_empty, reconcile_field, state_path_field, wrong_keys
from forwarding.image_changes import wrong_with_modify
from forwarding.rules import ForwardingRule, Window, check_alternates, wrong_with

# Keys of a store call that the script sets itself.
RESERVED_STORE_OPTIONS = ("Resources", "Synchronous", "Asynchronous", "Permissive")
# Before this version Orthanc ignores them without a word; all others are older than 1.10.1.
STORE_OPTIONS_FROM = {"CalledAet": (1, 11, 3), "Host": (1, 11, 3), "Port": (1, 11, 3)}
# True in the `all.py` of a release: who takes all scripts has not said that anything is to be sent.
NEEDS_SECTION = False


@dataclasses.dataclass(frozen=True)
class SendOptions:
    """What is particular to one destination."""

    max_jobs: int | None = dataclasses.field(
        default=None, metadata={"minimum": 1, "help": "Jobs at a time for this destination; null: `MaxPerDestination`."}
    )
    windows: tuple[Window, ...] = dataclasses.field(
        default=(),
        metadata={
            "check": not_empty,
            "help": (
                'Times in which it may be sent to: `{"Days": ["Mon"], "From": "22:00", "To": "06:00"}`; without '
                "the key: always."
            ),
        },
    )
    options: dict[str, Any] = dataclasses.field(default_factory=dict, metadata={"help": "Of Orthanc's store call."})

    @property
    def is_verified(self) -> bool:
        """Return whether the destination is asked what it has of what it took."""
        return False


@dataclasses.dataclass(frozen=True)
class ForwardingSettings:
    """What the sections of all forwarders have."""

    destinations: tuple[str, ...] | None = dataclasses.field(
        default=None, metadata={"help": "Names of destinations; null: all that Orthanc knows, also later; `[]`: none."}
    )
    rules: tuple[ForwardingRule, ...] | None = dataclasses.field(
        default=None, metadata={"help": "What is sent where; null: all studies to all; `[]`: nothing by itself."}
    )
    rule_mode: str = dataclasses.field(
        default="first",
        metadata={
            "choices": ("first", "all"),
            "help": "`first`: the first rule that matches decides. `all`: each rule that matches adds its destinations.",
        },
    )
    trigger: str = dataclasses.field(
        default="Stable",
        metadata={
            "choices": ("Stable", "Stored"),
            "help": (
                "`Stable`: sent when nothing more has come for `StableAge`. `Stored`: sent in batches while it "
                "arrives, so it is there sooner."
            ),
        },
    )
    skip_modified: bool = dataclasses.field(
        default=False, metadata={"help": "Leave out instances that Orthanc made by modification or anonymization."}
    )
    delete_after_forward: bool = dataclasses.field(
        default=False, metadata={"help": "Delete here what every destination has proved to have."}
    )
    protect_undelivered: bool = dataclasses.field(
        default=False,
        metadata={
            "help": "Protect patients against recycling (`MaximumStorageSize`, `MaximumPatientCount`) while something of "
            "theirs waits or is sent."
        },
    )
    retry: Retry = dataclasses.field(default=Retry(), metadata={"help": "For how long what failed is sent again."})
    max_per_destination: int | None = dataclasses.field(
        default=None,
        metadata={
            "minimum": 1,
            "help": (
                "Jobs at a time for one destination, and so associations: fewer for a node that takes few at once. null: "
                "its share of `ConcurrentJobs`."
            ),
        },
    )
    destination_options: Mapping[str, SendOptions] = dataclasses.field(
        default_factory=dict, metadata={"help": "Settings of single destinations, by name (below)."}
    )
    alternates: dict[str, list[str]] = dataclasses.field(
        default_factory=dict,
        metadata={
            "check": check_alternates,
            "help": (
                "Where what waits for a destination goes when that does not answer any more: the first of a list that "
                'answers. `{"PACS": ["PACS-B", "ARCHIVE"]}`.'
            ),
        },
    )
    alternates_after_minutes: float = dataclasses.field(
        default=15,
        metadata={
            "minimum": 0,
            "help": "For how long a destination must have been silent until its `Alternates` are used.",
        },
    )
    reconcile: bool = reconcile_field("each of several Orthancs on one database without `Scripts.Database`")
    durability: str = durability_field()
    state_path: str | None = state_path_field()
    keep_done_days: float = dataclasses.field(
        default=30, metadata={"minimum": 0, "help": "Days that finished deliveries stay in the list."}
    )


def section_of(name: str) -> str:
    """Return the section of a script, from its name with dashes."""
    return "".join(map(str.capitalize, name.split("-")))


def may_overwrite(configuration: Mapping[str, Any]) -> bool:
    """Return whether the same instance can come again with another content."""
    return configuration.get("OverwriteInstances", False) not in (False, "Never")


def may_repeat(configuration: Mapping[str, Any]) -> bool:
    """Return whether the same instance can come again with the content that it has."""
    return may_overwrite(configuration) and configuration["OverwriteInstances"] != "IfChanged"


def wrong_with_settings(
    settings: ForwardingSettings,
    configuration: Mapping[str, Any],
    store_options: Sequence[str],
    *,
    can_modify: bool = True,
) -> str | None:
    """Return what is wrong with the settings beyond their types, by its key; `store_options` are those that Orthanc knows.

    `can_modify`: images can be changed on this way.
    """
    extra = [tag for tags in configuration.get("ExtraMainDicomTags", {}).values() for tag in tags]
    for number, rule in enumerate(settings.rules or ()):
        if complaint := wrong_with(rule, extra):
            return f"Rules[{number}].{complaint}"
        if complaint := _wrong_with_changes(rule, settings, can_modify=can_modify):
            return f"Rules[{number}].{complaint}"
    if settings.delete_after_forward and may_overwrite(configuration):
        return (
            'DeleteAfterForward: found true, allowed is false where "OverwriteInstances" is on: a new image of the '
            "same identifier could be deleted because an older one was proved"
        )
    for name, options in settings.destination_options.items():
        if reserved := [key for key in options.options if key in RESERVED_STORE_OPTIONS]:
            why = (
                "with it Orthanc calls a job to a dead port a success"
                if reserved == ["Permissive"]
                else "it is the script's"
            )
            return f"DestinationOptions.{name}.Options: found {reserved[0]}, which is not allowed: {why}"
        elsewhere = [key for key in STORE_OPTIONS_FROM if key in options.options]
        if elsewhere and settings.delete_after_forward:
            return (
                f"DestinationOptions.{one_line(name)}.Options: found {', '.join(elsewhere)}, which is not allowed with "
                "DeleteAfterForward: the images go there, and the proof is asked of the destination as Orthanc knows it"
            )
        # Orthanc itself ignores what it does not know.
        path = f"DestinationOptions.{one_line(name)}.Options"
        if complaint := wrong_keys(path, options.options, store_options) or _ignored_options(path, options.options):
            return complaint
    return None


def _wrong_with_changes(rule: ForwardingRule, settings: ForwardingSettings, *, can_modify: bool) -> str | None:
    """Return what is wrong with what a rule changes on the way, by its key."""
    if rule.modify is None:
        return None
    if not can_modify:
        return "Modify: found an object, allowed: null (on the way to DICOMweb servers nothing can be changed)"
    if settings.delete_after_forward:
        return (
            "Modify: found an object, allowed with DeleteAfterForward: null (what no destination has as it is here is not to be "
            "deleted here)"
        )
    for name, options in settings.destination_options.items():
        if options.options and may_get_changed(rule, name, settings):
            return (
                f"Modify: found an object, allowed: a rule for other destinations than {one_line(name)}, as Orthanc has no "
                "Options for images that are sent alone (a node or peer can have a second name)"
            )
    return wrong_with_modify(rule.modify)


def may_get_changed(rule: ForwardingRule, destination: str, settings: ForwardingSettings) -> bool:
    """Return whether a destination may get something by a rule that changes it."""
    listed = settings.destinations if rule.destinations is None else rule.destinations
    if rule.modify is None:
        return False
    if rule.matcher or listed is None or destination in listed:
        return True
    alternates = settings.alternates | rule.alternates
    return any(destination in alternates.get(name, ()) for name in listed)


def store_options_help(options: Sequence[str]) -> str:
    """Return the names of the options of a store call for a table, those that not every Orthanc has with their version."""
    return ", ".join(f"`{each}`{_since(each)}" for each in options)


def _ignored_options(path: str, options: Mapping[str, Any]) -> str | None:
    """Return what is wrong with options that this Orthanc does not know yet: it would send to where they don't say."""
    ignored = [
        f"{key}{_since(key)}"
        for key, version in STORE_OPTIONS_FROM.items()
        if key in options and not orthanc.CheckVersionAdvanced(*version)
    ]
    return f"{path}: found {', '.join(ignored)}, which this Orthanc ignores" if ignored else None


def _since(option: str) -> str:
    version = STORE_OPTIONS_FROM.get(option)
    return f" (from Orthanc {'.'.join(map(str, version))})" if version else ""
