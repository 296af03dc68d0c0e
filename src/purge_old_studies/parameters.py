# SPDX-License-Identifier: AGPL-3.0-or-later
"""The parameters of requests."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from common.parameters import Flag, OneOf, Text, Texts, TextsByName, WholeNumber
from common.routes import Request, one_line
from forwarding.node_proof import NODE_PROOFS

MAX_DAYS = 99_999


@dataclasses.dataclass(frozen=True)
class Undated(Flag):
    """What is done with studies without a day."""

    allowed: str = "true, false or received"

    def from_body(self, value: Any) -> Any:
        return value if value == "received" else super().from_body(value)


PARAMETERS: dict[str, Text] = {
    "since": Text(),
    "older-than": Text(),
    "by": OneOf(choices=("StudyDate", "received")),
    "Query": TextsByName(allowed='an object of DICOM keywords and texts, e.g. {"ModalitiesInStudy": "CR"}'),
    "Labels": Texts(allowed="a list of labels, at least one"),
    "LabelsConstraint": OneOf(choices=("All", "Any", "None")),
    "limit": WholeNumber(least=1, most=10**9),
    "undated": Undated(),
    "keep-received-days": WholeNumber(most=MAX_DAYS),
    "only-if-at": Texts(allowed="a list of destinations, at least one"),
    "proof": OneOf(choices=NODE_PROOFS),
    "dry-run": Flag(),
    "force": Flag(),
    "async": Flag(),
    "format": OneOf(choices=("json", "text")),
}


def shown(value: object) -> str:
    text = one_line(json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def wants_json(found: Mapping[str, Any], request: Request) -> bool:
    """Return whether `format`, else `Accept`, asks for JSON."""
    chosen = found.get("format")
    return chosen == "json" or (chosen is None and "application/json" in request.headers.get("accept", ""))
