# SPDX-License-Identifier: AGPL-3.0-or-later
"""What must not leave: what an image may show before a copy is made, and what a copy still says afterwards."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pydicom.charset
import pydicom.datadict

from anonymize_series.basic_profile import is_dummy
from anonymize_series.elements import elements_of, names_an_instance, text_of, values_of
from anonymize_series.pixel_data import PIXELS
from anonymize_series.settings import Recipe
from anonymize_series.written_forms import ShortNames, folded, forms_of_date, parts_of_name, plain, words_of

MIN_SEARCHED_CHARACTERS = 4  # of a value that is looked for everywhere in a copy
# Of an identifier or a date in a defined term. By chance, a short one is there, and one word of a name.
MIN_CHARACTERS_IN_TERM, MIN_WORDS_IN_TERM = 6, 2
# The same in pixel data, in bytes. Compressed pixels are like random bytes: of 100 values, one of 4 bytes is by chance in each
# 40 MB (256**4 / 100), one of 8 bytes nowhere; and 4 pixels of 8 bits look like a word more often than 8.
MIN_SEARCHED_PIXEL_BYTES = 8
READ_BYTES = 1 << 18  # that are read as texts at a time
OVERLAP_BYTES = 1 << 10  # of two such blocks; a name is shorter
YEAR = re.compile("(?:19|20)[0-9]{2}")
COUNTERS = ("IS", "US", "UL", "SS", "SL")  # numbers; in an element of the standard they count, and identify nobody
# Secondary capture and ultrasound write names into pixels; where BurnedInAnnotation does not say NO, that must be assumed.
# Photographs and endoscopy show faces.
PRONE_TO_BURN_IN = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(7(\.\d)?|[36](\.\d)?|77\.1\.[14](\.1)?)")
# Values of the same tag must differ; those of IDENTIFIERS are nowhere else either. Of VR PN, UI, DA and DT: all (PS3.15 E.1).
IDENTIFIERS = frozenset(
    """PatientID OtherPatientIDs AccessionNumber StudyID AdmissionID IssuerOfPatientID DeviceSerialNumber PlateID CassetteID
    GantryID DetectorID GeneratorID RequestedProcedureID ScheduledProcedureStepID PerformedProcedureStepID
    PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest MedicalRecordLocator
    PatientTelephoneNumbers PatientTelecomInformation PersonTelephoneNumbers ServiceEpisodeID DeviceUID SpecimenIdentifier
    ContainerIdentifier IssuerOfServiceEpisodeID ClinicalTrialSubjectID ClinicalTrialSubjectReadingID RegionOfResidence
    MilitaryRank""".split()  # noqa: SIM905
)
PATIENT_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson")
IDENTIFYING = IDENTIFIERS | frozenset(
    """PatientAddress PatientComments AdditionalPatientHistory EthnicGroup Occupation PatientReligiousPreference
    InstitutionName InstitutionAddress InstitutionalDepartmentName StationName CountryOfResidence PatientMotherBirthName
    ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers PersonAddress RequestAttributesComments StudyComments
    ImageComments VisitComments CurrentPatientLocation PatientInstitutionResidence AdmittingDiagnosesDescription
    PerformedStationName ScheduledStationName PerformedLocation ScheduledStationAETitle PerformedStationAETitle
    ResponsibleOrganization""".split()  # noqa: SIM905
)


def why_held(dataset: Any, recipe: Recipe) -> str | None:
    """Return why an image is not for this recipe, before anything is made of it; None if it is."""
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


def identifying(dataset: Any, kept: frozenset[int]) -> tuple[dict[int, set[str]], dict[str, str]]:
    """Return what must not stay: values by tag, and values that must not be anywhere, each with what it is."""
    by_tag: dict[int, set[str]] = {}
    anywhere: dict[str, str] = {}
    for _, _, element in elements_of(dataset):
        if int(element.tag) in kept:
            continue
        names_somebody = element.VR in ("PN", "DA", "DT") or element.keyword in IDENTIFIERS
        for value in map(str.strip, values_of(element)):
            is_uid = element.VR == "UI" and names_an_instance(element, value)
            if value and (names_somebody or is_uid or element.keyword in IDENTIFYING):
                by_tag.setdefault(int(element.tag), set()).add(value)
            if names_somebody or is_uid:
                parts = parts_of_name(value) if element.VR == "PN" else [value]
                parts += [value[:8]] if element.VR == "DT" else []
                parts += [*forms_of_date(value)] if element.VR in ("DA", "DT") else []
                forms = {form for part in parts for form in (part.lower(), folded(part))}
                forms |= {plain(part) for part in parts if len(folded(part)) >= MIN_SEARCHED_CHARACTERS}
                anywhere |= {form: element.keyword for form in forms if len(form) >= MIN_SEARCHED_CHARACTERS}
    return by_tag, anywhere


def what_remains(copy: Any, original: Any, kept: frozenset[int]) -> str | None:
    """Return the first tag of a copy that still says who it is, by its keyword, never its value; None if there is none."""
    by_tag, anywhere = identifying(original, kept)
    searched = Searched(original, anywhere, kept)
    for _, _, element in elements_of(copy):
        if int(element.tag) in kept:
            continue
        if is_dummy(element) or _is_our_method(element, original):
            continue  # a patient's birthday, or an identifier, is it or a part of it by chance
        name = element.keyword or f"{element.tag}"
        if element.tag in PIXELS:
            if what := searched.find_in_pixels(element.value or b""):
                return f"{name} holds {what} of the original"
            continue
        values = [value.strip() for value in values_of(element)]
        if set(values) & by_tag.get(int(element.tag), set()):
            return f"{name} has the value of the original"
        if element.VR in ("CS", *COUNTERS) and _is_of_its_vr(element):
            # StudyID 1234 and InstanceNumber 1234, PatientName Brain^Ann and BodyPartExamined BRAIN: but not BRAIN ANN
            if element.VR == "CS" and (what := searched.find_in_terms(values)):
                return f"{name} holds {what} of the original"
            continue
        if element.VR in (*COUNTERS, "DS", "TM", "AS", "UI") or element.keyword in ("PatientID", "PatientName"):
            if found := anywhere.keys() & {value.lower() for value in values}:
                return f"{name} has the value of {anywhere[found.pop()]} of the original"
            continue  # numbers, and what we have made: they hold parts of others by chance
        if what := searched.find(values, element.value if isinstance(element.value, bytes) else b""):
            return f"{name} holds {what} of the original"
    return None


class Searched:
    """What must not be anywhere in a copy: texts, each with what it is; and short names."""

    def __init__(self, original: Any, anywhere: Mapping[str, str], kept: frozenset[int]) -> None:
        self._needles = {text: (keyword, text.encode()) for text, keyword in anywhere.items()}
        self._foreign = {text: keyword for text, keyword in anywhere.items() if not text.isascii()}
        names = [*_names_in(original, kept)]
        of_patient = [name for keyword, name in names if keyword in PATIENT_NAMES]
        self._names = [(keyword, words_of(name)) for keyword, name in names]
        self._short = ShortNames(of_patient, [name for _, name in names], MIN_SEARCHED_CHARACTERS)
        self._codecs = codecs_of(original)
        self._in_pixels = self._by_common_part()

    def _by_common_part(self) -> dict[bytes, dict[bytes, str]]:
        """Return what is looked for in pixels: by a part that many have, so that they are looked for once."""
        found: dict[bytes, dict[bytes, str]] = {}
        for needle, (keyword, encoded) in self._needles.items():
            writings = {encoded}
            if needle in self._foreign:  # bytes.lower() knows letters of ASCII only
                cases = (needle, needle.upper(), needle.title())
                writings |= {text.encode(codec, "ignore").lower() for text in cases for codec in self._codecs}
            for each in writings:
                if len(each) >= MIN_SEARCHED_PIXEL_BYTES:
                    year = YEAR.search(needle)
                    part = year[0].encode() if year else each[:MIN_SEARCHED_PIXEL_BYTES]
                    found.setdefault(part, {})[each] = keyword
        return found

    def find_in_pixels(self, data: bytes) -> str | None:
        """Return what of it is in pixel data, of what is long enough not to be there by chance."""
        small = data.lower()
        for part, needles in self._in_pixels.items():
            if part in small:
                for needle, keyword in needles.items():
                    if needle in small:
                        return f"the {keyword}"
        return None

    def find_in_terms(self, values: Sequence[str]) -> str | None:
        """Return what of it is in defined terms, where a part of it may be by chance."""
        for value in values:
            for needle, (keyword, _) in self._needles.items():
                if len(needle) >= MIN_CHARACTERS_IN_TERM and re.search("[0-9]", needle) and needle in value.lower():
                    return f"the {keyword}"
            words = words_of(value)
            for keyword, name in self._names:
                if len(words & name) >= MIN_WORDS_IN_TERM:
                    return f"the {keyword}"
        return None

    def find(self, values: Sequence[str], data: bytes) -> str | None:
        """Return what of it is in the values of an element, or in its bytes; None if there is nothing."""
        text, small = "\\".join(values), data.lower()
        text = f"{_in_both_forms(text)}\\{'' if text.isascii() else plain(text)}"
        wide = small.replace(b"\0", b"")  # texts of Windows have a NUL with each letter (UTF-16)
        for needle, (keyword, encoded) in self._needles.items():
            if needle in text or encoded in small or encoded in wide:
                return f"the {keyword}"
        for reading in self._readings(data):
            for needle, keyword in self._foreign.items():
                if needle in reading:
                    return f"the {keyword}"
            if self._short.in_bytes(reading):
                return "a short name"
        return "a short name" if self._short.in_values(values) else None

    def _readings(self, data: bytes) -> Iterator[str]:
        """Yield what bytes may say, in blocks: one call on many holds the interpreter."""
        for start in range(0, len(data), READ_BYTES):
            block = data[max(0, start - OVERLAP_BYTES) : start + READ_BYTES]
            yield from (_in_both_forms(block.decode(codec, "ignore")) for codec in self._codecs)


def _in_both_forms(text: str) -> str:
    """Return a text in small letters, and as it is compared with others, if that is not the same."""
    small = text.lower()
    return small if small.isascii() else f"{small}\\{folded(text)}"


def _names_in(dataset: Any, kept: frozenset[int]) -> Iterator[tuple[str, str]]:
    """Yield the keyword and the value of each name."""
    for _, _, element in elements_of(dataset):
        if element.VR == "PN" and int(element.tag) not in kept:
            yield from ((element.keyword, value) for value in values_of(element))


def _is_of_its_vr(element: Any) -> bool:
    """Return whether an element has a VR that the standard gives it: a file may call any text a defined term."""
    return (
        pydicom.datadict.dictionary_has_tag(element.tag)
        and element.VR in pydicom.datadict.dictionary_VR(element.tag).split()
    )


def _is_our_method(element: Any, original: Any) -> bool:
    """Return whether an element says how the copy was made, by Orthanc and here, and nothing that the original said."""
    if element.keyword != "DeidentificationMethod":
        return False
    before = values_of(original[element.tag]) if element.tag in original else []
    return not any(value and value in str(element.value) for value in before)


def codecs_of(dataset: Any) -> set[str]:
    """Return how bytes of a data set may be read, that say nothing of their characters: as its texts, or as most are."""
    found = {"utf-8", "latin-1", "utf-16-le", "utf-16-be"}
    for _, _, element in elements_of(dataset):  # an item may have its own (PS3.3 C.12.1.1.2)
        if element.keyword == "SpecificCharacterSet":
            found |= set(pydicom.charset.convert_encodings(element.value))
    return found
