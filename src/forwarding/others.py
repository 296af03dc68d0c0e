# SPDX-License-Identifier: AGPL-3.0-or-later
"""What other scripts of this Orthanc are not done with: a forwarder deletes nothing of it."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from common.loopback import Loopback
from common.undelivered import SCRIPTS_THAT_OWE, Undelivered


class OtherScripts:
    """Asks the other scripts that send studies which of some they still have to send.

    Parameters
    ----------
    name : of the script that asks, with dashes.
    content : gives what a resource has, or belongs to, at a level.
    """

    def __init__(
        self, name: str, loopback: Loopback, content: Callable[[str, str], Mapping[str, Mapping[str, Any]]]
    ) -> None:
        self._undelivered = Undelivered(loopback, [each for each in SCRIPTS_THAT_OWE if each != name])
        self._content = content

    def owed_of(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Return the studies of rows that are owed, and why: one question, as there may be thousands.

        Whose they are is not known here: `why_owed` asks for patients too.
        """
        studies = [row["subject"] for row in rows if json.loads(row["data"])["Level"] == "Study"]
        return self._undelivered.why_kept(dict(zip(studies, studies, strict=True)))

    def why_owed(self, resource: str) -> str:
        """Return why something of a resource is owed; "" if nothing is."""
        studies = self._content(resource, "Study")
        reasons = self._undelivered.why_kept({study: str(found["ParentPatient"]) for study, found in studies.items()})
        return next(iter(reasons.values()), "")
