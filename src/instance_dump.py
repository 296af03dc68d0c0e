# SPDX-License-Identifier: AGPL-3.0-or-later
"""Shows one instance as pydicom sees it: GET /pydicom/{instance id}.

A text as pydicom prints it, with names for the private tags that pydicom or Orthanc's `Dictionary` knows, or DICOM JSON
(PS3.18 F), by `Accept` or `?format=`. Pixel data is left out, long values are shortened. Needs no configuration:

    curl http://127.0.0.1:8042/pydicom/{instance id}
    curl http://127.0.0.1:8042/pydicom/{instance id}?format=json

Needs pydicom, 2.3 or newer: apt install python3-pydicom, or as docs/install.md says. More: docs/instance_dump.md.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import orthanc

try:
    import pydicom
    import pydicom.datadict
    import pydicom.filewriter
except ImportError:
    pydicom = None

from common.accept import preferred_type
from common.http_threads import HttpTurns, in_a_thread
from common.identifiers import is_orthanc_identifier
from common.loopback import Loopback, LoopbackError
from common.metrics import listen_to_changes
from common.packages import package_problem
from common.parameters import OneOf, takes
from common.route_list import answers
from common.routes import Answer, Refused, Request, one_line, register_route
from common.settings import SettingsError, settings_of_all_scripts
from common.status import RUNNING, Condition, misconfigured, register_status
from common.version import __version__  # noqa: F401

MAX_VALUE_CHARACTERS = 256  # of a value in the text
MAX_INLINE_BYTES = 1024  # or characters, of a value in JSON; of a longer one it has only the address
MAX_FILE_BYTES = 512 << 20  # of a file that is read
FILES_IN_MEMORY = threading.BoundedSemaphore(2)
# PS3.18 F.2.2, table F.2.3-1
MAY_BE_BULK = frozenset(
    {"DS", "FL", "FD", "IS", "LT", "OB", "OD", "OF", "OL", "OV", "OW"}
    | {"SL", "SS", "ST", "SV", "UC", "UL", "UN", "US", "UT", "UV"}
)
BYTES = re.compile("O[BDFLVW]|UN")  # VRs whose values pydicom gives as bytes, also "US or OW"
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # in a UI, which pydicom prints as it is
PIXELS = 0x7FE0  # the group of pixel data
FORMATS = {"text": "text/plain", "json": "application/json", "dicom+json": "application/dicom+json"}
PROBLEM = package_problem("pydicom", "2.3", pydicom and pydicom.__version__, "python3-pydicom")
REFUSAL = PROBLEM and f"instance_dump stays idle: {PROBLEM}"


# What is shown


def readable(content: bytes) -> Any:
    """Return the data set of a file, in which each element can be read: one that breaks its VR is OB, and shows its bytes.

    Raises whatever pydicom raises: it can't read the file at all.
    """
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    for each in (dataset.file_meta, dataset):
        _make_readable(each)
    return dataset


def _make_readable(dataset: Any) -> None:
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag).value
        try:
            if (element := dataset[tag]).VR == "SQ":
                for item in element.value:
                    _make_readable(item)
                continue
            broken = "\n" in str(element) or (isinstance(element.value, bytes) and not BYTES.search(element.VR))
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - whatever is wrong with a value, the others are shown
            broken = True
        if broken:  # of UN pydicom would guess the VR that it does not have
            dataset[tag] = pydicom.DataElement(tag, "OB", raw if isinstance(raw, bytes) else b"")


def as_text(dataset: Any) -> str:
    """Return what pydicom prints; a line that is too long ends with how long it was."""
    return "".join(f"{_shortened(line)}\n" for line in str(dataset).split("\n"))


def _shortened(line: str) -> str:
    head, mark, value = UNPRINTABLE.sub("\ufffd", line).partition(": ")
    return f"{head}{mark}{value[:MAX_VALUE_CHARACTERS]}" + (
        f"… (cut, of {len(value)} characters)" if len(value) > MAX_VALUE_CHARACTERS else ""
    )


def as_json(dataset: Any, address: str) -> dict[str, Any]:
    """Return DICOM JSON (PS3.18 F) without the file meta information; large values by their address in Orthanc's REST API."""
    found = {}
    for element in dataset:
        group, number = element.tag.group, element.tag.element
        found[f"{group:04X}{number:04X}"] = _element(element, f"{address}/{group:04x}-{number:04x}")
    return found


def _element(element: Any, address: str) -> dict[str, Any]:
    if element.VR == "SQ":
        items = [as_json(item, f"{address}/{number}") for number, item in enumerate(element.value)]
        return {"vr": "SQ", **({"Value": items} if items else {})}
    try:
        found: dict[str, Any] = element.to_json_dict(
            lambda _: address, 0 if element.tag.group == PIXELS else MAX_INLINE_BYTES
        )
    except Exception:  # noqa: BLE001 - a DS that is no number, say: JSON has strings, too (PS3.18 F.2.3)
        texts = [str(element.value)] if isinstance(element.value, str | bytes) else [str(v) for v in element.value]
        found = {"vr": str(element.VR), "Value": texts}
    found["vr"] = found["vr"].partition(" or ")[
        0
    ]  # "OB or OW" where the file does not say which, and nothing else in it
    if "Value" in found:
        found["Value"] = [_number(value) for value in found["Value"]]
        if element.VR in MAY_BE_BULK and len(json.dumps(found["Value"])) > MAX_INLINE_BYTES:
            return {"vr": found["vr"], "BulkDataURI": address}
    return found


