# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section `AutoRetries` of the configuration."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from common.retry import Retry
from common.settings import durability_field, state_path_field

SECTION = "AutoRetries"
NAME = "auto-retries"


@dataclasses.dataclass(frozen=True)
class JobRetry(Retry):
    """When a job that failed is run again."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "MaxAttempts": "the script decides that itself now (a job is run again until GiveUpHours have passed)",
    }


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AutoRetries`."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "MaxConcurrent": "the script decides that itself now (ConcurrentJobs less one run at a time)",
        "KeepDoneDays": "jobs that were run again with success stay in the list for 30 days",
    }

    types: tuple[str, ...] = dataclasses.field(
        default=("DicomModalityStore", "OrthancPeerStore", "DicomMoveScu", "DicomWebStowClient"),
        metadata={"help": "Types of jobs that are run again, as `/jobs/{id}` names them."},
    )
    retry: JobRetry = dataclasses.field(
        default=JobRetry(), metadata={"help": "For how long a failed job is run again."}
    )
    durability: str = durability_field()
    state_path: str | None = state_path_field()
