# SPDX-License-Identifier: AGPL-3.0-or-later
"""The forward scripts, which retry their own jobs: they are asked whether a job is theirs."""

import json
import time
from collections.abc import Mapping
from typing import Any

from auto_retries.watched import Watched
from common.loopback import Loopback, LoopbackError

# A forwarder knows its job from the answer to its POST on, which can come after the end of the job, and forgets it when it
# sends again, half a second later at the earliest. So it is asked often, for a while.
ASK_EVERY_SECONDS, ASK_FOR_SECONDS = 0.4, 3.0
ASK_IDLE_ONE_FOR_SECONDS = 60.0  # it answers 503 while it starts, and for ever if its configuration is wrong
ASK_FROM_SECONDS = 1.0  # after its submission
JOB_TYPES = {
    "auto-forward-modality": "DicomModalityStore",
    "auto-forward-peer": "OrthancPeerStore",
    "auto-forward-dicomweb": "DicomWebStowClient",
}  # by script
NOT_INSTALLED = "not installed"


class ForwardScripts:
    """Asks the forward scripts that are installed whether a job is theirs."""

    def __init__(self, loopback: Loopback, watched: Watched) -> None:
        self._loopback, self._watched = loopback, watched
        self._not_installed: set[str] = set()
        self._asked: dict[str, set[str]] = {}  # the running jobs that each was asked for

    def own(self, ended: Mapping[str, Any]) -> bool | None:
        """Return whether a job that failed belongs to one of them; None if they are to be asked again soon."""
        data = json.loads(ended["data"])
        answers = [
            self._ask(script, ended["job"])
            for script, job_type in JOB_TYPES.items()
            if data is None or job_type == data["Type"]
        ]
        if True in answers:
            return True
        patience = ASK_IDLE_ONE_FOR_SECONDS if None in answers else ASK_FOR_SECONDS
        is_early = abs(time.time() - ended["ended"]) < patience
        return None if set(answers) - {NOT_INSTALLED} and is_early else False

    def leave_theirs(self) -> None:
        """Leave their jobs alone while they run: after a kill, a script may not know its own any more."""
        for script, job_type in JOB_TYPES.items():
            running = self._watched.running_of(job_type, ASK_FROM_SECONDS)
            if script not in self._not_installed:
                for job in running - self._asked.get(script, set()):
                    if self._ask(script, job) is True:
                        self._watched.leave(job)
            self._asked[script] = running

    def _ask(self, script: str, job: str) -> bool | str | None:
        """Return whether a script knows a job, or `NOT_INSTALLED`; None if it can't answer now."""
        if script in self._not_installed:
            return NOT_INSTALLED
        try:
            return bool(self._loopback.get(f"/{script}/deliveries?job={job}&limit=1")["Total"])
        except LoopbackError as error:
            if error.status == 0:
                raise
            if error.status == 404:
                self._not_installed.add(script)
            return NOT_INSTALLED if error.status == 404 else None
