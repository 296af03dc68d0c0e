# SPDX-License-Identifier: AGPL-3.0-or-later
"""The jobs of Orthanc that carry out deliveries: submitted, tracked, cancelled, and found again after a restart."""

import json
import time
import urllib.parse
from collections import deque
from collections.abc import Mapping
from typing import Any

from common.jobs import UNFINISHED_JOBS, Ending, ending_of, get_job
from common.ledger import SEND
from common.loopback import LoopbackError
from common.work import Which, Work
from forwarding.archive import still_here
from forwarding.changed import ChangedDeliveries
from forwarding.context import Context
from forwarding.destinations import Destinations
from forwarding.failures import was_out_of_reach
from forwarding.outcomes import Outcomes
from forwarding.pace import Paces
from forwarding.portions import Portions
from forwarding.rows import Rows
from forwarding.tasks import is_changed
from forwarding.verification import Verification
from forwarding.whole_series import WholeSeries, count_of

# Which jobs a row has had. The trigger's name is on the disk of everybody who has such a ledger.
JOBS_TABLE = """
CREATE TABLE IF NOT EXISTS jobs(job TEXT PRIMARY KEY, delivery INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_by_delivery ON jobs(delivery);
CREATE TRIGGER IF NOT EXISTS jobs_go_with_their_row AFTER DELETE ON work BEGIN
    DELETE FROM jobs WHERE delivery=old.id;
END;
"""


