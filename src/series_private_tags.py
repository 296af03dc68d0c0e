# SPDX-License-Identifier: AGPL-3.0-or-later
"""Lists series with private tags that Orthanc does not index: GET /with-private-tags/series.

Each series keeps the values of the tags that the configuration names as the metadata `SeriesPrivateTags`, taken from its
first instance that has them while it is stored. What the archive held before is caught up in the background.

A smallest configuration (a tag by its name in `Dictionary`, or by its number and private creator; `!!` stores only "EXISTS"):

    "SeriesMainPrivateDicomTags": ["SUVFactor", "!!CSAImageHeader", "0019,100c:SIEMENS MR HEADER"],
    "Dictionary": {"7053,1000": ["DS", "SUVFactor", 1, 1, "Philips PET Private Group"],
                   "0029,1010": ["OB", "CSAImageHeader", 1, 1, "SIEMENS CSA HEADER"]},
    "UserMetadata": {"SeriesPrivateTags": 2000}

To look at and to act on, with curl:

    GET  /with-private-tags/series                    ?limit=100&since=0&short&instances=true
    GET  /with-private-tags/series/{id}
    GET  /with-private-tags/studies/{id}/series       and /with-private-tags/patients/{id}/series
    GET  /with-private-tags/status
    POST /with-private-tags/reconstruct               {"Study": id}, {"Patient": id}, {"Series": id}, or {} for all

Needs nothing but Python's standard library. All keys: docs/series_private_tags.md.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import difflib
import encodings.idna  # noqa: F401
import functools
import hashlib
import json
import re
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orthanc

from common.answers import KEPT_ALIVE, Answer, Refused, Request, one_line, serve
from common.json_text import decoded
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.parameters import Flag, Text, WholeNumber, takes
from common.place import place_in_log
from common.settings import SettingsError, read_settings
from common.state import state_folder
from common.user_number import user_number
from common.worker import Worker

__version__ = "0.1.0"

SECTION = "SeriesMainPrivateDicomTags"
METADATA, METADATA_NUMBER = "SeriesPrivateTags", 2000  # of UserMetadata
SMALL = 65_536  # bytes of a file that is searched for marks first
LARGEST = 8_000_000  # bytes; a larger instance is not copied while it is stored, but read afterwards
PAGE = 1000  # changes a request
PAUSE = 0.3  # seconds between looks while instances arrive: what belongs together is written together
IDLE = 10.0  # seconds between looks when nothing arrives
FOLLOW = 2.0  # seconds between looks at the log of changes while instances arrive
PATIENCE = 2.0  # seconds until an instance that Orthanc has logged, and has not handed over, is read
LEVEL_OF_SERIES = 2  # as OnChange numbers them
REMEMBERED = 50_000  # series, and instances, known in memory
LAYOUTS = 8  # of files, that are recognised without looking through them
MOST_NESTED = 30  # sequences in sequences
STATES_TABLE = """
CREATE TABLE IF NOT EXISTS lists(number INTEGER PRIMARY KEY, entries TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS series(
    series TEXT PRIMARY KEY, looked INTEGER, found TEXT NOT NULL, shown TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS todo(series TEXT PRIMARY KEY, anew INTEGER NOT NULL) WITHOUT ROWID;
"""
ADD_BORN = "ALTER TABLE series ADD COLUMN born INTEGER"  # files of the first version came without it
# A series that the log calls new, whose row says when it was new before, or that it was looked at: series, Seq.
IS_REBORN = "FROM series WHERE series=?1 AND (born<>?2 OR born IS NULL AND looked IS NOT NULL)"
REBORN = f"INSERT OR REPLACE INTO todo SELECT series, 1 {IS_REBORN}"
FORGET_REBORN = f"DELETE {IS_REBORN}"
BORN = "INSERT INTO series VALUES(?,?,'{}','{}',?) ON CONFLICT DO UPDATE SET looked=excluded.looked, born=excluded.born"
LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)  # PS3.5 7.1.2
IMPLICIT, EXPLICIT_BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
UNDEFINED = 0xFFFFFFFF
SPECIFIC_CHARACTER_SET, SERIES_INSTANCE_UID = 0x00080005, 0x0020000E
IDENTIFIERS = (0x00100020, 0x0020000D, SERIES_INSTANCE_UID)  # PatientID, StudyInstanceUID
PUBLIC = frozenset({SPECIFIC_CHARACTER_SET, *IDENTIFIERS})
EXPLICIT_HEAD, LENGTH = struct.Struct("<HH2sH"), struct.Struct("<I")
# Python's names of the character sets that a single value of SpecificCharacterSet names (DICOM PS3.3 C.12.1.1.2).
CHARACTER_SETS = {
    **{f"ISO_IR {number}": codec for number, codec in {
        100: "latin-1", 101: "iso8859-2", 109: "iso8859-3", 110: "iso8859-4", 144: "iso8859-5", 127: "iso8859-6",
        126: "iso8859-7", 138: "iso8859-8", 148: "iso8859-9", 203: "iso8859-15", 166: "tis-620", 13: "shift_jis", 192: "utf-8",
    }.items()},
    "GB18030": "gb18030", "GBK": "gbk", "ISO 2022 IR 87": "iso2022_jp", "ISO 2022 IR 149": "euc_kr",
}  # fmt: skip
# One metadata a line, in an answer that Orthanc has indented: no text holds a line break.
TEXT_OF_METADATA = re.compile(
    rb'\n      "Metadata" : *\n      \{((?:\n         [^\n]*)+)\n      \},'
    rb'(?=\n      "ParentStudy" : "[^"]*",\n      "Status" : "(\w+)")'
)
TEXT_OF_ONE = re.compile(rb'\n         "([^"\n]*)" : ("[^\n]*")')
FIELDS = [
    "MainDicomTags",
    "Metadata",
    "Parent",
    "Status",
    "IsStable",
    "Labels",
]  # of ResponseContent, as /series?expand has them


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `SeriesMainPrivateDicomTags`: an object of these keys, or only the list that is `Tags`."""

    tags: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "help": 'Names from `Dictionary`, `"gggg,eeee"`, `"gggg,eeee:Creator"`; `!!` before it: only `"EXISTS"` is stored.'
        },
    )
    maximum_length: int = dataclasses.field(
        default=4096,
        metadata={"minimum": 16, "help": "Characters of a value that are stored; of a longer one, so many and a mark."},
    )
    catch_up: bool = dataclasses.field(
        default=True, metadata={"help": "Look at what the archive held before the script, or before a tag was named."}
    )
    reconcile: bool = dataclasses.field(
        default=True, metadata={"help": "False in all but one of several Orthancs that share a database."}
    )
    durability: str = dataclasses.field(
        default="normal",
        metadata={"choices": ("normal", "full"), "help": "`full`: the ledger also survives the loss of power."},
    )
    state_path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the ledger; null: `IndexDirectory`, else `StorageDirectory`."}
    )


