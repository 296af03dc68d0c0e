# SPDX-License-Identifier: AGPL-3.0-or-later
"""The way back: results are put into the original study."""

import io
import json
from collections.abc import Mapping
from typing import Any

import pydicom

from anonymize_series.archive import Archive
from anonymize_series.attempts import Attempts, Impossible
from anonymize_series.elements import text_of, written
from anonymize_series.patient_register import Register
from anonymize_series.pseudonyms import Pseudonyms
from anonymize_series.results import re_identified
from common.ledger import Ledger
from common.loopback import Loopback
from common.work import Work


class ReIdentifying:
    """Takes results back to their patient; with `delete_results` it deletes them as they came."""

    def __init__(
        self,
        loopback: Loopback,
        ledger: Ledger,
        register: Register,
        attempts: Attempts,
        pseudonyms: Pseudonyms,
        *,
        delete_results: bool,
    ) -> None:
        self._loopback, self._archive, self._ledger = loopback, Archive(loopback), ledger
        self._work, self._register, self._attempts = Work(ledger), register, attempts
        self._pseudonyms, self._delete_results = pseudonyms, delete_results

    def re_identify(self, row: Mapping[str, Any], data: dict[str, Any]) -> None:
        """Do a row: put each result into the original study, with the original's identity."""
        made: dict[str, str] = {}
        for instance in data["Instances"]:
            self._attempts.go_on()
            if (content := self._archive.file(instance)) is None:
                continue
            if (result := self._take_back(instance, content)) is not None:
                made[instance] = result
        data["Copies"] = list(made.values())
        self._work.change(row["id"], data=data)
        for instance, result in made.items():
            if self._delete_results and instance != result:
                self._loopback.get(f"/instances/{result}")  # raises, if a filter has refused it
                self._ledger.check()  # what can't be recorded is not done
                self._archive.delete(instance)
        self._ledger.end(row["id"], "done")

    def _take_back(self, instance: str, content: bytes) -> str | None:
        """Return the identifier of the result in the original study; None for what is a copy itself.

        Raises
        ------
        Impossible : the register does not know its study.
        """
        came = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
        if self._register.original_uid(text_of(came, "SOPInstanceUID")):
            return None  # a copy, maybe sent back: with its original's UID it might overwrite that
        if (study := self._register.study_of_copy(text_of(came, "StudyInstanceUID"))) is None:
            raise Impossible(f"the register has no study of which instance {instance} would be a result")
        dataset = re_identified(content, json.loads(study["tags"]), self._register.original_uid, self._pseudonyms)
        self._register.add_result(str(dataset.SOPInstanceUID), instance)
        return str(self._loopback.post("/instances", written(dataset))["ID"])
