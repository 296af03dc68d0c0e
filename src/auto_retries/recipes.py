# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a job says of itself: all that submitting it again takes. Decisions, without Orthanc."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from common.jobs import url_of_peer
from common.routes import one_line

Destinations = Mapping[str, Mapping[str, Any]]  # /modalities?expand or /peers?expand: names and their settings


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a job of one type is submitted again, from what it showed."""

    route: str  # of its destination: "modalities", "peers", or "servers" of the DICOMweb plugin
    command: str
    target: Callable[[Mapping[str, Any]], str]  # of a job's content: what it says of its destination
    body: Callable[[Mapping[str, Any]], dict[str, Any] | None]  # of a job's content; None if that does not suffice


def _aet(content: Mapping[str, Any]) -> str:
    return str(content.get("RemoteAet", ""))


def _url(content: Mapping[str, Any]) -> str:
    return url_of_peer(content)


def _modality_store(content: Mapping[str, Any]) -> dict[str, Any] | None:
    resources = content.get("ParentResources")
    options = {"LocalAet": "LocalAet", "MoveOriginatorAET": "MoveOriginatorAet", "MoveOriginatorID": "MoveOriginatorID"}
    body = {"Resources": resources, **{theirs: content[key] for key, theirs in options.items() if key in content}}
    if content.get("StorageCommitmentTransactionUID"):
        body["StorageCommitment"] = True
    return body if resources else None


def _peer_store(content: Mapping[str, Any]) -> dict[str, Any] | None:
    resources = content.get("ParentResources")
    options = {key: content[key] for key in ("Compress", "Transcode") if key in content}
    return {"Resources": resources, **options} if resources else None


def _retrieve(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the body for a DicomMoveScu or DicomGetScu: a job may hold queries of several levels, a request can't."""
    level_tag, queries = "0008,0052", content.get("Query") or []
    levels = {query.get(level_tag) for query in queries}
    if len(levels) != 1 or None in levels:
        return None
    resources = [{tag: value for tag, value in query.items() if tag != level_tag and value} for query in queries]
    options = {key: content[key] for key in ("TargetAet", "LocalAet") if key in content}
    return {"Level": levels.pop(), "Resources": resources, **options}


def _move(content: Mapping[str, Any]) -> dict[str, Any] | None:
    # Orthanc 1.10.1 does not show where to, and its /modalities/{id}/move would wait for the end.
    return _retrieve(content) if content.get("TargetAet") else None


def _stow(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the body for a DicomWebStowClient: its content has resources by level, with all instances since plugin 1.20."""
    by_level: Mapping[str, list[str]] = content.get("Resources") or {}
    instances = by_level.get("Instances", [])
    is_whole = bool(instances) and int(content.get("InstancesCount", len(instances))) == len(instances)
    resources = instances if is_whole else [each for level in by_level.values() for each in level]
    return {"Resources": list(dict.fromkeys(resources))} if resources else None


def _server(content: Mapping[str, Any]) -> str:
    return str(content.get("Server", ""))


STOW = "DicomWebStowClient"
RECIPES = {
    "DicomModalityStore": Recipe("modalities", "store", _aet, _modality_store),
    "OrthancPeerStore": Recipe("peers", "store", _url, _peer_store),
    "DicomMoveScu": Recipe("modalities", "move", _aet, _move),
    "DicomGetScu": Recipe("modalities", "get", _aet, _retrieve),
    STOW: Recipe("servers", "stow", _server, _stow),
}


def address(entry: Mapping[str, Any]) -> str:
    """Return where an entry of /modalities?expand or /peers?expand leads to."""
    if "Url" in entry:
        return f"{entry['Url']} {entry.get('Username') or ''}"
    return f"{entry['AET']} {entry['Host']}:{entry['Port']}"


def description(job: Mapping[str, Any], known: Callable[[str], Destinations]) -> dict[str, Any]:
    """Return what is kept of a job: all that submitting it again takes.

    `known` gives the destinations of a route. `Names` are the destinations that the job can mean now, for its content names
    an AET or a URL, and `Addresses` where they lead to, so that a later correction of the configuration shows. `Digest` is the
    same for two jobs that would do the same.
    """
    recipe = RECIPES.get(job["Type"])
    kept = {"Type": job["Type"], "Priority": job.get("Priority", 0), "Target": "", "Names": [], "Addresses": []}
    if recipe is None:
        return {**kept, "Body": None, "Digest": job["ID"]}
    target, body = recipe.target(job["Content"]), recipe.body(job["Content"])
    fitting = {name: entry for name, entry in known(recipe.route).items() if is_target(name, entry, target, recipe)}
    same = job["ID"] if body is None else json.dumps([job["Type"], target, body], sort_keys=True)
    kept |= {"Names": sorted(fitting), "Addresses": sorted(map(address, fitting.values()))}
    return {**kept, "Target": target, "Body": body, "Digest": hashlib.sha256(same.encode()).hexdigest()}


def may_lie(data: Mapping[str, Any]) -> bool:
    """Return whether a success of this job, resubmitted, says nothing: one of the plugin leaves out what it has read before."""
    return bool(data["Type"] == STOW)


def has_read(job: Mapping[str, Any]) -> bool:
    """Return whether a job of the DICOMweb plugin has begun to read what it sends; resubmitted, it would leave that out."""
    return bool(job.get("Progress")) or "NetworkSizeMB" in (job.get("Content") or {})


def resources_sent(row: Mapping[str, Any]) -> list[str]:
    """Return the resources of this Orthanc that the job of a row sends; none if it sends none, or does not say which."""
    body = json.loads(row["data"])["Body"] or {}
    return [each for each in body.get("Resources") or () if isinstance(each, str)]


def is_target(name: str, entry: Mapping[str, Any], target: str, recipe: Recipe) -> bool:
    """Return whether a job means this destination: it says the AET of a node, the URL of a peer, the name of a server."""
    if recipe.route == "servers":
        return name == target
    return str(entry.get("Url", entry.get("AET"))).rstrip("/") == target.rstrip("/")


def destination_of(data: Mapping[str, Any]) -> str:
    """Return the name of a job's destination, as lists and logs have it."""
    return one_line(" or ".join(data["Names"]) or data["Target"] or data["Type"])


class Unclear(Exception):  # noqa: N818 - it is a finding
    """A job can't be submitted again: `for_ever`, or until the configuration changes."""

    def __init__(self, text: str, *, for_ever: bool = False) -> None:
        super().__init__(text)
        self.for_ever = for_ever


def name_of(data: Mapping[str, Any], known: Destinations) -> str:
    """Return the name of the destination to submit to. Raises `Unclear`: better late than to another node."""
    names = [name for name in data["Names"] if name in known]
    recipe = RECIPES[data["Type"]]
    names = names or [name for name, entry in known.items() if is_target(name, entry, data["Target"], recipe)]
    if not names:
        raise Unclear(f"Orthanc does not know {destination_of(data)}; known are: {', '.join(known) or 'none'}")
    if len({address(known[name]) for name in names}) > 1:
        raise Unclear(f"{' and '.join(names)} lead to different places, and the job does not tell which was meant")
    return str(names[0])
