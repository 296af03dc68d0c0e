# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which requests are written down, and what of them: never what is secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from common.requester import user_of
from common.times import utc

# Routes that give images, or documents, or what they were made from.
CONTENT = re.compile(
    r"^/(?:(?:patients|studies|series|instances)/[^/]+/(?:archive|media|file|preview|rendered|image-|frames|pdf|raw|matlab"
    r"|attachments/[^/]+/(?:data|compressed-data)|content/7fe0-0010|numpy|export|dicom)|dicom-web/studies/|wado"
    r"|tools/create-archive|tools/create-media|jobs/[^/]+/archive|audit-log$)"
)
METHODS = {1: "GET", 2: "POST", 3: "PUT", 4: "DELETE"}  # orthanc.HttpMethod
GET = 1


class SeenRequest(NamedTuple):
    """A request, as the filter saw it."""

    at: str
    method: str
    uri: str
    ip: str
    user: str
    forwarded: str
    study_uid: str


def seen_request(uri: str, request: Mapping[str, Any], own_token: str) -> SeenRequest | None:
    """Return what is written down of a request; None for most, which cost a look at their route, and for the script's own."""
    method = request["method"]
    if method == GET and not CONTENT.match(uri):
        return None
    headers = request["headers"]
    authorization = headers.get("authorization", "")
    if own_token and authorization == own_token:
        return None
    return SeenRequest(
        utc(),
        METHODS.get(method, "?"),
        uri,
        request["ip"],
        user_of(authorization),
        headers.get("x-forwarded-for", ""),
        request.get("get", {}).get("studyUID", ""),
    )
