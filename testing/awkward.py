# SPDX-License-Identifier: AGPL-3.0-or-later
"""A DICOM node that is as awkward as the PACS that exist: `AwkwardNode`, with one switch for each behaviour.

    with AwkwardNode("PACS", one_association=True) as node:
        server = start_orthanc(SCRIPT, {"DicomModalities": {"PACS": node.as_modality()}})
        ...
        assert len(node.received) == 100 and node.most_at_once == 1

It is a `testing.nodes.DicomNode`, so it keeps what it takes in memory, finds and commits, and has the switches of that one too.
A switch is an attribute: a test changes it whenever it likes, also while the node is being talked to.

It needs pynetdicom (`pip install pynetdicom`).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import ALL_TRANSFER_SYNTAXES, build_context, evt
from pynetdicom.pdu_primitives import A_RELEASE

from testing.nodes import SUCCESS, DicomNode

DUPLICATE = 0x0111  # DIMSE status "Duplicate SOP Instance" (PS3.7 C.5.7)
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)  # A-ASSOCIATE-RJ: transient, by the provider's presentation part (PS3.8 9.3.4)
MANY_ASSOCIATIONS = 1000  # pynetdicom's own limit is ten


class AwkwardNode(DicomNode):
    """A DICOM node that takes everything, except what its switches say.

    `received` holds (SOP Instance UID, calling AE title) of each C-STORE that it answered, in order, repeats too; `taken`
    the datasets that it keeps; `at_once` the number of associations that are open, `most_at_once` the most that were open at one
    time; `rejections` the number of associations that it rejected; `port` where it listens.

    Parameters
    ----------
    duplicates_0111
        Whether a SOP Instance UID that it has already is answered with 0x0111 (duplicate SOP instance).
    drops_duplicates_of_another_patient
        Whether a SOP Instance UID that it has under another PatientID is answered with 0x0000, and not kept.
    one_association
        Whether an association is rejected (local limit exceeded) while another one is open.
    rejects_sop_classes
        SOP classes that it does not accept, as keywords (`CTImageStorage`) or UIDs.
    rejects_transfer_syntaxes
        Transfer syntaxes that it does not accept, as keywords (`JPEGBaseline8Bit`) or UIDs.
    seconds_per_image
        How long each C-STORE takes.
    breaks_off_after
        How many images of an association it answers. It aborts the association at the next one, and does not keep that.
    filters
        Says of a dataset whether it is answered with 0x0000, and not kept.
    find_without_patient_id
        Whether its C-FIND answers lack the PatientID.
    never_answers
        Whether it takes connections, and says nothing on them. Those that wait are answered when the switch goes off.
    """

    def __init__(
        self,
        aet: str = "NODE",
        *,
        duplicates_0111: bool = False,
        drops_duplicates_of_another_patient: bool = False,
        one_association: bool = False,
        rejects_sop_classes: Collection[str] = (),
        rejects_transfer_syntaxes: Collection[str] = (),
        seconds_per_image: float = 0,
        breaks_off_after: int | None = None,
        filters: Callable[[Dataset], object] = lambda _: False,
        find_without_patient_id: bool = False,
        never_answers: bool = False,
    ) -> None:
        self.duplicates_0111, self.one_association = duplicates_0111, one_association
        self.drops_duplicates_of_another_patient = drops_duplicates_of_another_patient
        self.rejects_sop_classes, self.rejects_transfer_syntaxes = rejects_sop_classes, rejects_transfer_syntaxes
        self.seconds_per_image, self.breaks_off_after = seconds_per_image, breaks_off_after
        self.filters, self.find_without_patient_id = filters, find_without_patient_id
        self.never_answers = never_answers
        self.received: list[tuple[str, str]] = []
        self.most_at_once = self.rejections = 0
        self._lock, self._closing = threading.RLock(), threading.Event()
        self._open: dict[Any, int] = {}  # each open association, and how many of its images were answered
        self._closed: weakref.WeakSet[Any] = weakref.WeakSet()
        self._patients_with: dict[str, set[str]] = {}  # the PatientIDs under which it has a SOP Instance UID
        super().__init__(aet)
        self._server.ae.maximum_associations = MANY_ASSOCIATIONS
        self._server.bind(evt.EVT_REQUESTED, self._begin)
        self._server.bind(evt.EVT_ACSE_RECV, self._release)
        self._server.bind(evt.EVT_CONN_CLOSE, self._end)

    @property
    def at_once(self) -> int:
        """The number of associations that are open now."""
        return len(self._open)

    def close(self) -> None:
        """End it: abort what is open, and listen no more."""
        self._closing.set()
        for association in self._server.active_associations:
            association.abort()
        super().close()

    def _begin(self, event: Any) -> None:
        """Reject an association, or set what it may negotiate: pynetdicom accepts it when this returns."""
        while self.never_answers and not self._closing.wait(0.02):
            pass
        association = event.assoc
        with self._lock:
            if association in self._closed:  # while it was not answered
                return
            is_rejected = self.one_association and bool(self._open)
            if is_rejected:
                self.rejections += 1
            else:
                self._open[association] = 0
            self.most_at_once = max(self.most_at_once, len(self._open))
        if is_rejected:
            association.acse.send_reject(*LOCAL_LIMIT_EXCEEDED)
            association.kill()  # it waits until the rejection is sent
            return
        proposed = association.requestor.primitive.presentation_context_definition_list
        known = {context.abstract_syntax for context in association.acceptor.supported_contexts}
        syntaxes = [
            one for one in map(UID, ALL_TRANSFER_SYNTAXES) if not _is_named(one, self.rejects_transfer_syntaxes)
        ]
        association.acceptor.supported_contexts = [
            build_context(one, syntaxes)
            for one in {context.abstract_syntax for context in proposed} & known
            if syntaxes and not _is_named(one, self.rejects_sop_classes)
        ]

    def _release(self, event: Any) -> None:
        """Count an association out before its release is answered: the next one may come right after the answer."""
        if isinstance(event.primitive, A_RELEASE):
            self._end(event)

    def _end(self, event: Any) -> None:
        with self._lock:
            self._open.pop(event.assoc, None)
            self._closed.add(event.assoc)

    def _store(self, event: Any) -> int:
        association = event.assoc
        if self.breaks_off_after is not None and self._open.get(association, 0) >= self.breaks_off_after:
            self._end(event)  # before: the next one may come right after it
            association.abort()
            return SUCCESS  # nobody hears it
        self._closing.wait(self.seconds_per_image)
        dataset = event.dataset
        image, patient = str(dataset.SOPInstanceUID), str(dataset.get("PatientID", ""))
        with self._lock:
            if association in self._open:
                self._open[association] += 1
            self.received.append((image, str(association.requestor.ae_title)))
            patients = self._patients_with.get(image, set())
            if patients and self.duplicates_0111:
                return DUPLICATE
            is_of_another = bool(patients) and patient not in patients
            if self.filters(dataset) or (is_of_another and self.drops_duplicates_of_another_patient):
                return SUCCESS
            before = len(self.taken)
            status = super()._store(event)
            if len(self.taken) > before:
                self._patients_with.setdefault(image, set()).add(patient)
            return status

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        for status, answer in super()._find(event):
            if self.find_without_patient_id and answer is not None and "PatientID" in answer:
                del answer.PatientID
            yield status, answer


def _is_named(uid: UID, names: Collection[str]) -> bool:
    """Whether a UID of pydicom is among these keywords and UIDs."""
    return str(uid) in names or uid.keyword in names
