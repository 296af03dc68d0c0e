# SPDX-License-Identifier: AGPL-3.0-or-later
"""De-identifies stable series or studies by rules, sends the copies on, and takes what comes back to its patient.

UIDs and pseudonyms are made from a secret: the next series of a patient gets the same. What may show a face or a name in
its pixels, and what is no image, is held back; each copy is read again, and held back if it still tells who the patient is.

A smallest configuration (the secret has at least 32 characters; without one the script stays idle):

    "AnonymizeSeries": {
      "Secret": "${ANONYMIZE_SECRET}",
      "Recipes": {"ai": {"Modality": "AI", "DeleteCopy": true}},
      "Rules": [{"Level": "Series", "Query": {"Modality": "MR"}, "Destinations": ["ai"]}]
    }

To look at and to act on, with curl:

    POST /anonymize-series/{id}                   {"Recipe": "ai"}: a study or a series, whatever the rules say
    POST /anonymize-series/{id}/re-identify       what came back for a copy (with "ReIdentify": true)
    GET  /anonymize-series/status                 and /jobs?state=dead  /jobs/{id}  /held  /register?patient=
    POST /anonymize-series/jobs/{id}/retry        and DELETE /anonymize-series/jobs/{id}

Needs pydicom: pip install pydicom, or the image that the Dockerfile makes. All keys: docs/anonymize_series.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import encodings.idna  # noqa: F401
import hashlib
import hmac
import io
import json
import re
import sqlite3
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orthanc

try:
    import pydicom
    import pydicom.datadict
except ImportError:
    pydicom = None

from common.answers import KEPT_ALIVE, Refused, Request, one_line, serve, warn_if_open
from common.arrivals import Arrivals
from common.feed import FEED_TABLES, PLURALS, Feed
from common.identifiers import orthanc_identifier
from common.inbox import Inbox
from common.ledger import STATES, Ledger
from common.loopback import Loopback, LoopbackError
from common.parameters import PAGE_PARAMETERS, OneOf, Text, row_number, takes
from common.settings import SettingsError, read_settings
from common.state import configuration_folder, state_folder
from common.worker import Worker
from forwarding.peers import Peers
from forwarding.routing import Batch, Router, load_matcher
from forwarding.rules import UID_TAG, Origin, Rule, has_origin, wrong_with

__version__ = "0.1.0"

SECTION = "AnonymizeSeries"
NAME = "anonymize-series"
SHORTEST_SECRET = 32  # characters
SHORTEST_TOLD = 4  # characters of a value that is looked for everywhere in a copy
SOON, TICK = 1.0, 5.0  # seconds between looks: while something waits, and when nothing does
MISSING = f"{NAME} stays idle: it needs the Python package pydicom (pip install pydicom; the Dockerfile installs it)"
FROM_RULES, RE_IDENTIFY = "", "(re-identify)"  # queues of the ledger; the others are called like recipes
UNFINISHED = ("Pending", "Running", "Paused", "Retry")  # states of a job that may still send

# Both ways: of what was de-identified, and of the results that were taken back (so that no rule takes them again).
TABLES = """
CREATE TABLE IF NOT EXISTS uids(pseudonym TEXT PRIMARY KEY, original TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS studies(
    pseudonym TEXT PRIMARY KEY, original TEXT NOT NULL, patient TEXT NOT NULL, patient_pseudonym TEXT NOT NULL,
    tags TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS studies_by_patient ON studies(patient);
CREATE INDEX IF NOT EXISTS studies_by_original ON studies(original);
CREATE TABLE IF NOT EXISTS copies(
    instance TEXT NOT NULL, original TEXT NOT NULL, recipe TEXT NOT NULL, PRIMARY KEY(instance, original)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results(uid TEXT PRIMARY KEY, came_as TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held(
    number INTEGER PRIMARY KEY, instance TEXT NOT NULL, recipe TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL,
    UNIQUE(instance, recipe));
"""

# Secondary capture and ultrasound write names into pixels; where BurnedInAnnotation does not say NO, that must be assumed.
# Photographs and endoscopy show faces.
PRONE_TO_BURN_IN = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(7(\.\d)?|[36](\.\d)?|77\.1\.[14](\.1)?)")
# Values of the same tag must differ; those of IDENTIFIERS stand nowhere else either. Of VR PN, UI, DA and DT: all (PS3.15 E.1).
IDENTIFIERS = frozenset(
    """PatientID OtherPatientIDs AccessionNumber StudyID AdmissionID IssuerOfPatientID DeviceSerialNumber PlateID CassetteID
    GantryID DetectorID GeneratorID RequestedProcedureID ScheduledProcedureStepID PerformedProcedureStepID
    PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest MedicalRecordLocator
    PatientTelephoneNumbers PatientTelecomInformation PersonTelephoneNumbers ServiceEpisodeID DeviceUID SpecimenIdentifier
    ContainerIdentifier IssuerOfServiceEpisodeID ClinicalTrialSubjectID ClinicalTrialSubjectReadingID RegionOfResidence
    MilitaryRank""".split()  # noqa: SIM905
)
IDENTIFYING = IDENTIFIERS | frozenset(
    """PatientAddress PatientComments AdditionalPatientHistory EthnicGroup Occupation PatientReligiousPreference
    InstitutionName InstitutionAddress InstitutionalDepartmentName StationName CountryOfResidence PatientMotherBirthName
    ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers PersonAddress RequestAttributesComments StudyComments
    ImageComments VisitComments CurrentPatientLocation PatientInstitutionResidence AdmittingDiagnosesDescription
    PerformedStationName ScheduledStationName PerformedLocation ScheduledStationAETitle PerformedStationAETitle
    ResponsibleOrganization""".split()  # noqa: SIM905
)
LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # of pseudonyms: no word is made of these, and no number
NAMES_OF_THE_STANDARD = "1.2.840.10008."  # UIDs of SOP classes, transfer syntaxes, …: the same everywhere
NO_INSTANCES = re.compile("(SOPClass|TransferSyntax|ContextGroup|Mapping|CodingScheme|ImplementationClass).*UID")
# What a study hands on to what is taken back to it (PS3.3 C.7.1.1, C.7.2.1).
STUDY_TAGS = (
    *(
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
    ),
    *("StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription", "SpecificCharacterSet"),
)
KEPT_OF_META = (0x0000, 0x0001, 0x0002, 0x0003, 0x0010, 0x0012, 0x0013)  # others name a sender (PS3.10 7.1)
TOLD_OF_ANONYMIZATION = ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence")


def wrong_secret(secret: str | None) -> str | None:
    """What is allowed, if this is none."""
    return None if secret is None or len(secret) >= SHORTEST_SECRET else f"at least {SHORTEST_SECRET} characters"


@dataclasses.dataclass(frozen=True)
class Retry:
    """When what failed is tried again."""

    first: float = dataclasses.field(default=30, metadata={"minimum": 1, "help": "Seconds until the second attempt."})
    longest: float = dataclasses.field(
        default=3600, metadata={"minimum": 1, "help": "Most seconds between two attempts."}
    )
    give_up_hours: float = dataclasses.field(
        default=72, metadata={"minimum": 0, "help": "Hours after which it is `dead`."}
    )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How something is de-identified, and where the copy goes."""

    keep: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "Tags that stay, by keyword or `gggg,eeee`; they are not looked at afterwards."}
    )
    replace: dict[str, str] = dataclasses.field(default_factory=dict, metadata={"help": "Tags that get another value."})
    remove: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "Tags that go, besides those of the profile."}
    )
    keep_private_tags: bool = dataclasses.field(default=False, metadata={"help": "Private tags stay."})
    dicom_version: str | None = dataclasses.field(
        default=None, metadata={"help": "Of PS3.15 whose profile Orthanc follows (`2021b`, …); null: its newest."}
    )
    allow_burned_in: bool = dataclasses.field(
        default=False, metadata={"help": "Also images that may show names or faces in their pixels."}
    )
    allow_non_images: bool = dataclasses.field(default=False, metadata={"help": "Also reports, documents, plans, …"})
    modality: str | None = dataclasses.field(default=None, metadata={"help": "The copy goes to this DICOM node."})
    peer: str | None = dataclasses.field(default=None, metadata={"help": "The copy goes to this Orthanc."})
    stow: str | None = dataclasses.field(
        default=None, metadata={"help": "The copy goes to this server of the DICOMweb plugin."}
    )
    delete_copy: bool = dataclasses.field(
        default=False, metadata={"help": "Delete the copy when it has arrived there."}
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AnonymizeSeries`."""

    secret: str | None = dataclasses.field(
        default=None,
        metadata={
            "secret": True,
            "check": wrong_secret,
            "help": "Of UIDs and pseudonyms, at least 32 characters. Keep it: with another one, everything gets others.",
        },
    )
    recipes: dict[str, Recipe] = dataclasses.field(
        default_factory=dict, metadata={"help": "By name: how, and where to (below)."}
    )
    rules: tuple[Rule, ...] = dataclasses.field(
        default=(), metadata={"help": "What is de-identified by itself; `Destinations` are names of recipes."}
    )
    rule_mode: str = dataclasses.field(
        default="first",
        metadata={"choices": ("first", "all"), "help": "The first rule that matches decides, or all do."},
    )
    pseudonym_prefix: str = dataclasses.field(
        default="ANON-", metadata={"help": "What PatientID and PatientName of copies begin with."}
    )
    re_identify: bool = dataclasses.field(
        default=False, metadata={"help": "Whether results may be taken back, and the register be read over HTTP."}
    )
    results: Origin | None = dataclasses.field(
        default=None,
        metadata={"help": "Origin of results that are taken back by themselves, when their series is stable."},
    )
    delete_results: bool = dataclasses.field(
        default=False, metadata={"help": "Delete a result as it came, when it is in the original study."}
    )
    retry: Retry = dataclasses.field(default=Retry(), metadata={"help": "When what failed is tried again."})
    reconcile: bool = dataclasses.field(
        default=True, metadata={"help": "False in all but one of several Orthancs that share a database."}
    )
    durability: str = dataclasses.field(
        default="normal",
        metadata={"choices": ("normal", "full"), "help": "`full`: the register also survives the loss of power."},
    )
    state_path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the register; null: `IndexDirectory`, else `StorageDirectory`."}
    )
    keep_done_days: float = dataclasses.field(
        default=30, metadata={"minimum": 0, "help": "Days that finished work stays in the list."}
    )


def wrong_with_settings(settings: Settings, configuration: Mapping[str, Any]) -> str | None:
    """What is wrong beyond types, by its key."""
    extra = [tag for tags in (configuration.get("ExtraMainDicomTags") or {}).values() for tag in tags]
    for number, rule in enumerate(settings.rules):
        if complaint := wrong_with(rule, extra):
            return f"Rules[{number}].{complaint}"
        if rule.level == "Patient":
            return f'Rules[{number}].Level: found "Patient", allowed: "Study", "Series"'
        if unknown := [name for name in rule.destinations or () if name not in settings.recipes]:
            return f"Rules[{number}].Destinations: found {json.dumps(unknown[0])}, allowed: {_names(settings.recipes)}"
        if not settings.recipes:
            return f"Recipes: found none, allowed: at least one, for Rules[{number}]"
    for name, recipe in settings.recipes.items():
        if not name or name == RE_IDENTIFY:
            return f"Recipes: found {json.dumps(name)}, allowed: another name"
        if len(places := [each for each in (recipe.modality, recipe.peer, recipe.stow) if each is not None]) > 1:
            return f"Recipes.{name}: found {' and '.join(places)}, allowed: one of Modality, Peer, Stow"
        if recipe.delete_copy and not places:
            return f"Recipes.{name}.DeleteCopy: found true, allowed: only with Modality, Peer or Stow"
        for key, tags in (("Keep", recipe.keep), ("Remove", recipe.remove), ("Replace", recipe.replace)):
            if wrong := [tag for tag in tags if tag_number(tag) is None]:
                return f"Recipes.{name}.{key}: found {json.dumps(wrong[0])}, allowed: DICOM keywords, or gggg,eeee"
        if wrong := [tag for tag, value in recipe.replace.items() if not isinstance(value, str)]:
            return f"Recipes.{name}.Replace.{wrong[0]}: found {json.dumps(recipe.replace[wrong[0]])}, allowed: a text"
        if ours := [
            tag for tag in (*recipe.keep, *recipe.replace) if tag in ("PatientID", "PatientName") or _is_uid(tag)
        ]:
            return (
                f"Recipes.{name}: found {ours[0]}, allowed: no UID, no PatientID, no PatientName: the script makes them"
            )
    if settings.results == Origin():
        return "Results: found no condition, allowed: at least one (RemoteAET, CalledAET, RemoteIP, Method, User)"
    if settings.results is not None and not settings.re_identify:
        return 'ReIdentify: found false, allowed: true, with "Results"'
    return None


def _names(recipes: Iterable[str]) -> str:
    return ", ".join(map(json.dumps, recipes)) or "none, for there are no Recipes"


def tag_number(text: str) -> int | None:
    """The number of a tag by its keyword, or as gggg,eeee; None if it is none."""
    if found := re.fullmatch("([0-9A-Fa-f]{4})[,-]?([0-9A-Fa-f]{4})", text):
        return int(found[1] + found[2], 16)
    number = pydicom.datadict.tag_for_keyword(text) if pydicom else 0
    return None if number is None else int(number)


def _is_uid(tag: str) -> bool:
    number = tag_number(tag)
    with contextlib.suppress(KeyError):
        return bool(pydicom and number and pydicom.datadict.dictionary_VR(number) == "UI")
    return False


# De-identifying


class Pseudonyms:
    """UIDs and patients' identifiers that only the secret can make, the same each time (HMAC-SHA256)."""

    def __init__(self, secret: str, prefix: str) -> None:
        self._secret, self._prefix = secret.encode(), prefix

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.new(self._secret, f"{kind}\0{value}".encode(), hashlib.sha256).digest()

    def uid(self, original: str, kind: str = "uid") -> str:
        """A UID of 2.25 and a UUID of version 8 as a decimal number (PS3.5 B.2)."""
        number = int.from_bytes(self._digest(kind, original)[:16])
        number = number & ~(0xF << 76) | 0x8 << 76
        return f"2.25.{number & ~(0x3 << 62) | 0x2 << 62}"

    def patient(self, patient: str, study_uid: str) -> str:
        """Of a PatientID; a patient without one is another in each study."""
        digest = self._digest("patient", patient) if patient else self._digest("no patient", study_uid)
        return self._prefix + "".join(LETTERS[byte % len(LETTERS)] for byte in digest[:16])


def text_of(dataset: Any, keyword: str) -> str:
    """A value as text, "" if it is not there."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def why_held(dataset: Any, recipe: Recipe) -> str | None:
    """Why an image is not for this recipe, before anything is made of it."""
    is_image = "Rows" in dataset and any(tag in dataset for tag in (0x7FE00008, 0x7FE00009, 0x7FE00010))
    if not is_image and not recipe.allow_non_images:
        return "it is no image, and may hold names as text"
    if recipe.allow_burned_in or not is_image:
        return None
    burned, sop_class = text_of(dataset, "BurnedInAnnotation").upper(), text_of(dataset, "SOPClassUID")
    if burned == "YES":
        return "BurnedInAnnotation is YES"
    if text_of(dataset, "RecognizableVisualFeatures").upper() == "YES":
        return "RecognizableVisualFeatures is YES"
    if burned != "NO" and PRONE_TO_BURN_IN.fullmatch(sop_class):
        return "BurnedInAnnotation does not say NO, and images of this kind often show names, or faces"
    return None


def is_uid_of_ours(element: Any, value: str) -> bool:
    """Whether a UID names an instance of something, and not what the standard or a maker calls a kind of things."""
    return bool(value) and not value.startswith(NAMES_OF_THE_STANDARD) and not NO_INSTANCES.search(element.keyword)


def elements_of(dataset: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Each element, in sequences too: where it stands, the data set that holds it, itself."""
    for element in dataset:
        yield (*path, int(element.tag)), dataset, element
        if element.VR == "SQ":
            for number, item in enumerate(element.value or ()):
                yield from elements_of(item, (*path, int(element.tag), number))


def values_of(element: Any) -> list[str]:
    """The values of an element as texts."""
    value = element.value
    if value is None or element.VR == "SQ" or isinstance(value, bytes):
        return []
    if isinstance(value, str) or not hasattr(value, "__iter__") or (element.VR == "PN" and element.VM <= 1):
        return [str(value)]
    return [str(each) for each in value]


def map_uids(dataset: Any, change: Callable[[Any, str], str], original: Any = None) -> None:
    """Replace the UIDs that name instances: by what `change` makes of that which stands there, or there in the original."""
    before = {path: element for path, _, element in elements_of(original)} if original is not None else None
    for path, holder, element in list(elements_of(dataset)):
        source = element if before is None else before.get(path)
        if element.VR != "UI" or source is None:
            continue
        new = [change(source, value) if is_uid_of_ours(source, value) else value for value in values_of(source)]
        if len(values_of(element)) or before is None:
            holder[element.tag].value = new if len(new) != 1 else new[0]


def identifying(dataset: Any, kept: frozenset[int]) -> tuple[dict[int, set[str]], dict[str, str]]:
    """What must not stay: values by tag, and values that must not stand anywhere, each with what it is."""
    by_tag: dict[int, set[str]] = {}
    anywhere: dict[str, str] = {}
    for _, _, element in elements_of(dataset):
        if int(element.tag) in kept:
            continue
        told = element.VR in ("PN", "DA", "DT") or element.keyword in IDENTIFIERS
        for value in map(str.strip, values_of(element)):
            is_uid = element.VR == "UI" and is_uid_of_ours(element, value)
            if value and (told or is_uid or element.keyword in IDENTIFYING):
                by_tag.setdefault(int(element.tag), set()).add(value)
            if told or is_uid:
                parts = [value, *re.split(r"[\^=\s]+", value)] if element.VR == "PN" else [value]
                parts += [value[:8]] if element.VR == "DT" else []
                anywhere |= {part.lower(): element.keyword for part in parts if len(part) >= SHORTEST_TOLD}
    return by_tag, anywhere


def what_remains(copy: Any, original: Any, kept: frozenset[int]) -> str | None:
    """The first tag of a copy that still tells who it is: the keyword alone, never the value."""
    by_tag, anywhere = identifying(original, kept)
    needles = {text: (keyword, text.encode()) for text, keyword in anywhere.items()}
    for _, _, element in elements_of(copy):
        if int(element.tag) in kept or element.tag.group == 0x7FE0:
            continue
        name = element.keyword or f"{element.tag}"
        values = [value.strip() for value in values_of(element)]
        if set(values) & by_tag.get(int(element.tag), set()):
            return f"{name} has the value of the original"
        if element.VR in ("DS", "IS", "TM", "AS", "UI", "CS") or element.keyword in ("PatientID", "PatientName"):
            if found := anywhere.keys() & {value.lower() for value in values}:
                return f"{name} has the value of {anywhere[found.pop()]} of the original"
            continue  # numbers, defined terms, and what we have made: they hold parts of others by chance
        text = "\\".join(values).lower() if values else ""
        data = element.value.lower() if isinstance(element.value, bytes) else b""
        for needle, (keyword, encoded) in needles.items():
            if needle in text or encoded in data:
                return f"{name} holds the {keyword} of the original"
    return None


class Copy(NamedTuple):
    """A de-identified instance: its file, its Orthanc identifier, and the UIDs of it by those of the original."""

    content: bytes
    instance: str
    uids: dict[str, str]


def de_identified(made: bytes, original: Any, recipe: Recipe, pseudonyms: Pseudonyms) -> Copy | str:
    """What Orthanc's anonymization made, with the UIDs and the patient that it shall have; or why it is held back."""
    copy = pydicom.dcmread(io.BytesIO(made), force=True)
    uids: dict[str, str] = {}

    def change(_element: Any, value: str) -> str:
        return uids.setdefault(value, pseudonyms.uid(value))

    map_uids(copy, change, original)
    for tag in [tag for tag in copy.keys() if tag.group & 0xFF00 == 0x6000]:  # noqa: SIM118 - pydicom's is another
        del copy[tag]  # overlays may show names
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):  # a private root may look like a kind's
        value = text_of(original, keyword)
        setattr(copy, keyword, uids.setdefault(value, pseudonyms.uid(value)))
    copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    kept = frozenset(number for tag in (*recipe.keep, *recipe.replace) if (number := tag_number(tag)))
    by_tag, _ = identifying(original, kept)
    for _, holder, element in list(elements_of(copy)):
        # What the profile leaves: Orthanc's 1.10.1 leaves InstanceCreationDate, for one.
        if element.VR != "UI" and set(map(str.strip, values_of(element))) & by_tag.get(int(element.tag), set()):
            holder[element.tag].value = ""
    patient = pseudonyms.patient(text_of(original, "PatientID"), text_of(original, "StudyInstanceUID"))
    copy.PatientID = copy.PatientName = patient
    content = written(copy)
    if remains := what_remains(pydicom.dcmread(io.BytesIO(content)), original, kept):
        return remains
    identifiers = (patient, copy.StudyInstanceUID, copy.SeriesInstanceUID, copy.SOPInstanceUID)
    return Copy(content, orthanc_identifier(*map(str, identifiers)), uids)


def written(dataset: Any) -> bytes:
    """The file of a data set; its preamble is empty, for that can hold anything (PS3.10 7.1)."""
    dataset.preamble = b"\0" * 128
    for tag in [tag for tag in dataset.file_meta.keys() if tag.element not in KEPT_OF_META]:  # noqa: SIM118
        del dataset.file_meta[tag]
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


# The way back


def re_identified(
    content: bytes, study: Mapping[str, Any], original_of: Callable[[str], str | None], pseudonyms: Pseudonyms
) -> Any:
    """What came back, in the study that it is about: UIDs of copies become those of the originals, its own become others.

    `study` are the tags of the original study, as DICOM JSON; `original_of` is the register of UIDs.
    """
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    map_uids(dataset, lambda _, value: original_of(value) or pseudonyms.uid(value, "result"))
    original = pydicom.Dataset.from_json(dict(study))
    dataset.SpecificCharacterSet = "ISO_IR 192"  # of both: pydicom writes all texts anew
    for keyword in STUDY_TAGS[:-1]:
        if keyword in original:
            dataset[keyword] = original[keyword]
        elif keyword in dataset:
            del dataset[keyword]
    for keyword in TOLD_OF_ANONYMIZATION:
        if keyword in dataset:
            del dataset[keyword]
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


class Stopping(Exception):  # noqa: N818 - it is no fault
    """Orthanc ends: what is under way is done again from its beginning, which changes nothing."""


class Impossible(Exception):  # noqa: N818 - it is an answer
    """Trying again changes nothing, with the reason."""


class Anonymizer:
    """Takes what is stable, and works its rows off one after the other, in one thread.

    Each step leaves the same behind if it is done twice: identifiers are the same each time.
    """

    def __init__(self, settings: Settings, configuration: Mapping[str, Any]) -> None:
        self.settings, self._configuration = settings, configuration
        self._loopback, self._arrivals = Loopback(configuration), Arrivals(digests=False)
        self._peers = Peers(configuration, self._loopback)
        self._pseudonyms = Pseudonyms(settings.secret or "", settings.pseudonym_prefix)
        self.worker = Worker(NAME, self._open, self._turn, self._loopback.close)
        self._changed = threading.Event()
        self._inbox: Inbox[tuple[str, str]] = Inbox(lambda report: self._feed.hear(*report))
        self._begun, self._next_poll = False, 0.0
        names = (
            "ORTHANC_STARTED",
            "ORTHANC_STOPPED",
            "NEW_INSTANCE",
            "STABLE_SERIES",
            "STABLE_STUDY",
            "JOB_SUCCESS",
            "JOB_FAILURE",
        )
        self._events = {int(getattr(orthanc.ChangeType, name)): name for name in names}

    # What Orthanc tells: return at once

    def on_stored(self, dicom: Any, instance: str) -> None:
        self._arrivals.stored(dicom, instance)

    def on_change(self, change: int, _level: int, resource: str) -> None:
        event = self._events.get(change)
        if event == "ORTHANC_STARTED":
            self.worker.start()
        elif event == "ORTHANC_STOPPED":
            self.worker.stop()
        elif event is None or self.worker.is_off:
            return
        elif event.startswith("JOB_"):
            self.worker.wake.set()
        elif event == "NEW_INSTANCE":
            self._inbox.add(("NewInstance", resource))
        else:
            self._inbox.add((f"Stable{event.removeprefix('STABLE_').capitalize()}", resource))
            self._changed.set()
            self.worker.wake.set()

    def _open(self) -> Ledger:
        if not self._loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        matchers = {
            rule.matcher: load_matcher(rule.matcher, configuration_folder())
            for rule in self.settings.rules
            if rule.matcher
        }
        path = state_folder(self.settings.state_path, self._configuration) / "anonymize_series.sqlite"
        self.ledger = Ledger(path, FEED_TABLES + TABLES, durability=self.settings.durability)
        if self.ledger.moved:
            orthanc.LogError(
                f"{NAME}: the register {path} was corrupt and is kept as {self.ledger.moved}; "
                "what comes back for copies that were made before can't be taken back"
            )
        self.router = Router(self._loopback, self.settings.rules, self.settings.rule_mode == "first", matchers)
        levels = {rule.level for rule in self.settings.rules} | ({"Series"} if self.settings.results else set())
        self._feed = Feed(
            *(self.ledger, self._loopback, self._settled, sorted(levels)),
            *(float(self._configuration.get("StableAge", 60)), self.settings.reconcile, self._arrivals.parents),
        )
        self._inbox.open()
        return self.ledger

    # The one thread

    def _turn(self) -> float:
        try:
            if not self._begun:
                self._begin()
                self._begun = True
            if self.worker.is_off:
                return TICK
            self._inbox.flush()
            if self._changed.is_set() or time.monotonic() >= self._next_poll:
                self._changed.clear()
                self._feed.poll()
                self._next_poll = time.monotonic() + SOON
            for queue in (FROM_RULES, RE_IDENTIFY, *self.settings.recipes):
                self._work_off(queue)
            self._look_at_jobs()
            self.ledger.forget_finished(self.settings.keep_done_days)
        except Stopping:
            return 0.0
        except BaseException:
            # What was under way begins again, and what was to be taken in may be left.
            self._begun, self._next_poll = False, 0.0
            raise
        return SOON if self.ledger.queues("waiting") or self.ledger.queues("sending") else TICK

    def _begin(self) -> None:
        self._feed.begin()
        # What was under way when Orthanc ended, and is no job of Orthanc's, begins anew.
        self.ledger.run("UPDATE work SET state='waiting', next_attempt=0 WHERE state='sending' AND job IS NULL")
        if refused := self.router.check():
            self.worker.turn_off(f"{SECTION}.{refused}. {NAME} is idle until this is corrected.")

    def _settled(self, level: str, resource: str, instances: Mapping[str, int]) -> None:
        """It is stable: in the feed's transaction, a row that says what is to be looked at."""
        arrivals = [arrival for each in instances if (arrival := self._arrivals.get(each))]
        data = {
            "Level": level,
            "Instances": list(instances),
            "UID": arrivals[0].uids[level] if arrivals else "",
            "Origins": {each: dict(arrival.origin) for each in instances if (arrival := self._arrivals.get(each))},
        }
        self.ledger.add(FROM_RULES, resource, data)

    def _work_off(self, queue: str) -> None:
        while rows := self.ledger.due(queue, 10, self.settings.retry.longest):
            for row in rows:
                self._go_on()
                self.ledger.start(row["id"])
                row["attempts"] += 1
                try:
                    step = {FROM_RULES: self._route, RE_IDENTIFY: self._re_identify}.get(queue, self._anonymize)
                    step(row, json.loads(row["data"]))
                except Impossible as reason:
                    self._fail(row, str(reason), give_up=True)
                except LoopbackError as error:
                    if error.status == 0:
                        self.ledger.run("UPDATE work SET state='waiting' WHERE id=?", row["id"])
                        raise
                    self._fail(row, str(error))
                except (Stopping, sqlite3.Error, OSError):
                    raise
                except Exception as error:  # noqa: BLE001 - a file that pydicom can't read, a user's matcher
                    self._fail(row, f"{type(error).__name__} at {_where(error)}")

    def _go_on(self) -> None:
        if self.worker.stopping.is_set():
            raise Stopping

    def _fail(self, row: Mapping[str, Any], error: str, *, give_up: bool = False) -> None:
        retry = self.settings.retry
        hours = 0.0 if give_up else retry.give_up_hours
        state = self.ledger.fail(
            row["id"], one_line(error), first=retry.first, longest=retry.longest, give_up_after=hours * 3600 - give_up
        )
        text = f"{NAME}: {row['queue'] or 'applying the rules'} failed for {row['subject']}: {one_line(error)}"
        if state == "dead":
            orthanc.LogError(f"{text}. Given up; POST /{NAME}/jobs/{row['id']}/retry tries again")
        elif row["attempts"] <= 1:
            orthanc.LogWarning(f"{text}. It will be tried again")

    # Rules

    def _route(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Find out what is to be done with what has become stable: a row for each recipe, or one to take it back."""
        origins = dict(data["Origins"])
        resource, level, uid = row["subject"], data["Level"], data["UID"]
        still = set(self._feed._instances_of(level, resource))
        unknown = [each for each in data["Instances"] if each in still and each not in origins]
        if unknown:
            found = self._loopback.post("/tools/bulk-content", {"Resources": unknown, "Metadata": True})
            origins |= {each["ID"]: each.get("Metadata", {}) for each in found}
        here = tuple(each for each in data["Instances"] if each in still and each in origins)
        new: list[tuple[str, tuple[str, ...], int]] = []
        results = self._results(level, here, origins)
        if results:
            new.append((RE_IDENTIFY, results, 0))
        elif ours := tuple(
            each for each in here if not self.ledger.rows("SELECT 1 FROM copies WHERE instance=?", each)
        ):
            if not uid and any(rule.query for rule in self.settings.rules):
                uid = self._loopback.get(f"/{PLURALS[level]}/{resource}")["MainDicomTags"].get(UID_TAG[level], "")
            batch = Batch(level, resource, uid, ours, {each: origins[each] for each in ours})
            for verdict in self.router.verdicts(batch, list(self.settings.recipes), list(self.settings.recipes)):
                instances = ours if verdict.instances is None else verdict.instances
                new += [(recipe, instances, verdict.rule.priority) for recipe in verdict.destinations if instances]
        with self.ledger.transaction():
            for queue, instances, priority in new:
                self.ledger.add(queue, resource, {"Level": level, "Instances": list(instances)}, priority)
            self.ledger.run("DELETE FROM work WHERE id=?", row["id"])
        for each in data["Instances"]:
            self._arrivals.forget(each)

    def _results(
        self, level: str, instances: Sequence[str], origins: Mapping[str, Mapping[str, str]]
    ) -> tuple[str, ...]:
        """Those that came back for a copy, from where results come from."""
        if self.settings.results is None or level != "Series":
            return ()
        found = [each for each in instances if has_origin(self.settings.results, origins[each])]
        if not found:
            return ()
        study = self._loopback.get(f"/instances/{found[0]}/study")["MainDicomTags"]["StudyInstanceUID"]
        return tuple(found) if self._study(study) else ()

    # There

    def _anonymize(self, row: Mapping[str, Any], data: dict[str, Any]) -> None:
        """Make the copies, then send them: two steps, so that a destination that is away costs nothing."""
        recipe = self.settings.recipes[row["queue"]]
        if "Copies" not in data:
            counts = {"Held": 0, "Gone": 0, "Copy": 0}
            copies = []
            for instance in data["Instances"]:
                self._go_on()
                made = self._copy(instance, row["queue"], recipe)
                if made in counts:
                    counts[made] += 1
                else:
                    copies.append(made)
            data |= {"Copies": copies, "HeldBack": counts["Held"]}
            self.ledger.run("UPDATE work SET data=? WHERE id=?", json.dumps(data), row["id"])
        if data["Copies"] and recipe.peer is not None:
            why = self._peers.why_not(recipe.peer)
            self._go_on()
            if why:  # to Orthanc, any answer would be a success
                self._fail(row, why)
                return
        if data["Copies"] and (route := _destination(recipe)):
            try:
                job = self._loopback.post(route, {"Resources": data["Copies"], "Synchronous": False})
            except LoopbackError as error:
                if (
                    error.status == 404
                ):  # somebody has deleted a copy, or there is no such destination: make them anew then
                    self.ledger.run("UPDATE work SET data=json_remove(data, '$.Copies') WHERE id=?", row["id"])
                raise
            self.ledger.run("UPDATE work SET job=? WHERE id=?", job.get("ID") or Path(job["Path"]).name, row["id"])
        else:
            self.ledger.end(row["id"], "done")

    def _copy(self, instance: str, name: str, recipe: Recipe) -> str:
        """The Orthanc identifier of the copy of an instance; or `Gone`, `Held` or `Copy` (it is one itself)."""
        if (content := self._file(instance)) is None:
            return "Gone"
        original = pydicom.dcmread(io.BytesIO(content), force=True)
        uid = text_of(original, "SOPInstanceUID")
        if self._study(text_of(original, "StudyInstanceUID")) or self.ledger.rows(
            "SELECT 1 FROM results WHERE uid=?", uid
        ):
            return "Copy"
        made: Copy | str = why_held(original, recipe) or ""
        if not made:
            body = {"Keep": list(recipe.keep), "Replace": recipe.replace, "Remove": list(recipe.remove), "Force": True,
                    "KeepPrivateTags": recipe.keep_private_tags}  # fmt: skip
            if recipe.dicom_version:
                body["DicomVersion"] = recipe.dicom_version
            answer = self._loopback.exchange("POST", f"/instances/{instance}/anonymize", body)[1]
            made = de_identified(answer, original, recipe, self._pseudonyms)
        if isinstance(made, str):
            self._hold_back(instance, name, made)
            return "Held"
        self._register(original, made, instance, name)
        self._loopback.post("/instances", made.content)
        return made.instance

    def _file(self, instance: str) -> bytes | None:
        try:
            return self._loopback.exchange("GET", f"/instances/{instance}/file")[1]
        except LoopbackError as error:
            if error.status != 404:
                raise
            return None

    def _hold_back(self, instance: str, recipe: str, reason: str) -> None:
        sql = "INSERT OR REPLACE INTO held(instance, recipe, reason, at) VALUES(?,?,?,?)"
        self.ledger.run(sql, instance, recipe, reason, time.time())
        orthanc.LogWarning(f"{NAME}: instance {instance} is held back from {recipe}: {reason}")

    def _register(self, original: Any, copy: Copy, instance: str, recipe: str) -> None:
        """Write down what belongs together, before the copy is there."""
        study = pydicom.Dataset()
        for keyword in STUDY_TAGS:
            if keyword in original:
                study[keyword] = original[keyword]
        study_uid, patient = text_of(original, "StudyInstanceUID"), text_of(original, "PatientID")
        pseudonym = self._pseudonyms.patient(patient, study_uid)
        with self.ledger.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO uids VALUES(?,?)", ((new, old) for old, new in copy.uids.items()))
            values = (copy.uids[study_uid], study_uid, patient, pseudonym, study.to_json(suppress_invalid_tags=True))
            db.execute("INSERT OR IGNORE INTO studies VALUES(?,?,?,?,?)", values)
            db.execute("INSERT OR REPLACE INTO copies VALUES(?,?,?)", (copy.instance, instance, recipe))
            db.execute("DELETE FROM held WHERE instance=? AND recipe=?", (instance, recipe))

    def _look_at_jobs(self) -> None:
        """Settle the rows whose job has ended."""
        for row in self.ledger.rows("SELECT * FROM work WHERE state='sending' AND job IS NOT NULL"):
            try:
                job = self._loopback.get(f"/jobs/{row['job']}")
            except LoopbackError as error:
                if error.status != 404:
                    raise
                job = {"State": "Failure", "ErrorDescription": "Orthanc has forgotten the job"}
            data = json.loads(row["data"])
            if job["State"] in UNFINISHED:
                continue
            if why := why_not_all(job, data["Copies"]):
                self._fail(row, f"the job of sending failed: {why}")
            else:
                self._arrived(row, data)

    def _arrived(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        if self.settings.recipes.get(row["queue"], Recipe()).delete_copy:
            for instance in data["Copies"]:
                # Never anything but a copy that the register knows.
                if self.ledger.rows("SELECT 1 FROM copies WHERE instance=?", instance):
                    self._delete(instance)
        self.ledger.end(row["id"], "done")

    def _delete(self, instance: str) -> None:
        self.ledger.check()  # what can't be recorded is not done
        try:
            self._loopback.request("DELETE", f"/instances/{instance}")
        except LoopbackError as error:
            if error.status != 404:
                raise

    # And back

    def _study(self, pseudonym: str) -> dict[str, Any] | None:
        """What the register has of the study with this UID of a copy."""
        return next(iter(self.ledger.rows("SELECT * FROM studies WHERE pseudonym=?", pseudonym)), None)

    def _original_of(self, uid: str) -> str | None:
        return next(
            (row["original"] for row in self.ledger.rows("SELECT original FROM uids WHERE pseudonym=?", uid)), None
        )

    def _re_identify(self, row: Mapping[str, Any], data: dict[str, Any]) -> None:
        """Put each result into the original study, with the original's identity."""
        made: dict[str, str] = {}
        for instance in data["Instances"]:
            self._go_on()
            if (content := self._file(instance)) is None:
                continue
            came = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
            if self._original_of(text_of(came, "SOPInstanceUID")):
                continue  # a copy, maybe sent back: with its original's UID it might overwrite that
            if (study := self._study(text_of(came, "StudyInstanceUID"))) is None:
                raise Impossible(f"the register has no study of which instance {instance} would be a result")
            dataset = re_identified(content, json.loads(study["tags"]), self._original_of, self._pseudonyms)
            self.ledger.run("INSERT OR REPLACE INTO results VALUES(?,?)", str(dataset.SOPInstanceUID), instance)
            made[instance] = self._loopback.post("/instances", written(dataset))["ID"]
        data["Copies"] = list(made.values())
        self.ledger.run("UPDATE work SET data=? WHERE id=?", json.dumps(data), row["id"])
        for instance, result in made.items():
            if self.settings.delete_results and instance != result:
                self._loopback.get(f"/instances/{result}")  # raises, if a filter has refused it
                self._delete(instance)
        self.ledger.end(row["id"], "done")


def why_not_all(job: Mapping[str, Any], copies: Sequence[str]) -> str:
    """Why a job that has ended has not delivered all copies, or nothing.

    The DICOMweb plugin reads what a STOW-RS answer lists (PS3.18 10.5.3): unless ReferencedSOPSequence has as many items as
    were sent and FailedSOPSequence none, its job fails, and only its content says why.
    """
    content = job.get("Content") or {}
    if job["State"] != "Success":
        reasons = (content.get("FunctionErrorDetails"), job.get("ErrorDetails"), job.get("ErrorDescription"))
        return str(next((reason for reason in reasons if reason), job["State"]))
    sent, failed = int(content.get("InstancesCount", len(copies))), int(content.get("FailedInstancesCount", 0))
    if sent - failed < len(set(copies)):
        return f"it sent {sent - failed} of {len(set(copies))} copies"
    return ""


def _destination(recipe: Recipe) -> str | None:
    for base, name in (("/modalities/{}/store", recipe.modality), ("/peers/{}/store", recipe.peer),
                       ("/dicom-web/servers/{}/stow", recipe.stow)):  # fmt: skip
        if name is not None:
            return base.format(urllib.parse.quote(name, safe=""))
    return None


def _where(error: BaseException) -> str:
    """Where an error was raised: its text may hold a patient's data."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


# Routes


class Routes:
    """Handlers of `/anonymize-series/…`."""

    def __init__(self, anonymizer: Anonymizer) -> None:
        self._anonymizer = anonymizer

    def register(self, unavailable: Callable[[], str | None]) -> None:
        identifier = "([0-9a-f-]+)"
        routes: dict[str, dict[str, Callable[[Request], Any]]] = {
            "status": {"GET": self.status},
            "jobs": {"GET": self.work},
            "jobs/([0-9]+)": {"GET": self.one, "DELETE": self.drop},
            "jobs/([0-9]+)/retry": {"POST": self.retry},
            "held": {"GET": self.held},
            "register": {"GET": self.entries},
            identifier: {"POST": self.anonymize},
            f"{identifier}/re-identify": {"POST": self.re_identify},
        }
        for pattern, handlers in routes.items():
            serve(f"/{NAME}/{pattern}", handlers, unavailable)

    def status(self, _request: Request) -> dict[str, Any]:
        """Whether it runs, and how much work is in which state, held back, and in the register."""
        ledger = self._anonymizer.ledger
        count = {
            name: ledger.rows(f"SELECT COUNT(*) n FROM {name}")[0]["n"]
            for name in ("held", "copies", "studies", "results")
        }
        return {
            "State": "running",
            "Work": ledger.totals(),
            **{name.capitalize(): number for name, number in count.items()},
            "Recipes": list(self._anonymizer.settings.recipes),
            "Error": self._anonymizer.worker.trouble.text,
        }

    @takes({**PAGE_PARAMETERS, "state": OneOf(choices=STATES)})
    def work(self, request: Request) -> dict[str, Any]:
        """What was, is or will be done: `?state=`, `?since=`, `?limit=`."""
        state = request.parameters.get("state")
        where, values = ("state=?", (state,)) if state else ("queue<>''", ())
        return self._page(request, "work", "id", where, values, _shown)

    def one(self, request: Request) -> dict[str, Any]:
        """One piece of work: its state, what was made, its last error."""
        return _shown(self._row(request))

    def drop(self, request: Request) -> dict[str, Any]:
        """Give a piece of work up that waits or is dead."""
        row = self._row(request)
        if not self._anonymizer.ledger.run("DELETE FROM work WHERE id=? AND state<>'sending'", row["id"]):
            raise Refused(409, "It is being done just now")
        return {}

    def retry(self, request: Request) -> dict[str, Any]:
        """Try a piece of work again that is dead or waits."""
        row = self._row(request)
        sql = "UPDATE work SET state='waiting', next_attempt=0, created=? WHERE id=? AND state IN ('dead','waiting')"
        if not self._anonymizer.ledger.run(sql, time.time(), row["id"]):
            raise Refused(409, f"It is {row['state']}")
        self._anonymizer.worker.wake.set()
        return {}

    @takes(PAGE_PARAMETERS)
    def held(self, request: Request) -> dict[str, Any]:
        """The instances that were held back, each with the reason: `?since=`, `?limit=`."""
        return self._page(request, "held", "number", "1", (), lambda row: {
            "ID": row["number"], "Instance": row["instance"], "Recipe": row["recipe"], "Reason": row["reason"],
            "At": _time(row["at"])})  # fmt: skip

    @takes(dict.fromkeys(("patient", "study", "pseudonym"), Text()))
    def entries(self, request: Request) -> dict[str, Any]:
        """Which copy is whose, both ways (with `ReIdentify`): `?patient=`, `?study=`, `?pseudonym=` of either."""
        self._must_re_identify()
        named = {"patient": "patient", "study": "original", "pseudonym": "pseudonym"}
        if len(request.parameters) != 1:
            raise Refused(400, "allowed: one of patient, study, pseudonym")
        [(name, value)] = request.parameters.items()
        where = "pseudonym=?1 OR patient_pseudonym=?1" if name == "pseudonym" else f"{named[name]}=?1"
        rows = self._anonymizer.ledger.rows(f"SELECT * FROM studies WHERE {where} LIMIT 1000", value)
        items = [{"PatientID": row["patient"], "Pseudonym": row["patient_pseudonym"], "StudyInstanceUID": row["original"],
                  "PseudonymStudyInstanceUID": row["pseudonym"]} for row in rows]  # fmt: skip
        return {"Total": len(items), "Items": items, "Next": None}

    @takes({"Recipe": Text()})
    def anonymize(self, request: Request) -> dict[str, Any]:
        """De-identify a study or a series by a `Recipe`, whatever the rules say; answers the work."""
        recipes = self._anonymizer.settings.recipes
        recipe = request.parameters.get("Recipe", next(iter(recipes)) if len(recipes) == 1 else None)
        if recipe not in recipes:
            raise Refused(400, f"Recipe is {json.dumps(recipe)[:60]}, allowed: {_names(recipes)}")
        return self._add(request, recipe)

    def re_identify(self, request: Request) -> dict[str, Any]:
        """Take a result (a study, series or instance) back to the original study; answers the work."""
        self._must_re_identify()
        return self._add(request, RE_IDENTIFY)

    def _must_re_identify(self) -> None:
        if not self._anonymizer.settings.re_identify:
            raise Refused(403, f"{SECTION}.ReIdentify is false: nobody is told whose a copy is")

    def _add(self, request: Request, queue: str) -> dict[str, Any]:
        resource, loopback = request.groups[0], self._anonymizer._loopback
        for level in ("Study", "Series", "Instance"):
            try:
                path = f"/{PLURALS.get(level, 'instances')}/{resource}"
                found = loopback.get(path)  # of another level, 1.10.1 answers 400 to …/instances
                if level != "Instance":
                    found = loopback.get(f"{path}/instances?expand=false")
            except LoopbackError as error:
                if error.status != 404:
                    raise Refused(503, f"Orthanc does not answer: {error}") from None
                continue
            found = found if isinstance(found, list) else [found]
            instances = [each if isinstance(each, str) else each["ID"] for each in found]
            if not instances:
                break
            if queue == RE_IDENTIFY:
                uid = loopback.get(f"/instances/{instances[0]}/study")["MainDicomTags"].get("StudyInstanceUID", "")
                if self._anonymizer._study(uid) is None:
                    raise Refused(409, "The register knows no original of its study")
            row = self._anonymizer.ledger.add(queue, resource, {"Level": level, "Instances": instances}, 1)
            self._anonymizer.worker.wake.set()
            return {"ID": row, "Path": f"/{NAME}/jobs/{row}", "Instances": len(instances)}
        raise Refused(404, f"There is no study, series or instance {resource}")

    def _row(self, request: Request) -> dict[str, Any]:
        rows = self._anonymizer.ledger.rows("SELECT * FROM work WHERE id=?", row_number(request.groups[0]))
        if not rows:
            raise Refused(404, f"There is no work {request.groups[0][:20]}")
        return rows[0]

    def _page(self, request: Request, table: str, key: str, where: str, values: Sequence[Any],
              shown: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:  # fmt: skip
        ledger = self._anonymizer.ledger
        since, limit = request.parameters.get("since", 0), request.parameters.get("limit", 100)
        total = ledger.rows(f"SELECT COUNT(*) n FROM {table} WHERE {where}", *values)[0]["n"]
        sql = f"SELECT * FROM {table} WHERE {where} AND {key}>? ORDER BY {key} LIMIT ?"
        items = [shown(row) for row in ledger.rows(sql, *values, since, limit + 1)]
        return {"Total": total, "Items": items[:limit], "Next": items[limit - 1]["ID"] if len(items) > limit else None}


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    data = json.loads(row["data"])
    return {
        "ID": row["id"],
        "What": row["queue"],
        "Resource": row["subject"],
        "State": row["state"],
        "Attempts": row["attempts"],
        "Instances": len(data["Instances"]),
        "Copies": data.get("Copies"),
        "HeldBack": data.get("HeldBack", 0),
        "Error": row["error"],
        "Created": _time(row["created"]),
        "Updated": _time(row["updated"]),
    }


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        if wrong := wrong_with_settings(settings, configuration):
            raise SettingsError(f"{SECTION}.{wrong}")
        if settings.secret is None and SECTION in configuration:
            raise SettingsError(f"{SECTION}.Secret: found none, allowed: at least {SHORTEST_SECRET} characters")
        if pydicom is None:
            raise SettingsError(MISSING)
    except SettingsError as error:
        refusal = f"{error}. anonymize_series is idle until this is corrected."
        orthanc.LogError(refusal)
    if refusal is None and settings.secret is None:
        refusal = f"anonymize_series stays idle: there is no section {SECTION}, and no Secret in it"
        orthanc.LogWarning(refusal)
    anonymizer = Anonymizer(settings, configuration)
    Routes(anonymizer).register(lambda: refusal or anonymizer.worker.why_not())
    if refusal is None:
        warn_if_open("anonymize_series", configuration)
        KEPT_ALIVE.extend((anonymizer.on_change, anonymizer.on_stored))
        orthanc.RegisterOnChangeCallback(KEPT_ALIVE[-2])
        orthanc.RegisterOnStoredInstanceCallback(KEPT_ALIVE[-1])


register()
