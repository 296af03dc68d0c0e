# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bits of pixels that BitsStored and HighBit leave unused (PS3.5 8.1.1)."""

from collections.abc import Sequence
from typing import Any

from anonymize_series.codestreams import PixelsError

# Of the data set: where one of these needs the bits that are said to be unused, they are used.
VALUES_OF_PIXELS = ("PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue", "LargestImagePixelValue")


class UnusedBits:
    """Bits above the highest that is stored, and below the lowest: 0, or above a negative pixel copies of its sign.

    Attributes
    ----------
    mask : these bits of a pixel.
    """

    def __init__(self, holder: Any, order: Any = "little", overlays: Sequence[int] = ()) -> None:
        self._bits = number_of(holder, "BitsAllocated")
        stored = number_of(holder, "BitsStored", self._bits)
        self._high = number_of(holder, "HighBit", stored - 1)
        if not 0 < stored <= self._high + 1 <= self._bits:
            raise PixelsError(f"{stored} bits up to bit {self._high} are stored of {self._bits}")
        self._below = (1 << (self._high + 1 - stored)) - 1
        self._above = (1 << self._bits) - (1 << (self._high + 1))
        self.mask = self._above | self._below
        if self.mask and (self._bits not in (8, 16, 32) or (order == "big" and self._bits > 16)):
            raise PixelsError(f"of {self._bits} bits some are unused")
        if any(not self.mask >> bit & 1 for bit in overlays):
            raise PixelsError("an overlay is in bits of its pixels")
        self._has_overlays, self._order = bool(overlays), order
        self._is_signed = bool(number_of(holder, "PixelRepresentation", 0))
        lowest, highest = (-(1 << stored - 1), (1 << stored - 1) - 1) if self._is_signed else (0, (1 << stored) - 1)
        values = [value for keyword in VALUES_OF_PIXELS if isinstance(value := holder.get(keyword), int)]
        self._are_used = not self._below and not all(lowest <= value <= highest for value in values)

    def blanked(self, block: bytes) -> bytes:
        """Return native pixels without what is in their unused bits; each pixel has the value that it had."""
        count = len(block) * 8 // self._bits
        size = count * self._bits // 8
        pixels = int.from_bytes(block[:size], self._order)
        found = pixels & self._of_each(self.mask, count)
        if not found:
            return block
        extended = 0
        if self._is_signed:
            sign = pixels & self._of_each(1 << self._high, count)
            extended = sign * ((1 << (self._bits - self._high)) - 2)  # all bits above it
            if found == extended or self._is_half_extended(found, extended, count):
                return block
        if self._are_used:
            raise PixelsError("other elements say that pixels use the bits that are unused")
        return (pixels ^ found | extended).to_bytes(size, self._order) + block[size:]

    def _is_half_extended(self, found: int, extended: int, count: int) -> bool:
        """Return whether the bits above are either 0 or the sign in each pixel: some files mix that."""
        missing = extended ^ (found & extended)
        uneven = (missing ^ missing >> 1) & self._of_each(self._above & self._above >> 1, count)
        return not self._has_overlays and found | extended == extended and not uneven

    def allowed_bytes(self) -> list[bytes]:
        """Return the values that each byte of a pixel may have, the highest byte first."""
        return [self._allowed(shift) for shift in reversed(range(0, self._bits, 8))]

    def _allowed(self, shift: int) -> bytes:
        above, below, sign = (bits >> shift & 0xFF for bits in (self._above, self._below, 1 << self._high))
        return bytes(
            value
            for value in range(256)
            if not value & below
            and (not value & above or (self._is_signed and value & above == above and value & sign == sign))
        )

    def _of_each(self, bits: int, count: int) -> int:
        """Return these bits of so many pixels."""
        return int.from_bytes(bits.to_bytes(self._bits // 8, self._order) * count, self._order)


def number_of(holder: Any, keyword: str, otherwise: int | None = None) -> int:
    """Return a number that says how pixels are written, or another one where it is missing or empty."""
    value = holder.get(keyword)
    if value is None or value == "":
        value = otherwise
    if not isinstance(value, int):
        raise PixelsError(f"its {keyword} is missing or no number")
    return int(value)
