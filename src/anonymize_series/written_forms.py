# SPDX-License-Identifier: AGPL-3.0-or-later
"""How names and dates are written in texts: what a second look for them must know."""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence

MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()  # noqa: SIM905
NAME_COMPONENTS = 3  # family, given and middle name (DICOM PS3.5 6.2.1.1); prefix and suffix are no names
# "Doe, Jane" and "Smith-Jones" are two names each, and "Smith-Jones" is one as well.
BETWEEN_NAMES = (re.compile(r"[\^=\s]+"), re.compile(r"[\^=\s,;._/()-]+"))
LATIN_MARKS = re.compile("[\u0300-\u036f]")  # accents and the like, decomposed
# Letters that have another spelling in ASCII, where others only lose their accent.
IN_ASCII = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae", "ł": "l", "đ": "d"})
BETWEEN_WORDS = re.compile(r"[\W_]+")
SHORTEST_FOREIGN = 2  # characters of a name that is written without spaces, in other than Latin letters


class ShortNames:
    """Finds the names that are too short to be looked for anywhere, as words and as whole values.

    Parameters
    ----------
    names : of the patient (VR PN).
    others : of others, as of an operator, who is often called by two letters: only whole names, as `CT` is a word too.
    shortest : parts with so many characters are looked for elsewhere.
    """

    def __init__(self, names: Sequence[str], others: Sequence[str], shortest: int) -> None:
        self._values, pairs, words = set[str](), set[str](), set[str]()
        for part in itertools.chain.from_iterable(itertools.chain.from_iterable(map(_groups, names))):
            if 1 < len(part) < shortest:
                self._values.add(part.lower())
                words.update((part, part.upper(), part.capitalize()))
        for parts in itertools.chain.from_iterable(map(_groups, (*names, *others))):
            if not "".join(parts).isascii():
                joined = {"".join(parts), "".join(reversed(parts))}
                pairs.update(re.escape(each) for each in joined if SHORTEST_FOREIGN <= len(each) < shortest)
            pairs.update(
                rf"\b{re.escape(one)}[\W_]+{re.escape(other)}\b" for one, other in itertools.permutations(parts, 2)
            )
        self._pairs = re.compile("|".join(sorted(pairs)), re.IGNORECASE) if pairs else None
        self._words = (
            re.compile(rf"(?<![^\W_])({'|'.join(sorted(map(re.escape, words)))})(?![^\W_])") if words else None
        )

    def in_values(self, values: Sequence[str]) -> bool:
        """Return whether a name is in texts: a short one in the case of a name, since a word may look like it."""
        return any(
            value.lower() in self._values or self.in_bytes(value) or bool(self._words and self._words.search(value))
            for value in values
        )

    def in_bytes(self, text: str) -> bool:
        """Return whether a name of several parts is in what bytes may say: a short one is there by chance."""
        return bool(self._pairs and self._pairs.search(text)) or text.strip("\0 ").lower() in self._values


def _groups(name: str) -> Iterator[list[str]]:
    """Yield the parts of a name in each of its writings: family, given and middle name."""
    for group in name.split("="):
        components = group.split("^")[:NAME_COMPONENTS]
        if parts := [part for component in components for part in component.replace(",", " ").split()]:
            yield parts


def parts_of_name(name: str) -> list[str]:
    """Return a name (VR PN) and its parts."""
    return [name, *(part for between in BETWEEN_NAMES for part in between.split(name))]


def folded(text: str) -> str:
    """Return a text so that its other writings are equal: "ß" and "SS", composed and decomposed umlauts, half-width kana."""
    return unicodedata.normalize("NFKC", text).casefold()


def plain(text: str) -> str:
    """Return a text as it is written where there are no accents: "müller" as "mueller", "josé" as "jose"."""
    decomposed = unicodedata.normalize("NFD", folded(text).translate(IN_ASCII))
    return unicodedata.normalize("NFC", LATIN_MARKS.sub("", decomposed))


def words_of(text: str) -> set[str]:
    """Return the words of a text, without single letters, so that their other writings are equal."""
    return {word for word in BETWEEN_WORDS.split(plain(text)) if len(word) > 1}


def forms_of_date(date: str) -> Iterator[str]:
    """Yield how a date (VR DA, YYYYMMDD) is written elsewhere, in small letters."""
    if not re.fullmatch(r"[0-9]{4}(0[1-9]|1[0-2])[0-9]{2}", date[:8]):
        return
    year, month, day = date[:4], date[4:6], date[6:8]
    name = MONTHS[int(month) - 1]
    for m, d in ((month, day), (month.lstrip("0"), day.lstrip("0"))):
        for mark in "-./":
            yield from (f"{year}{mark}{m}{mark}{d}", f"{d}{mark}{m}{mark}{year}", f"{m}{mark}{d}{mark}{year}")
        yield from (
            f"{d} {name} {year}",
            f"{d}-{name}-{year}",
            f"{name} {d}, {year}",
            f"{name} {d} {year}",
            f"{d}. {name} {year}",
        )
