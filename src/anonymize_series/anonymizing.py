# SPDX-License-Identifier: AGPL-3.0-or-later
"""De-identifying: the copies of the instances of a row are made, registered and stored."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orthanc
import pydicom

from anonymize_series.archive import Archive
from anonymize_series.attempts import Attempts, NotNow, where_raised
from anonymize_series.checks import why_held
from anonymize_series.copies import Copy, de_identified
from anonymize_series.elements import text_of
from anonymize_series.patient_register import Register
from anonymize_series.pseudonyms import Pseudonyms
from anonymize_series.sending import Sending
from anonymize_series.settings import NAME, Recipe
from anonymize_series.tasks import ANONYMIZE
from common.loopback import Loopback, LoopbackError
from common.routes import one_line
from common.work import Which, Work

MOST_ATTEMPTS = 3  # at an instance for which Orthanc has an error of its own (500), until it is held back
# Of its codes of errors (`OrthancStatus`): NotImplemented, BadFileFormat, CorruptedFile, IncompatibleImageFormat, …Size.
OF_THE_FILE = (2, 15, 20, 23, 24)
# NotEnoughMemory, Database, CannotWriteFile, Timeout, FullStorage, DatabasePlugin, StorageAreaPlugin, RegularFileExpected.
OF_THE_SERVER = (4, 11, 14, 16, 19, 31, 32, 2006)


class Anonymizing:
    """Makes the copies of a row, then has them sent: two steps, so that a destination that is away costs nothing."""

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        loopback: Loopback,
        work: Work,
        register: Register,
        attempts: Attempts,
        pseudonyms: Pseudonyms,
        sending: Sending,
    ) -> None:
        self._recipes, self._loopback, self._archive = recipes, loopback, Archive(loopback)
        self._work, self._register, self._attempts = work, register, attempts
        self._pseudonyms, self._sending = pseudonyms, sending

    def anonymize(self, row: Mapping[str, Any], data: dict[str, Any]) -> None:
        """Do a row: make its copies unless that is done, and submit them."""
        recipe = self._recipes[row["queue"]]
        if "Copies" not in data:
            data |= self._make_copies(data["Instances"], row, recipe)
            self._work.change(row["id"], data=data)
        self._sending.submit(row, data, recipe)

    def _make_copies(self, instances: list[str], row: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
        """Return the Orthanc identifiers of the copies, and how many instances were held back."""
        name, copies, held, is_ours = str(row["queue"]), list[str](), 0, False
        makes = True
        if recipe.whole:  # first it is only looked: what is held back last would leave the copies of the others
            makes = not any(isinstance(copy, str) for _, _, copy in self._each(instances, row, recipe))
        for instance, original, copy in self._each(instances, row, recipe):
            if isinstance(copy, Copy):
                if not makes:
                    continue
                if not is_ours and (others := self._register.other_recipes(copy.instance, name)):
                    self._take_from(others, instances)
                    is_ours = True
                self._register.add_copy(copy, original, instance, name)
                self._store(copy, is_first=copy.instance not in copies)
                copies.append(copy.instance)
            elif recipe.whole and makes:
                raise NotNow(f"it is held back since a moment: {copy}")  # it is looked at again from the beginning
            else:
                held += 1
                self._register.hold_back(instance, name, copy)
                orthanc.LogWarning(f"{NAME}: instance {instance} is held back from {name}: {copy}")
        if not makes:
            orthanc.LogWarning(f"{NAME}: all of {row['subject']} is held back from {name}, whose Whole is true")
        return {"Copies": copies, "HeldBack": held}

    def _each(
        self, instances: Sequence[str], row: Mapping[str, Any], recipe: Recipe
    ) -> Iterator[tuple[str, Any, Copy | str]]:
        """Yield each instance that is no copy itself, its data set, and its copy or why it is held back."""
        for instance in instances:
            self._attempts.go_on()
            try:
                content = self._archive.file(instance)
                if content is None:
                    if self._archive.level_of(instance) is None:
                        continue  # it was deleted
                    raise LoopbackError(404, f"the file of instance {instance} is missing")
            except LoopbackError as error:
                # With its disk away, Orthanc can read none: that may pass.
                is_lasting = error.code in OF_THE_FILE or row["attempts"] >= MOST_ATTEMPTS
                if error.status not in (404, 500) or not is_lasting or not self._reads_any(instances):
                    raise
                yield instance, None, f"Orthanc can't read it: {one_line(error)}"
                continue
            try:
                original = pydicom.dcmread(io.BytesIO(content), force=True)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever pydicom meets in a file
                yield instance, None, _unreadable(error)
                continue
            if not self._is_made_here(original):
                yield instance, original, self._copy_of(instance, original, recipe, row["attempts"])

    def _reads_any(self, instances: Sequence[str]) -> bool:
        """Return whether Orthanc can read the file of one of them."""
        for instance in instances:
            with contextlib.suppress(LoopbackError):
                if self._archive.file(instance) is not None:
                    return True
        return False

    def _take_from(self, recipes: Sequence[str], instances: Sequence[str]) -> None:
        """Let other recipes make their copies of these instances again, if they are still to be sent.

        Copies of one instance have the same identifiers, whatever the recipe: only those of one can be here.

        Raises
        ------
        NotNow : they are being sent.
        """
        for recipe in recipes:
            for row in self._work.find(Which(task=ANONYMIZE, queue=recipe, states=("waiting", "sending", "dead"))):
                data = json.loads(row["data"])
                if "Copies" not in data or set(instances).isdisjoint(data["Instances"]):
                    continue
                if row["state"] == "sending":
                    raise NotNow(f"recipe {recipe} is sending its copies of the same images, with the same UIDs")
                self._work.change(row["id"], data={key: value for key, value in data.items() if key != "Copies"})

    def _store(self, copy: Copy, *, is_first: bool) -> None:
        """Store a copy, in the place of one that another recipe, or this one with other settings, has left here.

        `is_first` : of those of this row, some of which may have the same UIDs.
        """
        stored = self._loopback.post("/instances", copy.content)
        if is_first and stored.get("Status") == "AlreadyStored" and self._archive.file(copy.instance) != copy.content:
            self._archive.delete(copy.instance)
            self._loopback.post("/instances", copy.content)

    def _is_made_here(self, dataset: Any) -> bool:
        """Return whether this is a copy, or a result that was taken back."""
        study_uid, uid = text_of(dataset, "StudyInstanceUID"), text_of(dataset, "SOPInstanceUID")
        return self._register.study_of_copy(study_uid) is not None or self._register.is_result(uid)

    def _copy_of(self, instance: str, original: Any, recipe: Recipe, attempt: int) -> Copy | str:
        """Return the copy of an instance, or why it is held back; one that can't be made does not hold up the others.

        Raises
        ------
        LoopbackError : Orthanc does not answer, or can't do it now.
        """
        try:
            if why := why_held(original, recipe):
                return why
            made = self._anonymized(instance, recipe)
            return de_identified(made, original, recipe, self._pseudonyms)
        except LoopbackError as error:
            if not _is_lasting(error, attempt) or self._is_fault_of(recipe, instance, attempt):
                raise
            return f"Orthanc can't anonymize it: {one_line(error)}"
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever pydicom meets in a file
            return _unreadable(error)

    def _is_fault_of(self, recipe: Recipe, instance: str, attempt: int) -> bool:
        """Return whether Orthanc can anonymize the instance otherwise: to a DicomVersion or a value it answers 400, too."""
        try:
            self._anonymized(instance, dataclasses.replace(recipe, replace={}, dicom_version=None))
        except LoopbackError as error:
            if not _is_lasting(error, attempt):
                raise
            return False
        return True

    def _anonymized(self, instance: str, recipe: Recipe) -> bytes:
        """Return what Orthanc's own anonymization makes of an instance."""
        body = {
            "Keep": list(recipe.keep),
            "Replace": recipe.replace,
            "Remove": list(recipe.remove),
            "Force": True,
            "KeepPrivateTags": recipe.keep_private_tags,
        }
        if recipe.dicom_version:
            body["DicomVersion"] = recipe.dicom_version
        return self._loopback.request_raw("POST", f"/instances/{instance}/anonymize", body)[1]


def _is_lasting(error: LoopbackError, attempt: int) -> bool:
    """Return whether Orthanc will say that again about this file. 500 may pass, or not."""
    if error.status in (400, 415, 501) or error.code in OF_THE_FILE:
        return True
    return error.status == 500 and attempt >= MOST_ATTEMPTS and error.code not in OF_THE_SERVER


def _unreadable(error: Exception) -> str:
    return f"pydicom can't read or write it: {type(error).__name__} at {where_raised(error)}"
