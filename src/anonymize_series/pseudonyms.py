# SPDX-License-Identifier: AGPL-3.0-or-later
"""UIDs and patients' identifiers that a secret makes."""

import hashlib
import hmac

LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # of pseudonyms: no word is made of these, and no number


class Pseudonyms:
    """Makes UIDs and patients' identifiers that only the secret can make, the same each time (HMAC-SHA256)."""

    def __init__(self, secret: str, prefix: str) -> None:
        self._secret, self._prefix = secret.encode(), prefix

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.new(self._secret, f"{kind}\0{value}".encode(), hashlib.sha256).digest()

    def uid(self, original: str, kind: str = "uid") -> str:
        """Return a UID of 2.25 and a UUID of version 8 as a decimal number (PS3.5 B.2)."""
        number = int.from_bytes(self._digest(kind, original)[:16])
        number = number & ~(0xF << 76) | 0x8 << 76
        return f"2.25.{number & ~(0x3 << 62) | 0x2 << 62}"

    def patient(self, patient: str, study_uid: str) -> str:
        """Return the pseudonym of a PatientID; a patient without one is another in each study."""
        digest = self._digest("patient", patient) if patient else self._digest("no patient", study_uid)
        return self._prefix + "".join(LETTERS[byte % len(LETTERS)] for byte in digest[:16])
