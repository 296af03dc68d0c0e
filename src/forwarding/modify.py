# SPDX-License-Identifier: AGPL-3.0-or-later
"""The key `Modify` of a rule: what is changed in an image on its way to a destination."""

import dataclasses
from typing import Any

from common.settings import not_empty
from forwarding.uids import TRANSFER_SYNTAXES

# Those that lose nothing: of an image that is compressed with loss, Orthanc makes another one, with a new UID each time. JPEG-LS
# is not among them: of images that don't shrink, Orthanc 1.10.1 and 1.12.7 make damaged ones, or end with signal 11 (measured).
LOSSLESS = (
    *("ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "DeflatedExplicitVRLittleEndian"),
    *("JPEGLossless", "JPEGLosslessSV1"),
)


def uid_of_syntax(text: str) -> str:
    """Return the UID of a transfer syntax by its keyword, or itself."""
    return TRANSFER_SYNTAXES.get(text, text)


def check_transcode(text: str) -> str | None:
    """Refuse a transfer syntax that loses something, or that is none (a `check`)."""
    known = {uid_of_syntax(keyword) for keyword in LOSSLESS}
    return None if uid_of_syntax(text) in known else f"{', '.join(LOSSLESS)}, or their UIDs"


@dataclasses.dataclass(frozen=True)
class Modify:
    """What is changed in each image on its way; the archive keeps it as it is."""

    replace: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"help": 'New values of tags, as `{"PatientID": "SITE-{PatientID}"}`; in braces: what the image has.'},
    )
    remove: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"check": not_empty, "help": "Tags that are taken out, by DICOM's keyword or `gggg,eeee`."}
    )
    transcode: str | None = dataclasses.field(
        default=None,
        metadata={
            "check": check_transcode,
            "allowed": ", ".join(f"`{keyword}`" for keyword in LOSSLESS) + ", or their UIDs",
            "help": "The transfer syntax in which it is sent, one that loses nothing; null: the one it has.",
        },
    )

    def as_json(self) -> dict[str, Any]:
        """Return it as a row keeps it."""
        return {
            "Replace": self.replace,
            "Remove": [*self.remove],
            "Transcode": self.transcode and uid_of_syntax(self.transcode),
        }
