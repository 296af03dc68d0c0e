# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which requests are written down, and what of them: never what is secret."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from common.own_requests import OwnRequest
from common.requester import user_of
from common.routes import one_line
from common.times import utc

# Orthanc takes tags in each of these writings: of pixels, waveforms and documents, in sequences too.
LARGE_TAGS = (
    r"(?i:7fe0[-,]?00(?:08|09|10)|5400[-,]?1010|0042[-,]?0011"
    r"|(?:Float|DoubleFloat)?PixelData|WaveformData|EncapsulatedDocument)"
)
# Routes that give images, or documents, or what they were made from, or whose they are.
CONTENT = (
    r"(?:patients|studies|series|instances)/[^/]+/(?:archive|media|file|preview|rendered|image-|frames|pdf|raw|matlab"
    r"|attachments/[^/]+/(?:data|compressed-data)|numpy|export|dicom|thumbnail|nifti|stl"
    rf"|content/(?:[^/]+/[0-9]+/)*{LARGE_TAGS}(?:/|$))"
    r"|pydicom/|tools/create-archive|tools/create-media|jobs/[^/]+/archive|audit-log/?$|anonymize-series/register/?$"
    # of viewers' plugins, and of Orthanc's transfers accelerator
    r"|(?:web-viewer|osimis-viewer)/(?:series|instances|images|studies)/|wsi/(?!app/)|transfers/chunks/"
)
ACTS_ON_GET = re.compile(r"^/purge-old-studies/?$")
WITH_QUERY = re.compile(
    r"^/(?:purge-old-studies|anonymize-series/register)/?$"
)  # what they are asked is no patient's name
# Parameters of these that are written down with their values: another one may be somebody's token.
KNOWN_PARAMETERS = {
    *("since", "older-than", "by", "Query", "Labels", "LabelsConstraint", "limit", "undated", "keep-received-days"),
    *("only-if-at", "proof", "dry-run", "force", "async", "format", "patient", "study", "pseudonym"),
}
# What scripts ask over and over, and what tells nobody else anything.
READ_BY_POST = re.compile(
    r"^/(?:tools/(?:find|bulk-content|count-resources|lookup)|[^/]+/(?:owed|protected|rules/test))/?$"
)
DOES_NOTHING = "/dashboard/may-act"  # the dashboard asks it each minute
METHODS = {1: "GET", 2: "POST", 3: "PUT", 4: "DELETE"}  # orthanc.HttpMethod
LONGEST_PARAMETER = 200  # characters of a parameter


class SeenRequest(NamedTuple):
    """A request, as it was seen before it was answered.

    Attributes
    ----------
    who : `User`, `IP` and `ForwardedFor`, or the `Script` that sends it, and who asked the script for it (`AskedBy`).
    acts : whether it may change something.
    study_uid : the StudyInstanceUID that it names, or "".
    deletes : the identifiers that a bulk-delete of a script names.
    """

    at: str
    method: str
    uri: str
    who: Mapping[str, Any]
    acts: bool
    study_uid: str = ""
    query: Mapping[str, str] = {}
    deletes: Sequence[str] = ()


def dicomweb_paths(configuration: Mapping[str, Any]) -> tuple[str, str]:
    """Return where the DICOMweb plugin answers, and where its WADO-URI, without a slash at the end."""
    section = configuration.get("DicomWeb")
    found = section if isinstance(section, Mapping) else {}
    root, wado = (str(found.get(key) or default) for key, default in (("Root", "dicom-web"), ("WadoRoot", "wado")))
    return f"/{root.strip('/')}".rstrip("/"), f"/{wado.strip('/')}"


class RequestWatcher:
    """Looks at each request. `own_token` returns the script's own authorization, or "" as long as it has none."""

    def __init__(self, configuration: Mapping[str, Any], own_token: Callable[[], str]) -> None:
        root, wado = map(re.escape, dicomweb_paths(configuration))
        self._content = re.compile(rf"^(?:/(?:{CONTENT})|{root}/(?:studies|series|instances)(?:/|$)|{wado}(?:/|$))")
        self._study_uid = re.compile(rf"^{root}/studies/([0-9.]+)")
        self._own_token = own_token

    def seen(self, uri: str, request: Mapping[str, Any]) -> SeenRequest | None:
        """Return what is written down of a request; None for most, which cost a look at their route, and for our own."""
        method = METHODS.get(request["method"], "?")
        if not self._is_watched(method, uri):
            return None
        headers = request["headers"]
        authorization = headers.get("authorization", "")
        if authorization and authorization == self._own_token():
            return None
        forwarded = headers.get("x-forwarded-for", "")
        who = {
            "User": user_of(authorization),
            "IP": request["ip"],
            **({"ForwardedFor": one_line(forwarded)} if forwarded else {}),
        }
        return self._described(method, uri, who, request.get("get") or {})

    def seen_of_script(self, script: str, request: OwnRequest) -> SeenRequest | None:
        """Return what is written down of what another script of a combined file asks Orthanc for."""
        uri, _, query = request.path.partition("?")
        if READ_BY_POST.match(uri) or not self._is_watched(request.method, uri):
            return None
        who = {"Script": script, **({"AskedBy": request.asked_by} if request.asked_by else {})}
        seen = self._described(request.method, uri, who, dict(urllib.parse.parse_qsl(query)))
        return seen._replace(deletes=request.resources) if uri == "/tools/bulk-delete" else seen

    def _is_watched(self, method: str, uri: str) -> bool:
        if method != "GET":
            return uri != DOES_NOTHING
        return self._content.match(uri) is not None or ACTS_ON_GET.match(uri) is not None

    def _described(self, method: str, uri: str, who: Mapping[str, Any], given: Mapping[str, str]) -> SeenRequest:
        named = self._study_uid.match(uri)
        query = given if WITH_QUERY.match(uri) else {}
        return SeenRequest(
            utc(),
            method,
            uri,
            who,
            method != "GET" or ACTS_ON_GET.match(uri) is not None,
            named[1] if named else given.get("studyUID") or given.get("StudyInstanceUID") or "",
            {
                one_line(name): one_line(value)[:LONGEST_PARAMETER] if name in KNOWN_PARAMETERS else "***"
                for name, value in query.items()
            },
        )
