# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/settings.py: edit that, never this file.
"""The section `DicomEvents`: which events are published, and the bounds of what waits."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from ._common.settings import durability_field, reconcile_field

from .events import ORIGINS
from .fields import path_or_null, switch, whole_text

SECTION = "DicomEvents"
FORMATS = ("structured", "binary", "plain")


def _origins(values: tuple[str, ...]) -> str | None:
    return None if set(values) <= set(ORIGINS.values()) else f"a list of {', '.join(ORIGINS.values())}"


def _tags(text: str) -> Any:
    def check(names: tuple[str, ...]) -> str | None:
        return None if all(re.fullmatch(r"[\w ,.-]+", name) for name in names) else "keywords, or gggg,eeee"

    return dataclasses.field(default=(), metadata={"check": check, "help": text})


@dataclasses.dataclass(frozen=True)
class EventSettings:
    """`Events`: which are published."""

    stable_series: bool = switch(True, "Publish `dicom.series.stable`")
    stable_study: bool = switch(True, "Publish `dicom.study.stable`")
    stable_patient: bool = switch(True, "Publish `dicom.patient.stable`")
    deleted_series: bool = switch(True, "Publish `dicom.series.deleted`")
    deleted_study: bool = switch(True, "Publish `dicom.study.deleted`")
    deleted_patient: bool = switch(True, "Publish `dicom.patient.deleted`")
    deleted_instance: bool = switch(False, "Publish `dicom.instance.deleted`; keeps a row for each instance")
    stored_instance: bool = switch(True, "Publish `dicom.instance.stored`")
    stored_instance_throttle_ms: int = dataclasses.field(
        default=0,
        metadata={
            "minimum": 0,
            "help": (
                "Milliseconds between two events of one series, where consumers need not see each image; 0: one "
                "for each image."
            ),
        },
    )
    stored_instance_skip_origin: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "check": _origins,
            "help": f"Origins whose images are not published: `{'`, `'.join(ORIGINS.values())}`.",
        },
    )
    stored_instance_publish_tags: tuple[str, ...] = _tags("Tags of the instance, by keyword or as `gggg,eeee`.")
    stable_series_publish_tags: tuple[str, ...] = _tags("Tags of the first instance that arrived of the series.")
    stable_study_publish_tags: tuple[str, ...] = _tags("Tags of the first instance that arrived of the study.")
    stable_patient_publish_tags: tuple[str, ...] = _tags("Tags of the first instance that arrived of the patient.")
    new_patient: bool = switch(False, "Publish `dicom.patient.new`")
    new_study: bool = switch(False, "Publish `dicom.study.new`")
    new_series: bool = switch(False, "Publish `dicom.series.new`")
    updated_metadata: bool = switch(False, "Publish `dicom.….metadata-updated`: also what other scripts write")
    updated_attachment: bool = switch(False, "Publish `dicom.….attachment-updated`: also what other scripts write")
    job_success: bool = switch(False, "Publish `orthanc.job.succeeded`")
    job_failure: bool = switch(False, "Publish `orthanc.job.failed`")
    orthanc_started: bool = switch(False, "Publish `orthanc.started`")
    orthanc_stopped: bool = switch(False, "Publish `orthanc.stopped`; it is published at the next start")
    updated_modalities: bool = switch(False, "Publish `orthanc.modalities.updated`")
    updated_peers: bool = switch(False, "Publish `orthanc.peers.updated`")


@dataclasses.dataclass(frozen=True)
class OutboxSettings:
    """`Outbox`: how much may wait, and what happens beyond."""

    max_megabytes: int = dataclasses.field(
        default=10_000, metadata={"minimum": 1, "help": "Megabytes that may wait on disk: less than is free there."}
    )
    max_age_days: float = dataclasses.field(
        default=0, metadata={"minimum": 0, "help": "Days after which an event that still waits is dropped; 0: never."}
    )
    when_full: str = dataclasses.field(
        default="drop-oldest",
        metadata={
            "choices": ("drop-oldest", "refuse"),
            "help": "At `MaxMegabytes`: drop the oldest events, or take no new ones.",
        },
    )
    keep_orphaned_days: float = dataclasses.field(
        default=30,
        metadata={
            "minimum": 0,
            "help": (
                "Days (of running) for which events are kept for a broker that is not configured any more; 0: for ever."
            ),
        },
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `DicomEvents`."""

    events: EventSettings = dataclasses.field(default=EventSettings(), metadata={"help": "Which events there are."})
    broker: dict[str, Any] | None = dataclasses.field(
        default=None,
        metadata={
            "secret": True,
            "read_later": True,  # a wrong one puts only itself off
            "help": "Where events are published (below). Without `Broker` and `Brokers`: in a file.",
        },
    )
    brokers: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"secret": True, "read_later": True, "help": "More of them: a name for each, and what `Broker` has."},
    )
    format: str = dataclasses.field(
        default="structured",
        metadata={
            "choices": FORMATS,
            "help": (
                "`structured`: a CloudEvent as one JSON object. `binary`: its attributes as headers. `plain`: "
                "flat JSON."
            ),
        },
    )
    source: str | None = dataclasses.field(
        default=None,
        metadata={
            **whole_text("[!-~]+", "a URI or its path"),
            "help": "`source` of each event, different for each of several Orthancs; null: `/orthanc/` and Orthanc's `Name`.",
        },
    )
    outbox: OutboxSettings = dataclasses.field(
        default=OutboxSettings(), metadata={"help": "How much may wait for brokers that are away."}
    )
    reconcile: bool = reconcile_field("each of several Orthancs on one database without `Scripts.Database`")
    durability: str = durability_field("the outbox survives")
    state_path: str | None = path_or_null(
        "Folder of the outbox; null: `Scripts.StatePath`, else `IndexDirectory`, else `StorageDirectory`."
    )