def _number(value: Any) -> Any:
    """Return a value of JSON, which has no NaN and no infinity: DICOM writes them as texts (PS3.18 F.2.3)."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# What is asked for


def chosen_format(given: Mapping[str, Any], accept: str) -> str:
    """Return a key of FORMATS, by `?format=`, else by Accept. Raises `Refused`: 406."""
    if "format" in given:
        return str(given["format"])
    mime = preferred_type(accept, tuple(FORMATS.values()))
    if mime is None:
        raise Refused(406, f"Accept is {one_line(accept)[:100]!r}, here is: {', '.join(FORMATS.values())}")
    return next(name for name, each in FORMATS.items() if each == mime)


def named_private_tags(dictionary: Mapping[str, Any]) -> Iterator[tuple[str, int, tuple[str, str, str]]]:
    """Yield creator, tag, and (VR, multiplicity, name) of each private tag in Orthanc's `Dictionary`, as pydicom needs them."""
    for tag, value in dictionary.items():
        number = re.fullmatch("([0-9a-fA-F]{4})[,-]([0-9a-fA-F]{4})", tag)
        if number and isinstance(value, list) and len(value) > 4 and int(number[1], 16) % 2:
            low, high = value[2:4]
            multiplicity = str(low) if low == high else f"{low}-{high or 'n'}"
            yield str(value[4]), int(number[1] + number[2], 16), (str(value[0]), multiplicity, str(value[1]))


class Dump:
    """Handler of the route."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._loopback = Loopback(configuration)
        self._turns = HttpTurns(configuration)

    @takes({"format": OneOf(choices=tuple(FORMATS))})
    @answers(406, 413, 415, media=tuple(FORMATS.values()))
    def get(self, request: Request) -> Answer:
        """The instance as pydicom prints it, or as DICOM JSON: `?format=text`, `json`, `dicom+json`, else by `Accept`."""
        chosen = chosen_format(request.parameters, request.headers.get("accept", ""))
        instance = request.groups[0]
        if not is_orthanc_identifier(instance):
            raise Refused(404, f"There is no instance {one_line(instance)[:60]!r}")
        with self._turns.turn(), FILES_IN_MEMORY:
            # Nested sequences need more stack than an HTTP thread has.
            return in_a_thread(functools.partial(shown, self._read(instance), instance, chosen), "instance-dump")

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, and the version of pydicom."""
        return {"Pydicom": pydicom.__version__}

    def _read(self, instance: str) -> bytes:
        try:
            if (size := int(self._loopback.get(f"/instances/{instance}")["FileSize"])) > MAX_FILE_BYTES:
                raise Refused(413, f"The file has {size} bytes, allowed: {MAX_FILE_BYTES}")
            return self._loopback.request_raw("GET", f"/instances/{instance}/file")[1]
        except LoopbackError as error:
            if error.status == 404:
                raise Refused(404, f"There is no instance {instance!r}") from None
            raise Refused(503, f"Orthanc does not give the file: {error}") from None


def shown(content: bytes, instance: str, chosen: str) -> Answer:
    """Return the answer. Raises `Refused` (415): pydicom can't read it."""
    try:
        dataset = readable(content)
        if chosen == "text":
            body = as_text(dataset)
        else:  # the address is relative, so that it is right behind a proxy too
            with contextlib.suppress(Exception):
                pydicom.filewriter.correct_ambiguous_vr(dataset, dataset.original_encoding[1])
            body = json.dumps(as_json(dataset, f"../instances/{instance}/content"), indent=2, allow_nan=False) + "\n"
    except Exception as error:  # noqa: BLE001 - pydicom raises whatever comes up
        raise Refused(415, f"pydicom can't read this instance: {type(error).__name__}") from None
    mime = FORMATS[chosen] + ("; charset=utf-8" if chosen == "text" else "")
    # Values come from anybody: no browser may take them for a page.
    return Answer(body.encode("utf-8", "replace"), mime=mime, headers={"X-Content-Type-Options": "nosniff"})


def register() -> None:
    """Add the private tags that Orthanc knows to pydicom's dictionary, and register the route."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal = REFUSAL
    try:
        settings_of_all_scripts(configuration)
    except SettingsError as error:
        refusal = f"{error}. instance_dump is idle until this is corrected."
    if refusal:
        orthanc.LogError(refusal)
    else:
        for creator, tag, entry in named_private_tags(configuration.get("Dictionary") or {}):
            pydicom.datadict.add_private_dict_entry(creator, tag, entry[0], entry[2], entry[1])
    dump = Dump(configuration)
    register_route("/pydicom/([^/]+)", {"GET": dump.get}, lambda: refusal)
    script = register_status(
        "instance_dump", lambda: misconfigured(refusal) if refusal else Condition(RUNNING), dump.status
    )
    listen_to_changes(script)


register()
