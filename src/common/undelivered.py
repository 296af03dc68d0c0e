# SPDX-License-Identifier: AGPL-3.0-or-later
"""Studies with which another script of this Orthanc is not done: they stay."""

from __future__ import annotations

import http
import threading
import time
from collections.abc import Collection, Mapping

from common.loopback import Loopback, LoopbackError
from common.routes import one_line

SCRIPTS_THAT_OWE = (
    "auto-forward-modality", "auto-forward-peer", "auto-forward-dicomweb", "anonymize-series", "auto-retries",
)  # fmt: skip
# After a start of Orthanc: how long they get, and between two questions.
SCRIPTS_ANSWER_WITHIN_SECONDS, ASK_SCRIPTS_AGAIN_SECONDS = 60.0, 2.0
NO_STUDY = "00000000-00000000-00000000-00000000-00000000"


class Undelivered:
    """Asks the scripts that send studies which of some they still have to send.

    One that is not there owes nothing. One that is there and can't answer may owe all.

    Parameters
    ----------
    scripts : who is asked, with dashes; `()`: nobody.
    """

    def __init__(self, loopback: Loopback, scripts: Collection[str] = SCRIPTS_THAT_OWE) -> None:
        self._loopback, self._scripts = loopback, tuple(scripts)
        self._unavailable = set[str]()  # that could not say twice, and are not waited for until they can

    def why_kept(self, patients: Mapping[str, str]) -> dict[str, str]:
        """Return why some of these studies stay, by their identifiers.

        Parameters
        ----------
        patients : the patient of each study, by Orthanc's identifiers.

        Raises
        ------
        LoopbackError : Orthanc does not answer.
        """
        reasons: dict[str, str] = {}
        if resources := sorted({*patients, *patients.values()}):
            for script in self._scripts:
                owed, why = self._ask(script, resources, patiently=True)
                for study, patient in patients.items():
                    if owed is None or not owed.isdisjoint((study, patient)):
                        reasons.setdefault(study, why)
        return reasons

    def wait_for_answers(self, stopping: threading.Event) -> None:
        """Wait a minute at most, until each script that is there answers: after a start of Orthanc they begin, too."""
        for _ in range(int(SCRIPTS_ANSWER_WITHIN_SECONDS / ASK_SCRIPTS_AGAIN_SECONDS)):
            if self._all_answer() or stopping.wait(ASK_SCRIPTS_AGAIN_SECONDS):
                return

    def _all_answer(self) -> bool:
        try:
            return all(self._ask(script, [NO_STUDY])[0] is not None for script in self._scripts)
        except LoopbackError:
            return False

    def _ask(self, script: str, resources: list[str], *, patiently: bool = False) -> tuple[set[str] | None, str]:
        """Return which of these a script owes (None: it can't say), and what that is called.

        `patiently`: it is asked once more where it can't say just now.
        """
        name = script.replace("-", "_")
        try:
            answer = self._loopback.post(f"/{script}/owed", {"Resources": resources})
            self._unavailable.discard(script)
            return set(answer["Owed"]), f"{name} has not delivered it"
        except LoopbackError as error:
            if error.status == 0:
                raise
            if error.status == http.HTTPStatus.NOT_FOUND and name not in self._loaded():
                # Scripts are loaded before Orthanc answers anybody.
                self._scripts = tuple(each for each in self._scripts if each != script)
                return set(), ""
            if error.status == http.HTTPStatus.SERVICE_UNAVAILABLE and patiently and script not in self._unavailable:
                self._unavailable.add(script)
                time.sleep(ASK_SCRIPTS_AGAIN_SECONDS)
                return self._ask(script, resources)
            return None, f"{name} can't say whether it has delivered it: {one_line(error)}"

    def _loaded(self) -> set[str]:
        """Return the names of the scripts that are there: one that failed to load, or is older, has no such route."""
        return {str(each["Name"]) for each in self._loopback.get("/scripts")}


def in_words(number: int, reason: str) -> str:
    """Return how many studies stay, and why, as `3 studies stay: auto_forward_peer is not done with it`."""
    return f"{number} {'study stays' if number == 1 else 'studies stay'}: {reason}"
