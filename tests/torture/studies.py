# SPDX-License-Identifier: AGPL-3.0-or-later
"""The studies that flow: what each is, whether a purge may ever take it, and what Orthanc has acknowledged of it."""

from __future__ import annotations

import contextlib
import datetime
import io
import itertools
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pydicom
import requests
from pynetdicom import AE

from testing.dicom import EXPLICIT_LITTLE_ENDIAN, SOP_CLASSES, make_study, orthanc_identifier, part10_files, uid
from testing.server import OrthancServer

SERIES, INSTANCES = 2, 2  # of a study; instances of a series
SIZE = 48  # rows and columns of an image
TRY_AGAIN_SECONDS = 0.1
ANSWERS_WITHIN_SECONDS = 20.0  # whoever sends to a PACS gives up some time, and tries again
STORED = 0x0000  # the status of a C-STORE (PS3.4 B.2.3)
LATE_SECONDS = 6.0  # until the last image of some studies comes: they are stable, and forwarded, by then
PROTECTED = "PROTECTED"  # the patient whom a person has protected
YOUNG = f"{datetime.date.today() - datetime.timedelta(days=30):%Y%m%d}"  # noqa: DTZ011 - rules are written in local days

# StudyDate, patient (None: one of its own), description, and whether the purge may take it. By the description, one rule
# takes what is delivered everywhere, and another one what a destination proves to have.
KINDS: tuple[tuple[str, str | None, str, bool], ...] = (
    ("20010101", None, "PLAIN", True),
    (YOUNG, None, "PLAIN", False),
    ("20020202", None, "ELSEWHERE", True),
    ("20010101", PROTECTED, "PLAIN", False),
    ("20030303", None, "PLAIN", True),
    ("", None, "PLAIN", False),
    ("20030303", None, "ELSEWHERE", True),
    (YOUNG, None, "ELSEWHERE", False),
)


@dataclass(frozen=True)
class Image:
    """One image: the file, its SOP Instance UID, and Orthanc's identifier."""

    content: bytes
    uid: str
    identifier: str


@dataclass
class Study:
    """One study that flows; `acknowledged` has the time (seconds since 1970) of each image that Orthanc has said to have."""

    number: int
    patient: str
    kind: str
    identifier: str
    images: list[Image]
    may_go: bool
    is_late: bool
    acknowledged: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"study {self.number} ({self.kind}, {self.identifier})"


def make(number: int) -> Study:
    """Return the study of this number: always the same one."""
    date, patient, description, may_go = KINDS[number % len(KINDS)]
    patient = patient or f"P{number:05d}"
    study_uid = uid(number, patient)
    files = make_study(
        patient_id=patient, seed=number, series=SERIES, instances=INSTANCES, rows=SIZE, columns=SIZE, study_date=date,
        StudyDescription=description,
    )  # fmt: skip
    images = []
    for content, (series, image) in zip(
        files, itertools.product(range(1, SERIES + 1), range(1, INSTANCES + 1)), strict=True
    ):
        series_uid = uid(study_uid, series)
        image_uid = uid(series_uid, image)
        images.append(Image(content, image_uid, orthanc_identifier(patient, study_uid, series_uid, image_uid)))
    kind = f"{date or 'undated'}, {patient}, {description}"
    is_late = not may_go and number % 3 == 0
    return Study(number, patient, kind, orthanc_identifier(patient, study_uid), images, may_go, is_late)


class Senders:
    """Send studies to an Orthanc, over HTTP and by C-STORE, each image until it is acknowledged.

    Parameters
    ----------
    pace
        Seconds from one study to the next.
    """

    def __init__(self, server: OrthancServer, pace: float) -> None:
        self.studies: list[Study] = []
        """Those that were begun."""
        self._server, self._pace, self._ending, self._ended = server, pace, threading.Event(), threading.Event()
        self._todo: queue.Queue[Study] = queue.Queue()
        self._late: list[tuple[float, Study]] = []
        self._threads = [
            threading.Thread(target=self._work, args=(by_dicom,), daemon=True) for by_dicom in (False, False, True)
        ]
        self._threads.append(threading.Thread(target=self._supply, daemon=True))
        for each in self._threads:
            each.start()

    def stop(self, within: float) -> None:
        """Begin no other study, and wait until those that were begun are sent; give up after so many seconds."""
        self._ending.set()
        deadline = time.monotonic() + within
        while self.unsent() and time.monotonic() < deadline:
            time.sleep(0.1)
        self._ended.set()
        for each in self._threads:
            each.join(ANSWERS_WITHIN_SECONDS + 5)

    def unsent(self) -> list[Study]:
        """Return the studies of which Orthanc has not acknowledged all."""
        return [study for study in self.studies if len(study.acknowledged) < len(study.images)]

    def _supply(self) -> None:
        for number in itertools.count():
            if self._ending.is_set():
                return
            study = make(number)
            self.studies.append(study)
            self._todo.put(study)
            self._ending.wait(self._pace)

    def _work(self, by_dicom: bool) -> None:
        while not self._ended.is_set():
            study, images = self._next()
            if study is None:
                continue
            while missing := [each for each in images if each.identifier not in study.acknowledged]:
                for image in self._stored_by_dicom(missing) if by_dicom else self._stored_by_http(missing):
                    study.acknowledged[image.identifier] = time.time()
                if self._ended.wait(TRY_AGAIN_SECONDS):
                    return
            if study.is_late and len(images) < len(study.images):
                self._late.append((time.monotonic() + LATE_SECONDS, study))

    def _next(self) -> tuple[Study | None, list[Image]]:
        """Return what is next, and which of its images: some come late."""
        due = next((each for each in self._late if each[0] < time.monotonic() or self._ending.is_set()), None)
        if due:
            with contextlib.suppress(ValueError):  # another thread was faster
                self._late.remove(due)
                return due[1], due[1].images
        try:
            study = self._todo.get(timeout=TRY_AGAIN_SECONDS)
        except queue.Empty:
            return None, []
        return study, study.images[:-1] if study.is_late else study.images

    def _stored_by_http(self, images: list[Image]) -> Iterator[Image]:
        with requests.Session() as session:
            session.trust_env = False
            for image in images:
                try:
                    answer = session.post(
                        f"{self._server.url}/instances", image.content, timeout=ANSWERS_WITHIN_SECONDS
                    )
                    is_stored = answer.ok and answer.json()["ID"] == image.identifier
                except (requests.RequestException, ValueError, KeyError):
                    return
                if is_stored:
                    yield image

    def _stored_by_dicom(self, images: list[Image]) -> Iterator[Image]:
        entity = AE(ae_title="SENDER")
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = ANSWERS_WITHIN_SECONDS
        entity.add_requested_context(SOP_CLASSES["CT"], EXPLICIT_LITTLE_ENDIAN)
        association = entity.associate("127.0.0.1", self._server.dicom_port, ae_title=self._server.aet)
        if not association.is_established:
            return
        try:
            for image in images:
                with contextlib.suppress(RuntimeError):  # the association has ended
                    status = association.send_c_store(pydicom.dcmread(io.BytesIO(image.content)))
                    if "Status" in status and status.Status == STORED:
                        yield image
        finally:
            if association.is_established:
                association.release()


def first_of_protected() -> bytes:
    """Return an image of the patient who is protected before anything else comes."""
    return next(part10_files(make_study(patient_id=PROTECTED, seed="first", study_date=YOUNG)))
