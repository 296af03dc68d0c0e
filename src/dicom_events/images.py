# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is known of an instance that was stored: its identifiers, its tags, where it came from."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orthanc

from common.identifiers import orthanc_identifier

from .events import identifiers_of_json

SERIES_REMEMBERED = 10_000


class Tags:
    """The tags that were asked for, as Orthanc's JSON names them (`gggg,eeee`)."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = {self._number(name): name for name in names}

    @staticmethod
    def _number(name: str) -> str:
        """Return a tag as `gggg,eeee`. Raises `ValueError` for what Orthanc's dictionary does not know."""
        try:
            found = orthanc.LookupDictionary(name)
        except (orthanc.OrthancException, TypeError):  # which one depends on the plugin
            raise ValueError(name) from None
        return f"{found['Group']:04x},{found['Element']:04x}"

    def __bool__(self) -> bool:
        return bool(self._names)

    def of(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return those that are there; sequences and binary ones are not published."""
        return {name: found[tag] for tag, name in self._names.items() if isinstance(found.get(tag), str)}


class Image(NamedTuple):
    """A stored instance. Identifiers are from the patient down; `tags` None: not known."""

    time: float
    clock: float
    """When its callback was called: UTC, and monotonic."""
    dicom_ids: Sequence[str]
    orthanc_ids: Sequence[str]
    tags: Mapping[str, Any] | None
    origin: Mapping[str, str]
    received: str


class Identities:
    """Finds the identifiers of stored instances, and remembers those of their parents. `wants_tags`: of any level."""

    def __init__(self, wants_tags: bool) -> None:
        self._wants_tags = wants_tags
        self._parents: OrderedDict[tuple[str, ...], tuple[str, ...]] = OrderedDict()

    def find(
        self, instance: str, values: Sequence[str] | None, text: str
    ) -> tuple[Sequence[str], Sequence[str], Mapping[str, Any] | None]:
        """Return DICOM's and Orthanc's identifiers from the patient down, and the tags where some are asked for.

        `values` are DICOM's, if the callback has read them; `text` is Orthanc's JSON of the instance, or "".
        """
        for each in (values, identifiers_of_json(text)) if not (text and self._wants_tags) else ():
            if each and (known := self._orthanc_ids(tuple(each)))[-1] == instance:
                return each, known, None
        if not text:
            return (), (instance,), None
        tags = json.loads(text)
        names = ("0010,0020", "0020,000d", "0020,000e", "0008,0018")
        values = tuple(str(tags.get(name) or "").strip("\0 ") for name in names)
        known = self._orthanc_ids(values)
        # Where the sums differ, Orthanc reads the identifiers in another way: the parents are looked up later.
        return values, known if known[-1] == instance else (instance,), tags

    def parents(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """Return Orthanc's identifiers of the patient, study and series, if an instance of them was met lately; else none."""
        return self._parents.get(values[:3], ())

    def _orthanc_ids(self, values: tuple[str, ...]) -> tuple[str, ...]:
        parents = self._parents.get(values[:3])
        if parents is None:
            parents = self._parents[values[:3]] = tuple(orthanc_identifier(*values[:n]) for n in (1, 2, 3))
            while len(self._parents) > SERIES_REMEMBERED:
                self._parents.popitem(last=False)
        return (*parents, orthanc_identifier(*values))
