# SPDX-License-Identifier: AGPL-3.0-or-later
"""AE titles compared as Orthanc compares them: without regard to case, unless it is configured with `StrictAetComparison`.

Spaces around them mean nothing (PS3.5 6.2, VR AE), and are not sent: Orthanc keeps those of `DicomModalities`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from common.wildcards import matches_any


class AeTitles:
    """Compares AE titles as this Orthanc does; `configuration` is Orthanc's."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._is_strict = bool(configuration.get("StrictAetComparison", False))

    def key(self, aet: str) -> str:
        """Return what is equal for two AE titles that are the same to Orthanc."""
        aet = aet.strip(" ")
        return aet if self._is_strict else aet.lower()

    def same(self, one: str, other: str) -> bool:
        """Return whether two AE titles are the same to Orthanc."""
        return self.key(one) == self.key(other)

    def matches_any(self, aet: str, patterns: Iterable[str]) -> bool:
        """Return whether an AE title fits one of the patterns (`*`, `?`)."""
        return matches_any(self.key(aet), map(self.key, patterns))


ANY_CASE = AeTitles({})  # as Orthanc compares them unless it is configured otherwise