# Which tags


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tag to look for: of a private creator in whatever block it has reserved, else of exactly this number."""

    key: str
    exists_only: bool
    group: int
    element: int
    creator: str | None

    @property
    def text(self) -> str:
        """The whole of it: what has the same text needs no second look."""
        return f"{self.key}|{self.exists_only}|{self.group:04x},{self.element:04x}|{self.creator}"


def parse_entry(text: str, dictionary: Mapping[str, Any]) -> Entry:
    """An item of the list. Raises `SettingsError`."""
    key = text.removeprefix("!!")
    named = {
        str(value[1]): (tag, value) for tag, value in dictionary.items() if isinstance(value, list) and len(value) > 1
    }
    creator = None
    if key in named:
        number, value = named[key]
        creator = str(value[4]) if len(value) > 4 else None
    elif match := re.fullmatch(r"([0-9A-Fa-f]{4},[0-9A-Fa-fx]{2}[0-9A-Fa-f]{2})(?::(.+))?", key):
        number, creator = match[1].replace("x", "1", 1).replace("x", "0", 1), match[2]
        value = next((value for tag, value in dictionary.items() if tag.lower() == number.lower()), [])
        if creator is None and isinstance(value, list) and len(value) > 4:
            creator = str(value[4])
    else:
        near = difflib.get_close_matches(key, named, 1, 0.5)
        known = f"did you mean {near[0]!r}?" if near else f"Dictionary has: {', '.join(named) or 'nothing'}"
        raise SettingsError(
            f'{SECTION}: found {json.dumps(text)}, allowed: a name from Dictionary, "gggg,eeee", "gggg,eeee:Creator"; {known}'
        )
    group, element = (int(part, 16) for part in re.split("[,-]", number)[:2])
    if group % 2 == 0:
        raise SettingsError(
            f"{SECTION}: found {json.dumps(text)}, {group:04x},{element:04x}; allowed: private tags, whose group is odd"
        )
    return Entry(key, text.startswith("!!"), group, element, creator.strip() if creator else None)


class Wanted:
    """The entries of the list, ready to be recognised in a DICOM file (private blocks: DICOM PS3.5 7.8)."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = {entry.key: entry for entry in entries}
        self.groups = frozenset(entry.group for entry in entries)
        self.last_group = max([0x20, *self.groups])
        self._exact = {(entry.group, entry.element): entry for entry in entries if entry.creator is None}
        # What stands in every file that has the entry: the name of its creator, else its number.
        self._marks = {
            entry.key: (entry.creator or "").encode() or struct.pack("<HH", entry.group, entry.element)
            for entry in entries
        }
        self._of_creator = {
            (entry.group, entry.creator, entry.element & 0xFF): entry for entry in entries if entry.creator
        }

    def perhaps_in(self, data: bytes, seen: Collection[str]) -> set[str]:
        """The entries that may be in a file, but for those seen: a look of a microsecond, that spares most files the other."""
        if len(seen) == len(self.entries):
            return set()
        head = data[132:1024]
        if len(data) > SMALL or EXPLICIT_BIG_ENDIAN.encode() in head or DEFLATED.encode() in head:
            return self.entries.keys() - seen
        return {key for key, mark in self._marks.items() if key not in seen and mark in data}

    def of(self, group: int, element: int, creators: Mapping[tuple[int, int], str]) -> list[Entry]:
        """The entries that this element is, with the creators of the blocks so far."""
        creator = creators.get((group, element >> 8), "")
        found = self._exact.get((group, element)), self._of_creator.get((group, creator, element & 0xFF))
        return [entry for entry in found if entry is not None]


# What a file holds


def elements(
    data: bytes, position: int, implicit: bool, wanted: Wanted, passed: list[slice]
) -> Iterator[tuple[int, int, int]]:
    """Tag, start and end of the value of those elements of a data set in Little Endian that are looked for.

    What said where the next one begins is added to `passed`. Raises ValueError, struct.error: it is cut or broken.
    """
    groups, last_group, size = wanted.groups, wanted.last_group, len(data)
    while position + 8 <= size:
        group, element, vr, length = EXPLICIT_HEAD.unpack_from(data, position)
        if group > last_group:
            return
        start = position + 8
        if implicit:
            (length,) = LENGTH.unpack_from(data, position + 4)
        elif vr in LONG_VRS:
            (length,) = LENGTH.unpack_from(data, start)
            start += 4
        begin, position = position, start + length
        if length == UNDEFINED:
            position = end_of_sequence(data, start, implicit or vr == b"UN")
        passed.append(slice(begin, position if length == UNDEFINED else start))
        if position > size:
            raise ValueError("an element ends beyond the file")
        tag = group << 16 | element
        if tag in PUBLIC or group in groups:
            yield tag, start, position


def end_of_sequence(data: bytes, position: int, implicit: bool, depth: int = 0) -> int:
    """Where a sequence of undefined length ends, its delimiter included (DICOM PS3.5 7.5)."""
    if depth > MOST_NESTED:
        raise ValueError("sequences are nested too deep")
    while True:
        group, element = struct.unpack_from("<HH", data, position)
        (length,) = LENGTH.unpack_from(data, position + 4)
        position += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            return position
        if (group, element) != (0xFFFE, 0xE000):
            raise ValueError("a sequence holds what is no item")
        position = position + length if length != UNDEFINED else end_of_item(data, position, implicit, depth)