class Jobs:
    """Submits a row as a job, and settles the row when the job has ended.

    Parameters
    ----------
    ended : jobs that have ended, and whether well, as callbacks report them.
    """

    def __init__(
        self,
        context: Context,
        destinations: Destinations,
        rows: Rows,
        verification: Verification,
        changed: ChangedDeliveries,
        ended: deque[tuple[str, bool]],
    ) -> None:
        self._ledger, self._work, self._loopback = context.ledger, Work(context.ledger), context.loopback
        self._transport, self._whole_series = context.transport, WholeSeries(context.loopback, context.settings)
        largest = context.transport.largest_request
        self._portions = Portions(context.ledger, context.loopback, largest) if largest else None
        self._destinations, self._rows, self._ended = destinations, rows, ended
        self._verification, self._changed = verification, changed
        self._outcomes = Outcomes(context, destinations, rows, verification)
        self.paces = Paces(context)
        self.is_one_in_doubt = False
        """Orthanc did not answer when a job was submitted: `reconcile` finds out whether there is one."""

    def rows_of(self, job: str) -> list[int]:
        """Return the ids of the rows that a job was for; it may have been cancelled since."""
        return [row["delivery"] for row in self._ledger.rows("SELECT delivery FROM jobs WHERE job=?", job)]

    def submit(self, row: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Submit the job of a row that is `sending`.

        Raises
        ------
        LoopbackError : whether there is a job now, only Orthanc knows.
        """
        try:
            if self._portions:
                row = self._portions.cut(row)
            job = self._post_row(row, options)
        except LoopbackError as error:
            if error.status == 0:
                self.is_one_in_doubt = True
                raise
            self._rows.fail(row, str(error))
            return
        if job is None:
            self._rows.end_gone(row)
        else:
            self._note(row["id"], job)

    def _note(self, row: int, job: str) -> None:
        with self._ledger.transaction():
            self._work.change(row, job=job)
            self._ledger.run("INSERT INTO jobs VALUES(?,?) ON CONFLICT DO NOTHING", job, row)

    def _post_row(self, row: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
        """Submit the job of a row, as `_post`: never one that sends what the row does not hold."""
        resources, instances = self._named(row)
        job = self._post(row, resources, options)
        if job and instances and resources != instances and self._whole_series.has_more(job, instances):
            self._loopback.post(f"/jobs/{job}/cancel", b"")
            job = self._post(row, instances, options)
        return job

    def _named(self, row: Mapping[str, Any]) -> tuple[list[str], list[str] | None]:
        """Return what the job of a row names, and the instances that the row holds; None: whatever is there when it is sent."""
        data = json.loads(row["data"])
        instances: list[str] | None = data["Instances"]
        if instances is None:
            return [row["subject"]], None
        if data.get("NameEach") or self._portions:
            return instances, instances
        return self._whole_series.name_for(row["subject"], instances), instances

    def _post(self, row: Mapping[str, Any], resources: list[str], options: Mapping[str, Any]) -> str | None:
        """Submit the job and return its identifier; without what was deleted meanwhile, and None if that was all."""
        body = {**options, "Resources": resources, "Synchronous": False}
        name = urllib.parse.quote(row["queue"], safe="")
        try:
            return str(self._loopback.post(f"/{self._transport.route}/{name}/{self._transport.verb}", body)["ID"])
        except LoopbackError as error:
            if error.status not in (404, 500):  # 1.13.0 answers 500 if it is the first of them that is gone
                raise
            here = still_here(self._loopback, resources)
            if len(here) == len(resources):
                raise  # then it is not the resources that were not found
        if not here:
            return None
        wanted = json.loads(row["data"])["Instances"]
        named_each = not wanted or resources == wanted
        self._rows.leave_out_deleted(row, len(here if named_each else still_here(self._loopback, wanted)))
        return self._post(row, here, options)

    def settle_ended(self) -> None:
        """Settle the rows whose job has ended, well or not; jobs without a row are others'.

        The end of a job can come before the answer to the POST that submitted it (1 in 200 with AllowThreads). It waits in
        `_ended` then: the thread that submits is this one, which has noted the job when it comes here.
        """
        while self._ended:
            job, success = self._ended[0]
            for row in self._work.find(Which(job=job, states=("sending",))):
                if success:
                    self._note_pace(row)
                self._settle(row, success)
            self._ended.popleft()

    def _note_pace(self, row: Mapping[str, Any]) -> None:
        seconds = time.time() - row["updated"]
        self._destinations.health_of(row["queue"]).seconds_of_job = seconds
        self.paces.note_job(row["queue"], row["job"], seconds)

    def _settle(self, row: Mapping[str, Any], success: bool) -> None:
        if success:
            self._outcomes.settle_delivered(row)
            return
        row = self._name_each_from_now_on(row)
        if not self._outcomes.is_asked_for(row) and self._outcomes.settle_failed(row):
            self.cancel_pending(row["queue"])

    def fail(self, row: Mapping[str, Any], why: str) -> None:
        """Let a row fail whose job has failed, and call back what else waits in Orthanc for its destination."""
        self._outcomes.fail(row, why)
        self.cancel_pending(row["queue"])

    def _name_each_from_now_on(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Let the next jobs of a row name its instances: the job of a series does not tell which of them it has sent."""
        data = json.loads(row["data"])
        if not data["Instances"] or not self._whole_series.is_worth_it(data["Instances"]):
            return row
        job = get_job(self._loopback, row["job"])
        if job and not job.get("Progress") and was_out_of_reach(ending_of(job, reported=False)[1]):
            return row  # it has sent nothing
        self._work.change(row["id"], data={**data, "NameEach": True})
        return {**row, "data": json.dumps({**data, "NameEach": True})}

    def cancel_pending(self, destination: str) -> None:
        """Cancel what waits in Orthanc for a destination that has failed: each might hold a job slot until its timeout."""
        for row in self._work.find(Which(task=SEND, queue=destination, states=("sending",))):
            if row["job"] is None:
                continue
            try:
                if self._loopback.get(f"/jobs/{row['job']}")["State"] == "Pending":
                    self._work.take_back(row["id"])
                    self._loopback.post(f"/jobs/{row['job']}/cancel", b"")
            except LoopbackError as error:
                if error.status == 0:
                    raise  # else it has ended by itself

    def reconcile(self) -> None:
        """Settle the rows whose job ended unseen, and find the job of those that were interrupted while submitting it.

        Orthanc continues unfinished jobs after a restart: not to know them would send everything twice.
        """
        rows = self._work.find(Which(states=("sending",)))
        jobs = self._loopback.get("/jobs?expand") if rows else []
        by_id, taken = {job["ID"]: job for job in jobs}, {row["job"] for row in rows}
        for row in rows:
            if self._verification.is_under_way(row["id"]) or self._changed.is_under_way(row["id"]):
                continue
            others = [each for each in jobs if each["ID"] not in taken and not is_changed(row)]
            job = by_id.get(row["job"]) if row["job"] else self._job_of(row, others)
            if job is None:
                # Its end was missed while Orthanc was down, or it was never submitted: twice is harmless, lost is not.
                self._work.wait_again(row["id"])
                continue
            taken.add(job["ID"])
            self._note(row["id"], job["ID"])
            ending, _ = ending_of(job)
            if ending is not Ending.RUNNING:
                self._settle({**row, "job": job["ID"]}, ending is Ending.SUCCESS)
        self.is_one_in_doubt = False

    def _job_of(self, row: Mapping[str, Any], jobs: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """Return the unfinished job that sends what is in a row to its destination, or None."""
        known = self._destinations.known()
        resources, instances = self._named(row)
        possible = [set(resources), set(instances or resources)]
        for job in jobs:
            content = job.get("Content", {})
            # Of two nodes with one AE title, a job does not say which of them it is for.
            is_ours = job["Type"] == self._transport.job_type and [row["queue"]] == [
                name for name, entry in known.items() if self._transport.is_for(content, entry)
            ]
            if (
                not is_ours
                or job["State"] not in UNFINISHED_JOBS
                or set(content.get("ParentResources", ())) not in possible
            ):
                continue
            if instances is None or count_of(job) <= len(instances):
                return job
        return None
