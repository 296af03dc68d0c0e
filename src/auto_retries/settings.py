# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section `AutoRetries` of the configuration."""

import dataclasses

from common.retry import Retry

SECTION = "AutoRetries"
NAME = "auto-retries"


@dataclasses.dataclass(frozen=True)
class JobRetry(Retry):
    """When a job that failed is run again."""

    max_attempts: int = dataclasses.field(
        default=100, metadata={"minimum": 1, "help": "Attempts after which it is `dead`, the first failure included."}
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AutoRetries`."""

    types: tuple[str, ...] = dataclasses.field(
        default=("DicomModalityStore", "OrthancPeerStore", "DicomMoveScu"),
        metadata={"help": "Types of jobs that are run again, as `/jobs/{id}` names them."},
    )
    retry: JobRetry = dataclasses.field(default=JobRetry(), metadata={"help": "When a failed job is run again."})
    max_concurrent: int | None = dataclasses.field(
        default=None, metadata={"minimum": 1, "help": "Retries at a time; null: one less than `ConcurrentJobs`."}
    )
    durability: str = dataclasses.field(
        default="normal",
        metadata={"choices": ("normal", "full"), "help": "`full`: the ledger also survives the loss of power."},
    )
    state_path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the ledger; null: `IndexDirectory`, else `StorageDirectory`."}
    )
    keep_done_days: float = dataclasses.field(
        default=30, metadata={"minimum": 0, "help": "Days that jobs that were run again with success stay in the list."}
    )
