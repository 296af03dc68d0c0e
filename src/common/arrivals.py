# SPDX-License-Identifier: AGPL-3.0-or-later
"""What OnStoredInstance reports of an instance, kept in memory: reading it later gets slower with the archive."""

import hashlib
import json
import sys
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import orthanc

REMEMBERED = 50_000  # instances; what is forgotten, or lost by a restart, is read from Orthanc
UID_TAGS = ("0010,0020", "0020,000d", "0020,000e")  # PatientID, StudyInstanceUID, SeriesInstanceUID
LONGEST_VALUE = 1024  # characters of a value
KIND = ("SopClassUid", "TransferSyntax")  # what an instance is, beside where it came from
ORIGIN = ("Origin", "RemoteAET", "CalledAET", "RemoteIP", "HttpUsername", "ModifiedFrom", "AnonymizedFrom", *KIND)


class Arrival(NamedTuple):
    """One instance: Orthanc identifiers and UIDs (PatientID for the patient) by level, origin (metadata), digest of its file."""

    parents: Mapping[str, str]
    uids: Mapping[str, str]
    origin: Mapping[str, str]
    digest: str


class Arrivals:
    """The last instances that were stored. `stored` is Orthanc's callback; it takes about 0.1 ms.

    `digests` also remembers the content (BLAKE2), where the same instance may come again (OverwriteInstances).
    """

    def __init__(self, digests: bool) -> None:
        self._digests, self._known = digests, dict[str, Arrival]()
        self._changing = threading.Lock()  # several instances are stored at a time; held for microseconds
        self._shared: dict[tuple[Any, ...], tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]]] = {}

    def stored(self, dicom: Any, instance: str) -> None:
        # Half the time of GetInstanceSimplifiedJson.
        short, plain = orthanc.DicomToJsonFormat.SHORT, orthanc.DicomToJsonFlags.NONE
        tags = json.loads(dicom.GetInstanceAdvancedJson(short, plain, LONGEST_VALUE))
        # As they are here, with leading spaces: Orthanc's identifiers are made of that.
        uids = tuple(str(tags.get(tag) or "") for tag in UID_TAGS)
        values = (dicom.GetInstanceMetadata(name) if dicom.HasInstanceMetadata(name) else None for name in ORIGIN)
        origin = tuple((name, value) for name, value in zip(ORIGIN, values, strict=True) if value)
        key = (uids, origin)
        shared = self._shared.get(key)
        if shared is None:
            if len(self._shared) > REMEMBERED // 10:
                self._shared.clear()
            names = dict(zip(("Patient", "Study", "Series"), uids, strict=True))
            shared = self._shared[key] = (_parents(uids), names, dict(origin))
        digest = hashlib.blake2b(dicom.GetInstanceData(), digest_size=16).hexdigest() if self._digests else ""
        with self._changing:
            self._known.pop(instance, None)
            self._known[instance] = Arrival(*shared, digest)
            while len(self._known) > REMEMBERED:
                self._known.pop(next(iter(self._known)))

    def parents(self, instance: str) -> Mapping[str, str] | None:
        """Return the Orthanc identifiers of its patient, study and series, by level; None if they are not known."""
        arrival = self._known.get(instance)
        return arrival.parents if arrival and arrival.parents else None

    def get(self, instance: str) -> Arrival | None:
        return self._known.get(instance)

    def forget(self, instance: str) -> None:
        with self._changing:
            self._known.pop(instance, None)


def _parents(uids: tuple[str, ...]) -> Mapping[str, str]:
    """Return identifiers by Orthanc's own rule, checked for plain ASCII; of other values we know nothing."""
    if not all(uid.isascii() for uid in uids):
        return {}
    found = {}
    for count, level in enumerate(("Patient", "Study", "Series"), start=1):
        digest = hashlib.sha1("|".join(uids[:count]).encode()).hexdigest()
        found[level] = sys.intern("-".join(digest[start : start + 8] for start in range(0, 40, 8)))
    return found