def end_of_item(data: bytes, position: int, implicit: bool, depth: int) -> int:
    """Where an item of undefined length ends, its delimiter included."""
    while True:
        group, element, vr, length = EXPLICIT_HEAD.unpack_from(data, position)
        start = position + 8
        if (group, element) == (0xFFFE, 0xE00D):
            return start
        if implicit:
            (length,) = LENGTH.unpack_from(data, position + 4)
        elif vr in LONG_VRS:
            (length,) = LENGTH.unpack_from(data, start)
            start += 4
        position = (
            start + length if length != UNDEFINED else end_of_sequence(data, start, implicit or vr == b"UN", depth + 1)
        )


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a file has its tags up to SeriesInstanceUID: one that has the same `heads` there has the same all the way.

    For then its first element is as long as that one's, so its second begins at the same place, and so on.
    """

    passed: tuple[slice, ...]
    heads: bytes
    identifiers: tuple[slice, ...]

    @classmethod
    def of(cls, data: bytes, passed: Sequence[slice], identifiers: Iterable[slice]) -> Layout:
        return cls(tuple(passed), b"".join(map(data.__getitem__, passed)), tuple(identifiers))

    def series_of(self, data: bytes) -> str | None:
        """The Orthanc identifier of the series that a file is of, if it is laid out like this and all is ASCII."""
        if b"".join(map(data.__getitem__, self.passed)) != self.heads:
            return None
        try:
            return orthanc_identifier(*(text_of(data[each]) for each in self.identifiers))
        except UnicodeDecodeError:
            return None


@dataclasses.dataclass
class Scanned:
    """What was seen in a file: its series' Orthanc identifier, and of each entry that is there number and bytes."""

    series: str
    character_set: str
    present: dict[str, tuple[str, bytes]]
    layout: Layout | None = None


def scan(data: bytes, wanted: Wanted, is_complete: Callable[[str], bool]) -> Scanned:
    """Look through the head of a Part 10 file; not further than the series, if nothing of that is missing.

    Raises ValueError, struct.error: this can't be read here (Big Endian, deflated, broken, a PatientID that is not ASCII).
    """
    syntax, place, start = syntax_of(data)
    passed = [slice(128, 144), place]  # with the length of the file meta information
    public = dict.fromkeys(PUBLIC, slice(0))
    creators: dict[tuple[int, int], str] = {}
    scanned = Scanned("", "", {})
    for tag, begin, end in elements(data, start, syntax == IMPLICIT, wanted, passed):
        if tag not in PUBLIC:
            note(scanned, wanted, creators, tag >> 16, tag & 0xFFFF, data[begin:end])
            continue
        public[tag] = slice(begin, end)
        if tag == SERIES_INSTANCE_UID:
            scanned.layout = Layout.of(data, passed, (public[each] for each in IDENTIFIERS))
            scanned.series = scanned.layout.series_of(data) or ""
            if is_complete(scanned.series):
                break
    if not scanned.series:
        raise ValueError("no SeriesInstanceUID")
    scanned.character_set = text_of(data[public[SPECIFIC_CHARACTER_SET]])
    return scanned


def text_of(content: bytes) -> str:
    """A value that is ASCII, without what it is padded with. Raises ValueError."""
    return content.decode("ascii").strip(" \0")


