# SPDX-License-Identifier: AGPL-3.0-or-later
"""The rows of jobs that failed: how they begin, and how their attempts end."""

import json
from collections.abc import Mapping
from typing import Any

import orthanc

from auto_retries.recipes import destination_of, may_lie
from auto_retries.settings import NAME, JobRetry
from common.ledger import Ledger
from common.routes import one_line
from common.times import utc
from common.work import Which, Work
from common.worker import Trouble

ATTEMPTS_REMEMBERED = 20  # in the history of a row


class Failures:
    """Writes down and logs what became of jobs and of the attempts to run them again.

    Attributes
    ----------
    missed : the number of jobs that failed and could not be read.
    """

    def __init__(self, ledger: Ledger, retry: JobRetry, trouble: Trouble) -> None:
        self._ledger, self._work, self._retry, self._trouble = ledger, Work(ledger), retry, trouble
        self.missed = 0

    def unanswered(self) -> list[dict[str, Any]]:
        """Return the rows whose submission was not answered: what the job is called may still be on its way."""
        return [row for row in self._work.find(Which(states=("sending",))) if row["job"] is None]

    def may_own(self, job: str) -> bool:
        """Return whether this job is, or may turn out to be, an attempt of a row."""
        return self._work.has(Which(job=job)) or bool(self.unanswered())

    def row_of(self, ended: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the row that a watched job is an attempt of, also one whose submission was not answered."""
        if found := self._work.find(Which(job=ended["job"])):
            return found[0]
        digest = (json.loads(ended["data"]) or {}).get("Digest")
        same = [row for row in self.unanswered() if digest and json.loads(row["data"])["Digest"] == digest]
        return {**same[0], "job": ended["job"]} if same else None

    def add(self, ended: Mapping[str, Any]) -> None:
        """Add a row for the job of somebody else that failed, unless one waits that does the same."""
        data = json.loads(ended["data"])
        if data is None:
            self.missed += 1
            orthanc.LogWarning(
                f"{NAME}: job {ended['job']} failed and was forgotten by Orthanc before it could be read, so that it "
                "can't be run again; a larger JobsHistorySize helps"
            )
            return
        if same := self._work.unfinished_with("Digest", data["Digest"]):
            orthanc.LogInfo(f"{NAME}: job {ended['job']} failed, and would do the same as {same['id']}, which waits")
            return
        number = self._ledger.add(destination_of(data), ended["job"], data)
        self._work.change(number, job=ended["job"], attempts=1, created=ended["ended"])
        if row := self._work.get(number):
            self.fail(row, ended["error"])

    def end(self, row: Mapping[str, Any], ended: Mapping[str, Any]) -> None:
        """Write down how an attempt has ended: its job, which was watched."""
        if ended["state"] == "Success" and row["state"] == "waiting" and may_lie(json.loads(row["data"])):
            orthanc.LogInfo(
                f"{label_of(row)} was resubmitted by somebody, which may have sent nothing: it is sent again"
            )
        elif ended["state"] == "Success":
            self._ledger.end(row["id"], "done")
            orthanc.LogInfo(f"{label_of(row)} has succeeded (attempt {row['attempts']})")
        elif ended["state"] == "canceled":
            self._work.give_up(row["id"], ended["error"])
            orthanc.LogInfo(f"{label_of(row)}: {ended['error']}; it is not run again")
        elif row["state"] == "sending":
            self.fail(row, ended["error"])

    def fail(self, row: Mapping[str, Any], error: str, *, for_ever: bool = False) -> None:
        """Write down that an attempt has failed: it waits for the next one, or is dead."""
        data = json.loads(row["data"])
        entry = {"Time": utc(), "Job": row["job"], "Error": one_line(error)}
        data["History"] = [*data.get("History", []), entry][-ATTEMPTS_REMEMBERED:]
        with self._ledger.transaction():
            self._work.change(row["id"], data=data)
            state = self._ledger.fail(row["id"], one_line(error), self._retry, give_up=for_ever)
        text = f"{label_of(row)} failed (attempt {row['attempts']}): {one_line(error)}"
        self._trouble.note(text)
        if state == "dead":
            orthanc.LogError(f"{text}. Given up; POST /{NAME}/jobs/{row['id']}/retry runs it again")
        elif row["attempts"] == 1:
            orthanc.LogWarning(f"{text}. It will be run again: GET /{NAME}/jobs/{row['id']}")
        else:
            orthanc.LogInfo(text)


def label_of(row: Mapping[str, Any]) -> str:
    """Return what the log calls a row."""
    return f"{NAME}: {json.loads(row['data'])['Type']} to {row['queue']} (job {row['subject']})"
