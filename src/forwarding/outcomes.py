# SPDX-License-Identifier: AGPL-3.0-or-later
"""What becomes of a row whose job has ended: all of it was delivered, a part of it, or nothing."""

import json
from collections.abc import Mapping
from typing import Any

from common.archive import instances_of
from common.jobs import ending_of, get_job
from common.ledger import SEND
from common.routes import one_line
from common.work import Which, Work
from forwarding.archive import metadata_of
from forwarding.context import Context
from forwarding.destinations import Destinations
from forwarding.failures import (
    TOLD_EXACTLY,
    explain_not_accepted,
    is_duplicate,
    is_not_accepted,
    is_rejected,
    sent_before_failure,
    was_out_of_reach,
)
from forwarding.rows import Rows
from forwarding.tasks import is_changed
from forwarding.verification import Verification


class Outcomes:
    """Settles rows by how their jobs have ended."""

    def __init__(self, context: Context, destinations: Destinations, rows: Rows, verification: Verification) -> None:
        self._ledger, self._work, self._loopback = context.ledger, Work(context.ledger), context.loopback
        self._destinations, self._rows, self._verification = destinations, rows, verification

    def settle_delivered(self, row: Mapping[str, Any]) -> None:
        """Settle a row whose destination took all of it."""
        health = self._destinations.health_of(row["queue"])
        health.identity.used()
        if health.identity.wrong:
            self._work.take_back(row["id"])
        elif not self._verification.begin(row):
            self._rows.end_delivered(row)

    def settle_failed(self, row: Mapping[str, Any]) -> bool:
        """Settle a row whose job has failed; return whether what waits in Orthanc for the destination is to be called back."""
        job = get_job(self._loopback, row["job"])
        _, why = ending_of(job, reported=False)
        if self._is_turned_away(row, why):
            return True
        left, has_advanced = self._settle_part(row, job, why)
        if left is None:
            return False
        if has_advanced and is_duplicate(why):  # nothing is wrong there, and what comes behind it was not tried yet
            self._work.take_back(left["id"])
            self._destinations.health_of(row["queue"]).succeeded()
            return False
        return self._fail_left(left, why, has_advanced=has_advanced)

    def settle_left(self, row: Mapping[str, Any], why: str, *, has_advanced: bool) -> bool:
        """Settle a row that holds what its destination has not acknowledged; return as `settle_failed`."""
        if self._is_turned_away(row, why):
            return True
        return self._fail_left(row, why, has_advanced=has_advanced)

    def _is_turned_away(self, row: Mapping[str, Any], why: str) -> bool:
        """Return whether a node took nothing because it has another association; then it gets one at a time from now on."""
        if is_rejected(why) and self._is_another_under_way(row):
            self._destinations.narrow(row["queue"])
            self._work.take_back(row["id"])
            return True
        return False

    def _fail_left(self, row: Mapping[str, Any], why: str, *, has_advanced: bool) -> bool:
        if is_not_accepted(why):
            self._settle_not_accepted(row, why)
            return False
        if has_advanced:  # whatever stopped it, each attempt leaves less: it need not wait ever longer
            self._work.change(row["id"], attempts=1)
        self.fail(row, why, has_advanced=has_advanced)
        return True

    def is_asked_for(self, row: Mapping[str, Any]) -> bool:
        """Ask the destination of a row whose job has failed what has arrived all the same; return whether it can be asked."""
        _, why = ending_of(get_job(self._loopback, row["job"]), reported=False)
        return self._verification.begin(row, failed=why)

    def fail(self, row: Mapping[str, Any], why: str, *, has_advanced: bool = False) -> None:
        """Let a row fail whose job has failed, and hold back what else is to be sent there until the destination answers."""
        data = {**json.loads(row["data"]), "Suspect": not (has_advanced or was_out_of_reach(why))}
        self._rows.fail({**row, "data": json.dumps(data)}, why)
        self._destinations.health_of(row["queue"]).failed(one_line(why))

    def _settle_not_accepted(self, row: Mapping[str, Any], why: str) -> None:
        """Try what a node can't take rarely, apart from what it can: by SOP class and transfer syntax."""
        data, kinds = json.loads(row["data"]), dict[tuple[str, str], list[str]]()
        instances = data["Instances"] or instances_of(self._loopback, data["Level"], row["subject"])
        for instance, about in metadata_of(self._loopback, instances).items():
            kinds.setdefault((about.get("SopClassUid", ""), about.get("TransferSyntax", "")), []).append(instance)
        self._destinations.health_of(row["queue"]).succeeded()  # it is there
        if not kinds:
            self._rows.end_gone(row)
        elif len(kinds) > 1:  # which of them it is, each of them shows when it is sent alone
            self._rows.divide(row, *kinds.values())
            self._work.take_back(row["id"])
        else:
            [((sop_class, syntax), same)] = kinds.items()
            syntax = (data.get("Modify") or {}).get("Transcode") or syntax
            self._rows.fail_rarely(row, same, explain_not_accepted(row["queue"], sop_class, syntax, why))

    def _is_another_under_way(self, row: Mapping[str, Any]) -> bool:
        """Return whether something else is sent to the same destination, or has just been: then the node is there, and busy."""
        for other in self._work.find(Which(task=SEND, queue=row["queue"], states=("sending",))):
            if other["id"] != row["id"] and is_changed(other):
                return True
            if other["id"] != row["id"] and other["job"]:
                job = get_job(self._loopback, other["job"])
                if job and job["State"] in ("Running", "Success"):
                    return True
        return False

    def _settle_part(
        self, row: Mapping[str, Any], job: Mapping[str, Any] | None, why: str
    ) -> tuple[Mapping[str, Any] | None, bool]:
        """Settle the part of a row that its failed job has delivered; return the row with what is left, if anything is.

        The second value says whether that is less than before, or named instance by instance for the first time: the job of a
        whole resource does not say which instances it has sent.
        """
        data, duplicate = json.loads(row["data"]), is_duplicate(why)
        if not duplicate and not (job and job.get("Progress")):
            return row, False
        instances = data["Instances"] or instances_of(self._loopback, data["Level"], row["subject"])
        named = set((job or {}).get("Content", {}).get("ParentResources", ()))
        is_told = named == {*instances} or len(instances) == 1
        least, most = sent_before_failure(job, len(instances)) if is_told else (0, len(instances))
        number = min(len(instances), least + 1 if duplicate and least == most else least)
        left = instances[number:]
        if number and not left:
            self.settle_delivered(row)
            return None, True
        if number:
            with self._ledger.transaction():  # what a person sends in between would join the part that is there
                row, part = self._rows.divide(row, left, instances[:number])
                self._work.claim(part["id"], row["job"])
            self.settle_delivered(part)
        if duplicate and least < most and len(left) > TOLD_EXACTLY:
            return self._rows.divide(row, left[:TOLD_EXACTLY], left[TOLD_EXACTLY:])[0], True
        if left and not is_told and not named <= {*instances}:
            return self._rows.divide(row, left)[0], True
        return row, number > 0