def syntax_of(data: bytes) -> tuple[str, slice, int]:
    """The transfer syntax of a Part 10 file, where it stands, and where the data set starts (PS3.10 7.1). Raises as `scan`."""
    if data[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise ValueError("no file meta information")
    end = 144 + LENGTH.unpack_from(data, 140)[0]
    if (found := data.find(b"\x02\x00\x10\x00UI", 144, end)) < 0:
        raise ValueError("no transfer syntax")
    place = slice(found, found + 8 + int.from_bytes(data[found + 6 : found + 8], "little"))
    syntax = text_of(data[place][8:])
    if syntax in (EXPLICIT_BIG_ENDIAN, DEFLATED):
        raise ValueError(f"transfer syntax {syntax}")
    return syntax, place, end


def note(
    scanned: Scanned, wanted: Wanted, creators: dict[tuple[int, int], str], group: int, element: int, content: bytes
) -> None:
    """Remember a private creator, or an element that is wanted; of two blocks of one creator, the first."""
    if 0x10 <= element <= 0xFF:
        creators[group, element] = content.decode("ascii", "replace").strip(" \0")
    for entry in wanted.of(group, element, creators):
        scanned.present.setdefault(entry.key, (f"{group:04x},{element:04x}", content))


def orthanc_identifier(*values: str) -> str:
    """Orthanc's identifier of what has this PatientID, StudyInstanceUID, …: their SHA-1, in groups of eight digits."""
    digest = hashlib.sha1("|".join(values).encode()).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def private_elements(tags: Mapping[str, Any], wanted: Wanted) -> dict[str, str]:
    """The numbers of the entries in an instance as Orthanc gives it (`/tags`), by their keys."""
    creators: dict[tuple[int, int], str] = {}
    found: dict[str, str] = {}
    for tag in sorted(tags):
        group, element = (int(part, 16) for part in tag.split(","))
        if group in wanted.groups:
            if 0x10 <= element <= 0xFF:
                creators[group, element] = str(tags[tag].get("Value") or "").strip()
            for entry in wanted.of(group, element, creators):
                found.setdefault(entry.key, tag)
    return found


# Values


def plain(tag: Mapping[str, Any], depth: int = 0) -> Any:
    """A value of Orthanc's `/tags` as `/simplified-tags` has it: a text, None, or a list of objects by names."""
    value = tag.get("Value")
    if tag.get("Type") != "Sequence" or not isinstance(value, list):
        return value
    if depth > MOST_NESTED:
        return "nested too deep"
    return [{name_of(number, each): plain(each, depth + 1) for number, each in item.items()} for item in value]


def name_of(number: str, tag: Mapping[str, Any]) -> str:
    """Its name, or its number where the name says nothing."""
    name = str(tag.get("Name", ""))
    return number if name in ("", "PrivateCreator") or name.startswith("Unknown") else name


def from_bytes(content: bytes, character_set: str) -> str:
    """What Orthanc could not read: text where it is text, else its length and SHA-256."""
    codec = CHARACTER_SETS.get(character_set.split("\\")[-1].strip(), "ascii")
    with contextlib.suppress(UnicodeDecodeError):
        text = content.rstrip(b"\0 ").decode(codec)
        if all(character.isprintable() or character in "\t\r\n\f" for character in text):
            return text
    return f"{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}"


def limited(value: Any, most: int) -> Any:
    """The value, or so much of its text and a mark."""
    text = value if isinstance(value, str) else json.dumps(value)
    return value if len(text) <= most else f"{text[:most]}… (cut, of {len(text)} characters)"


def value_of(entry: Entry, tag: Mapping[str, Any], content: Callable[[], bytes], character_set: str, most: int) -> Any:
    """What is stored of an element: `tag` is Orthanc's, `content` gives its bytes where that says nothing."""
    if entry.exists_only:
        return "EXISTS"
    value = plain(tag)
    return limited(from_bytes(content(), character_set) if value is None else value, most)


# Lists


@dataclasses.dataclass(frozen=True)
class Page:
    """What part of a list, and how."""

    since: int
    limit: int | None
    short: bool
    instances: bool


OF_PAGES = {
    "since": WholeNumber(most=10**9 - 1),
    "limit": WholeNumber(least=1, most=10**9 - 1),
    "short": Flag(bare=True),
    "instances": Flag(bare=True),
    "expand": Flag(bare=True),  # as Orthanc's own lists; it changes nothing
}


def page_of(given: Mapping[str, Any]) -> Page:
    """Read it off the parameters."""
    return Page(given.get("since", 0), given.get("limit"), given.get("short", False), given.get("instances", False))


def with_tags(series: dict[str, Any], values: Mapping[str, Any], instances: bool) -> dict[str, Any]:
    """A series as Orthanc gives it, with its private tags."""
    if not instances:
        series.pop("Instances", None)
    series["MainPrivateDicomTags"] = values
    return series


def decoded_values(text: str | None) -> dict[str, Any]:
    """What the metadata holds; nothing, if it is not ours."""
    text = text or "{}"
    decode = json.loads if text.count("{") + text.count("[") < 100 else decoded  # the stack is small
    with contextlib.suppress(ValueError):
        if isinstance(found := decode(text), dict):
            return found
    return {}


def spliced(listing: bytes, values: Mapping[bytes, bytes], instances: bool) -> bytes | None:
    """The list of `/series?expand` with the private tags put in as text: three times as fast as decoding it.

    Orthanc indents its JSON, and no value holds a line break: only its own keys can stand behind one. None: it looks otherwise.
    """

    def put_in(match: re.Match[bytes]) -> bytes:
        kept = match[0] if instances else match[1]
        return b'%s\n      "MainPrivateDicomTags" : %s,' % (kept, values.get(match[2], b"{}"))

    pattern = rb'(\n      "ID" : "([0-9a-f-]{44})",)\n      "Instances" : +(?:\n +)?\[[^\]]*\],'
    found, count = re.subn(pattern, put_in, listing)
    return found if count == listing.count(b'"ParentStudy"') else None


def found_with_tags(listing: bytes, name: str) -> bytes:
    """What `/tools/find` gave with `FIELDS`, as `/series?expand` gives it, with the private tags of the metadata `name`."""

    def put_in(match: re.Match[bytes]) -> bytes:
        metadata = dict(TEXT_OF_ONE.findall(match[1]))
        return b",".join(b'\n      "%s" : %s' % each for each in shown(metadata, match[2]).items()) + b","

    def shown(metadata: Mapping[bytes, bytes], status: bytes) -> dict[bytes, bytes]:
        kept = {key: metadata[key] for key in (b"AnonymizedFrom", b"LastUpdate", b"ModifiedFrom") if key in metadata}
        expected = metadata.get(b"ExpectedNumberOfInstances", b"null") if status != b"Unknown" else b"null"
        kept[b"ExpectedNumberOfInstances"] = expected.strip(b'"')
        text = json.loads(metadata.get(name.encode(), b'""'))
        # As it stands, which is JSON: to encode it anew would take a sixth of the time.
        kept[b"MainPrivateDicomTags"] = text.encode(errors="replace") if decoded_values(text) else b"{}"
        return kept

    text, count = TEXT_OF_METADATA.subn(put_in, listing)
    if count == listing.count(b'"ParentStudy"'):
        return text
    found = json.loads(listing)  # it is not indented as expected
    for series in found:
        metadata = {key.encode(): json.dumps(value).encode() for key, value in series.pop("Metadata").items()}
        for key, value in shown(metadata, series["Status"].encode()).items():
            series[key.decode()] = json.loads(value)
    return json.dumps(found).encode()


class PrivateTags:
    """Keeps the tags of each series as its metadata, and what is known of it in the ledger.

    What the callback took is written by one thread, which then follows Orthanc's log of changes: an instance in there
    that nobody handed over (a restart came between) is read. In between, it catches up with what was there before.
    """

    def __init__(self, settings: Settings, wanted: Wanted, metadata: str, configuration: Mapping[str, Any]) -> None:
        self._settings, self._wanted, self._metadata, self._configuration = settings, wanted, metadata, configuration
        self._loopback = Loopback(configuration)
        self._taken: collections.deque[tuple[str, str, dict[str, Any] | None]] = collections.deque()
        self._seen: dict[str, set[str]] = {}  # by series: the entries that were taken since the start
        self._layouts: tuple[Layout, ...] = ()  # of the last files that were looked through
        self._handed_over: set[str] = set()  # instances that the log of changes has yet to name
        # A Seq, and when it was the newest: what Orthanc has not handed over soon after is read.
        self._horizon, self._is_behind = (0, 0.0), False
        self._newest_at_start: int | None = None
        self._followed = 0.0
        self._written: set[str] = set()  # series whose metadata the log of changes has yet to name
        self._writes = 0  # into the ledger, of what is shown; counted when it is there
        self._shown: tuple[int, dict[bytes, bytes]] = (-1, {})
        self.worker = Worker("series_private_tags", self._open, self._turn)
        self._wake, self._stopping = self.worker.wake, self.worker.stopping
        self._listings = threading.BoundedSemaphore(max(1, int(configuration.get("HttpThreadsCount", 50)) // 2))
        change = orthanc.ChangeType
        self._started, self._stopped, self._deleted = (
            int(change.ORTHANC_STARTED), int(change.ORTHANC_STOPPED), int(change.DELETED))  # fmt: skip

    # What Orthanc tells: return at once

    def on_stored(self, dicom: Any, instance: str) -> None:
        """Take the tags that are new to the series out of the instance."""
        if self.worker.is_off or len(self._taken) > REMEMBERED:
            return  # the log of changes has it
        series, values = "", None
        if dicom.GetInstanceSize() <= LARGEST:
            with contextlib.suppress(ValueError, struct.error, RecursionError):
                series, values = self._take(dicom)
        self._taken.append((instance, series, values))
        if not self._wake.is_set():
            self._wake.set()

    def on_change(self, change: int, level: int, resource: str) -> None:
        if change == self._deleted and level == LEVEL_OF_SERIES and not self.worker.is_off:
            self._seen.pop(resource, None)
            self._taken.append(("", resource, None))
            self._wake.set()
        elif change == self._started:
            self.worker.start()
        elif change == self._stopped:
            self.worker.stop()

    def _take(self, dicom: Any) -> tuple[str, dict[str, Any]]:
        data = dicom.GetInstanceData()
        # Most images are laid out like one before, of a series that lacks nothing they have.
        series = next((found for layout in self._layouts if (found := layout.series_of(data))), "")
        if not (perhaps := self._wanted.perhaps_in(data, self._seen.get(series, ()))):
            return series, {}
        scanned = scan(data, self._wanted, lambda series: perhaps <= self._seen.get(series, set()))
        if scanned.layout and not series:
            self._layouts = (scanned.layout, *self._layouts[: LAYOUTS - 1])
        seen = self._seen.get(scanned.series, set())
        if not (new := scanned.present.keys() - seen):
            return scanned.series, {}
        valued = any(not self._wanted.entries[key].exists_only for key in new)
        tags = json.loads(dicom.GetInstanceJson()) if valued else {}
        values = {}
        for key in new:
            number, content = scanned.present[key]
            entry, most = self._wanted.entries[key], self._settings.maximum_length
            values[key] = value_of(
                entry, tags.get(number, {}), functools.partial(bytes, content), scanned.character_set, most
            )
        if len(self._seen) > REMEMBERED:
            self._seen.clear()
        self._seen.setdefault(scanned.series, set()).update(new)
        return scanned.series, values

    def _open(self) -> Ledger:
        if not self._loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        path = state_folder(self._settings.state_path, self._configuration) / "series_private_tags.sqlite"
        self._ledger = Ledger(path, STATES_TABLE, durability=self._settings.durability)
        try:
            if not self._ledger.rows("SELECT 1 FROM pragma_table_info('series') WHERE name='born'"):
                self._ledger.run(ADD_BORN)
            self._list = self._number_of_list()
        except BaseException:
            self._ledger.close()
            raise
        if self._ledger.moved:
            orthanc.LogWarning(
                f"series_private_tags: the ledger was corrupt and is kept as {self._ledger.moved}; all is looked at anew"
            )
        return self._ledger

    def _number_of_list(self) -> int:
        entries = json.dumps(sorted(entry.text for entry in self._wanted.entries.values()))
        self._ledger.run("INSERT OR IGNORE INTO lists(entries) VALUES(?)", entries)
        return int(self._ledger.rows("SELECT number FROM lists WHERE entries=?", entries)[0]["number"])

    # The one thread

    def _turn(self) -> float:
        if self._newest_at_start is None:
            newest = int(self._loopback.get("/changes?last")["Last"])
            self._begin(newest)
            self._newest_at_start = newest
        if self._taken:
            self._stopping.wait(PAUSE)
            self._wake.clear()
        self._arrivals(self._newest_at_start)
        while not self._stopping.is_set() and not self._wake.is_set() and self._catch_up(self._newest_at_start):
            pass
        return FOLLOW if self._handed_over or self._is_behind else IDLE

    def _begin(self, newest: int) -> None:
        """Take the place in the log of changes; put all series that are here on the list, unless they were for these tags."""
        kept = self._ledger.number("cursor", -1)
        self._ledger.set_number("cursor", place_in_log(kept, newest, "series_private_tags") if kept >= 0 else newest)
        if self._settings.catch_up and self._ledger.number("listed") != self._list:
            series = self._loopback.get("/series")
            with self._ledger.transaction() as db:
                db.executemany("INSERT OR IGNORE INTO todo VALUES(?,0)", ((each,) for each in series))
                sql = "DELETE FROM todo WHERE anew=0 AND series IN (SELECT series FROM series WHERE looked=?)"
                db.execute(sql, (self._list,))
                self._ledger.set_number("listed", self._list)
                self._count_todo()

    def _count_todo(self) -> None:
        self._ledger.set_number("total", int(self._ledger.rows("SELECT COUNT(*) n FROM todo")[0]["n"]))

    def _arrivals(self, newest_at_start: int) -> None:
        """Write what was taken; then follow the log of changes."""
        while self._taken and not self._stopping.is_set():
            batch = [self._taken[index] for index in range(min(PAGE, len(self._taken)))]
            self._write(batch)
            for _ in batch:  # only what is committed is forgotten
                self._taken.popleft()
        if self._settings.reconcile and time.monotonic() - self._followed > FOLLOW - PAUSE:
            self._followed = time.monotonic()
            while self._follow(newest_at_start) and not self._stopping.is_set():
                pass

    def _write(self, batch: Sequence[tuple[str, str, dict[str, Any] | None]]) -> None:
        found: dict[str, dict[str, Any]] = {}
        for instance, series, values in batch:
            if not instance:
                self._was_deleted(series)
                continue
            if values is None:
                series, values = self._read(instance, self._wanted)
            if len(self._handed_over) > REMEMBERED:
                self._handed_over.clear()  # of instances that were stored already the log says nothing
            self._handed_over.add(instance)
            if values:
                found[series] = {**values, **found.get(series, {})}  # what came first stays
        for series, values in found.items():
            self._add(series, values)

    def _follow(self, newest_at_start: int) -> bool:
        """One page of the log of changes; whether there is more."""
        page = self._loopback.get(f"/changes?since={self._ledger.number('cursor')}&limit={PAGE}")
        last, new_series, found = page["Last"], [], []
        ours: set[str] = set()
        edited: set[str] = set()
        self._is_behind = False
        for change in page["Changes"]:
            if change["ChangeType"] == "NewSeries":
                if change["Seq"] <= newest_at_start:
                    self._came_unseen(change["ID"])
                new_series.append((change["ID"], change["Seq"]))
            elif change["ChangeType"] == "NewInstance":
                if not self._is_done(change, newest_at_start):
                    last = change["Seq"] - 1
                    break
                found.append(change["ID"])
            elif change["ChangeType"] == "UpdatedMetadata" and change["ResourceType"] == "Series":
                is_ours = change["ID"] in self._written and change["ID"] not in ours
                (ours if is_ours else edited).add(change["ID"])
        if not self._loopback.finds_more:
            self._follow_edits(edited)
        with self._ledger.transaction() as db:
            # All instances of a new series pass by here: it needs no looking at, unless the row is of one that was deleted.
            db.executemany(REBORN, new_series)
            db.executemany(FORGET_REBORN, new_series)
            db.executemany(BORN, [(each, self._list, seq) for each, seq in new_series])
            db.executemany("DELETE FROM todo WHERE series=? AND anew=0", [(each,) for each, _ in new_series])
            self._ledger.set_number("cursor", max(last, self._ledger.number("cursor")))
        self._writes += 1
        self._handed_over.difference_update(found)  # now that the place in the log is behind them
        self._written -= ours
        if page["Done"] and last == page["Last"]:
            self._handed_over.clear()  # what is left was stored before: the log does not name it again
            self._written.clear()
        return not page["Done"] and last == page["Last"]

    def _came_unseen(self, series: str) -> None:
        """It came before the start, perhaps again: what was known of it, and not yet found in the log, its metadata confirms."""
        row = self._ledger.rows("SELECT shown FROM series WHERE series=? AND born IS NULL", series)
        if row and row[0]["shown"] != json.dumps(self._values_of(series)):
            with self._ledger.transaction():
                self._ledger.run("DELETE FROM series WHERE series=?", series)
                self._ledger.run("INSERT OR REPLACE INTO todo VALUES(?,1)", series)

    def _follow_edits(self, series: Iterable[str]) -> None:
        """Where lists are made of the ledger: what somebody else has written into the metadata."""
        for each in series:
            shown = json.dumps(self._values_of(each))
            self._ledger.run("UPDATE series SET shown=?1 WHERE series=?2 AND shown<>?1", shown, each)

    def _is_done(self, change: Mapping[str, Any], newest_at_start: int) -> bool:
        """Whether an instance of the log needs no more waiting: it was handed over, or is read now."""
        instance = change["ID"]
        if instance in self._handed_over:
            return True
        if change["Seq"] > newest_at_start:  # it comes in a moment
            if change["Seq"] > self._horizon[0]:
                self._horizon = int(self._loopback.get("/changes?last")["Last"]), time.monotonic()
            if time.monotonic() < self._horizon[1] + PATIENCE:
                self._is_behind = True
                return False
        series, values = self._read(instance, self._wanted)
        if values:
            self._add(series, values)
        return True

    def _read(self, instance: str, wanted: Wanted) -> tuple[str, dict[str, Any]]:
        """The series of an instance, and the values of the entries that are in it; nothing if it was deleted."""
        try:
            tags = self._loopback.get(f"/instances/{instance}/tags")
            numbers = private_elements(tags, wanted)
            if not numbers:
                return "", {}
            series = self._loopback.get(f"/instances/{instance}/series")["ID"]
            character_set = str(tags.get("0008,0005", {}).get("Value") or "")
            values = {}
            for key, number in numbers.items():
                path = f"/instances/{instance}/content/{number.replace(',', '-')}"
                content = functools.partial(self._content, path)
                values[key] = value_of(
                    wanted.entries[key], tags[number], content, character_set, self._settings.maximum_length
                )
            return series, values
        except LoopbackError as error:
            if error.status not in (404, 415):
                raise
            return "", {}

    def _content(self, path: str) -> bytes:
        return self._loopback.exchange("GET", path)[1]

    def _add(self, series: str, values: Mapping[str, Any], looked: int | None = None) -> None:
        """Complete a series by the values that it lacks: first its metadata, then the ledger."""
        row = self._ledger.rows("SELECT found, shown FROM series WHERE series=?", series)
        found = json.loads(row[0]["found"]) if row else {}
        new = {
            entry.text: values[key]
            for key, entry in self._wanted.entries.items()
            if key in values and entry.text not in found
        }
        found |= new
        shown = json.dumps(
            {key: found[entry.text] for key, entry in self._wanted.entries.items() if entry.text in found}
        )
        before = row[0]["shown"] if row else "{}"
        anew = looked is not None and bool(new)  # also what is the same as before: somebody may have removed it
        if (shown != before or anew) and not self._put(series, shown):
            return  # deleted meanwhile
        sql = (
            "INSERT INTO series VALUES(?,?,?,?,NULL) ON CONFLICT DO UPDATE SET found=excluded.found, shown=excluded.shown, "
            "looked=COALESCE(excluded.looked, looked)"
        )
        self._ledger.run(sql, series, looked, json.dumps(found), shown)
        self._writes += 1

    def _put(self, series: str, text: str) -> bool:
        """Write the metadata; whether the series is there."""
        path = f"/series/{series}/metadata/{self._metadata}"
        try:
            orthanc.RestApiPut(path, text.encode())  # takes 0.05 ms in an archive of any size
        except orthanc.OrthancException:
            try:
                headers, _ = self._loopback.exchange("GET", path)
                self._loopback.exchange(
                    "PUT", path, text.encode(), {"If-Match": headers.get("ETag", "")}
                )  # "CheckRevisions"
            except LoopbackError as error:
                if error.status != 404:
                    raise
                return False
        self._written.add(series)
        return True

    def _was_deleted(self, series: str) -> None:
        """Forget a series; look at it anew if it is here again: what came before this event counts for nothing."""
        with self._ledger.transaction():
            self._ledger.run("DELETE FROM series WHERE series=?", series)
            self._ledger.run("DELETE FROM todo WHERE series=?", series)
            if self._is_here("series", series):
                self._ledger.run("INSERT INTO todo VALUES(?,1)", series)
        self._writes += 1

    def _is_here(self, level: str, resource: str) -> bool:
        try:
            # Takes the same in an archive of any size. Of what is not there Orthanc 1.13.0 gives zeros, the others 404.
            return bool(self._loopback.get(f"/{level}/{resource}/statistics")["DicomDiskSize"] != "0")
        except LoopbackError as error:
            if error.status != 404:
                raise
            return False

    def _must_be_here(self, level: str, resource: str) -> None:
        if not self._is_here(level, known_identifier(level, resource)):
            raise Refused(404, f"There is no {resource!r} among the {level}")

    def _catch_up(self, newest_at_start: int) -> bool:
        """Look at one series that waits for it; whether there was one."""
        if not (waiting := self._ledger.rows("SELECT series, anew FROM todo LIMIT 1")):
            return False
        series, anew = waiting[0]["series"], waiting[0]["anew"]
        row = self._ledger.rows(
            "SELECT found, entries FROM series LEFT JOIN lists ON number=looked WHERE series=?", series
        )
        found_before, list_before = (row[0]["found"], row[0]["entries"]) if row else ("{}", None)
        done = {*json.loads(found_before), *json.loads(list_before if list_before and not anew else "[]")}
        missing = {key: entry for key, entry in self._wanted.entries.items() if entry.text not in done}
        values: dict[str, Any] = {}
        for instance in self._instances_of(series) if missing else []:
            if self._stopping.is_set():
                return True
            if self._taken:
                self._arrivals(newest_at_start)
            _, found = self._read(instance, Wanted([entry for key, entry in missing.items() if key not in values]))
            values |= found
            if len(values) == len(missing):
                break
        with self._ledger.transaction():
            self._add(series, values, self._list)
            self._ledger.run("DELETE FROM todo WHERE series=?", series)
        return True

    def _instances_of(self, series: str) -> list[str]:
        try:
            return list(self._loopback.get(f"/series/{series}")["Instances"])
        except LoopbackError as error:
            if error.status != 404:
                raise
            return []

    # Routes

    @takes(OF_PAGES)
    def series(self, request: Request) -> Any:
        """All series with their private tags; `?limit=`, `?since=`, `?short`, `?instances=true`."""
        return self._list_of("", "", page_of(request.parameters))

    @takes(OF_PAGES)
    def series_of_study(self, request: Request) -> Any:
        """The same of one study."""
        return self._list_of("Study", request.groups[0], page_of(request.parameters))

    @takes(OF_PAGES)
    def series_of_patient(self, request: Request) -> Any:
        """The same of one patient."""
        return self._list_of("Patient", request.groups[0], page_of(request.parameters))

    @takes(OF_PAGES)
    def one_series(self, request: Request) -> Any:
        """One series with its private tags; `?short`, `?instances=true`."""
        page, series = page_of(request.parameters), request.groups[0]
        with self._listing():
            self._must_be_here("series", series)
            found = self._loopback.get(f"/series/{series}{'?short' if page.short else ''}")
            metadata = self._loopback.get(f"/series/{series}/metadata?expand")
        return with_tags(found, decoded_values(metadata.get(self._metadata)), page.instances)

    @contextlib.contextmanager
    def _listing(self) -> Iterator[None]:
        # Each holds one of Orthanc's HTTP threads, and needs another.
        if not self._listings.acquire(timeout=5):
            raise Refused(503, "Too many lists are asked for at once; try again in a second")
        try:
            yield
        except LoopbackError as error:
            if error.status in (400, 404):  # 1.10.1: of what is here at another level
                raise Refused(404, "There is nothing by this identifier at this level") from None
            raise Refused(503, f"Orthanc could not give the list: {one_line(error)}") from None
        finally:
            self._listings.release()

    def _list_of(self, parent: str, resource: str, page: Page) -> Answer:
        level = {"Study": "studies", "Patient": "patients"}.get(parent, "")
        with self._listing():
            if parent:
                self._must_be_here(level, resource)
            content = (self._found_list if self._loopback.finds_more else self._expanded_list)(parent, resource, page)
        return Answer(content, mime="application/json")

    def _found_list(self, parent: str, resource: str, page: Page) -> bytes:
        """One question that gives the metadata with the series (Orthanc 1.12.5 and later)."""
        query: dict[str, Any] = {"Level": "Series", "Query": {}, "Short": page.short, "Since": page.since}
        query["ResponseContent"] = [*FIELDS, *(["Children"] if page.instances else [])]
        query |= {f"Parent{parent}": resource} if parent else {}
        query |= {"Limit": page.limit} if page.limit is not None else {}
        _, listing = self._loopback.exchange("POST", "/tools/find", query)
        return found_with_tags(listing, self._metadata)

    def _expanded_list(self, parent: str, resource: str, page: Page) -> bytes:
        """Orthanc's own list and the metadata of each; for a list of all, which that would slow down, what the ledger knows."""
        short = "&short" if page.short else ""
        if parent:
            level = {"Study": "studies", "Patient": "patients"}[parent]
            found = self._loopback.get(f"/{level}/{resource}/series?expand{short}")[page.since :][: page.limit]
        else:
            limits = f"&since={page.since}&limit={page.limit or 10**9}" if page.limit is not None or page.since else ""
            _, listing = self._loopback.exchange("GET", f"/series?expand{short}{limits}")
            if page.limit is None and self._settings.reconcile and self._settings.catch_up:  # else we don't know all
                content = spliced(listing, self._all_shown(), page.instances)
                if content is not None:
                    return content
            found = json.loads(listing)
        return json.dumps([with_tags(each, self._values_of(each["ID"]), page.instances) for each in found]).encode()

    def _values_of(self, series: str) -> dict[str, Any]:
        try:
            # Before Orthanc 1.12.5 it takes 0.02 ms in an archive of any size; since, up to some ms.
            metadata = json.loads(orthanc.RestApiGet(f"/series/{series}/metadata?expand"))
        except orthanc.OrthancException:
            return {}  # deleted meanwhile
        return decoded_values(metadata.get(self._metadata))

    def _all_shown(self) -> dict[bytes, bytes]:
        """The values of all series as JSON, by their identifiers; kept until something is written, if they are not too many."""
        writes, shown = self._writes, self._shown
        if shown[0] == writes:
            return shown[1]
        with self._ledger.transaction() as db:
            rows = db.execute("SELECT series, shown FROM series WHERE shown<>'{}'").fetchall()
        values = {row[0].encode(): row[1].encode() for row in rows}
        if len(values) <= REMEMBERED:
            self._shown = writes, values
        return values

    @takes(dict.fromkeys(("Patient", "Study", "Series"), Text()))
    def reconstruct(self, request: Request) -> dict[str, int]:
        """Looks at the series of a `Patient`, `Study` or `Series` anew, or at all; answers how many."""
        asked = request.parameters
        if len(asked) > 1:
            raise Refused(400, "Give one of Patient, Study and Series, an Orthanc identifier, or none for all")
        with self._listing():
            series = self._series_to_reconstruct(asked)
        with self._ledger.transaction() as db:
            rows = [(each,) for each in series]
            db.executemany("UPDATE series SET looked=NULL, found='{}' WHERE series=?", rows)
            db.executemany("INSERT OR REPLACE INTO todo VALUES(?,1)", rows)
            self._count_todo()
        self._wake.set()
        return {"Series": len(series)}

    def _series_to_reconstruct(self, asked: Mapping[str, str]) -> list[str]:
        if not asked:
            return list(self._loopback.get("/series"))
        ((parent, resource),) = asked.items()
        level = {"Patient": "patients", "Study": "studies", "Series": "series"}[parent]
        self._must_be_here(level, resource)
        if parent == "Series":
            return [resource]
        return [each["ID"] for each in self._loopback.get(f"/{level}/{resource}/series")]

    def status(self, _request: Request) -> dict[str, Any]:
        """Whether it runs, which tags it keeps, of how many series, and how far it has caught up."""
        count = self._ledger.rows("SELECT (SELECT COUNT(*) FROM series) series, (SELECT COUNT(*) FROM todo) todo")[0]
        total = max(self._ledger.number("total"), count["todo"])
        return {
            "Status": "running",
            "Version": __version__,
            "Tags": [("!!" if entry.exists_only else "") + key for key, entry in self._wanted.entries.items()],
            "Series": count["series"],
            "Arriving": len(self._taken),
            "CatchUp": {"Total": total, "Done": total - count["todo"], "Running": count["todo"] > 0},
        }


def known_identifier(level: str, text: str) -> str:
    """An Orthanc identifier. Raises `Refused` (404): it can't be one."""
    if not re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{8}){4}", text):
        raise Refused(404, f"There is no {one_line(text)[:60]!r} among the {level}")
    return text


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings, wanted, metadata = None, Settings(), Wanted([]), ""
    section = configuration.get(SECTION)
    try:
        section = {"Tags": section} if isinstance(section, list) else section
        settings = read_settings(Settings, SECTION, {**configuration, SECTION: section})
        wanted = Wanted([parse_entry(text, configuration.get("Dictionary") or {}) for text in settings.tags])
        metadata, hint = user_number(configuration, "UserMetadata", METADATA, METADATA_NUMBER)
        if hint:
            orthanc.LogWarning(f"series_private_tags: {hint}")
        if not wanted.entries:
            refusal = f'series_private_tags stays idle: "{SECTION}" names no tags'
            orthanc.LogWarning(refusal)
    except SettingsError as error:
        refusal = f"{error}. series_private_tags is idle until this is corrected."
        orthanc.LogError(refusal)
    private_tags = PrivateTags(settings, wanted, metadata, configuration)

    def unavailable() -> str | None:
        return refusal or private_tags.worker.why_not()

    serve("/with-private-tags/series", {"GET": private_tags.series}, unavailable)
    serve("/with-private-tags/series/([^/]+)", {"GET": private_tags.one_series}, unavailable)
    serve("/with-private-tags/studies/([^/]+)/series", {"GET": private_tags.series_of_study}, unavailable)
    serve("/with-private-tags/patients/([^/]+)/series", {"GET": private_tags.series_of_patient}, unavailable)
    serve("/with-private-tags/status", {"GET": private_tags.status}, unavailable)
    serve("/with-private-tags/reconstruct", {"POST": private_tags.reconstruct}, unavailable)
    if refusal is None:
        KEPT_ALIVE.extend((private_tags.on_stored, private_tags.on_change))
        orthanc.RegisterOnStoredInstanceCallback(KEPT_ALIVE[-2])
        orthanc.RegisterOnChangeCallback(KEPT_ALIVE[-1])


register()
