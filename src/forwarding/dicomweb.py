# SPDX-License-Identifier: AGPL-3.0-or-later
"""The servers of Orthanc's DICOMweb plugin (`DicomWeb.Servers`), asked through the plugin: it has their passwords."""

import json
import socket
import time
import urllib.parse
from collections.abc import Callable, Collection, Mapping
from typing import Any

import orthanc

from common.dicomweb import dicomweb_root, dicomweb_servers_route
from common.loopback import Loopback, LoopbackError
from common.path_segments import fits_in_path
from common.routes import Refused, Request, RouteHandler, register_route
from forwarding.patient_proof import is_this_machine, proved_by_patient

# The plugin reads its servers at Orthanc's start, as the script does: a moment before or after it.
PLUGIN_LOOKS, PLUGIN_LOOK_SECONDS = 20, 0.1
ANSWERS_PER_PAGE = 1000  # of QIDO-RS
MOST_ANSWERS = 200_000  # of one search: who goes on for ever would fill the memory
INSTANCES_PER_LOOKUP = 500  # of this Orthanc
TAGS = {
    "00080018": "SOPInstanceUID",
    "00100020": "PatientID",
    "0020000D": "StudyInstanceUID",
    "0020000E": "SeriesInstanceUID",
}
PATIENT_ID = "00100020"
KNOWS_NO_ROUTE = (400, 401, 404)  # as Orthanc passes on what a server answers; of all other errors it makes a 500
JSON = {"Accept": "application/dicom+json"}


class DicomWebServers:
    """What is known of the servers, and what they say they have.

    Parameters
    ----------
    configuration : Orthanc's.
    loopback : to this Orthanc.
    is_wanted : somebody wants that something is sent: then it is an error that the plugin is not loaded.
    script : as its routes have it: it has a route of its own below the plugin's root.
    """

    def __init__(
        self,
        configuration: Mapping[str, Any],
        loopback: Loopback,
        *,
        is_wanted: bool,
        script: str = "auto-forward-dicomweb",
    ) -> None:
        section = configuration.get("DicomWeb")
        section = section if isinstance(section, dict) else {}
        self.route = dicomweb_servers_route(configuration)
        """Of the plugin, where its servers are."""
        self._files = f"{script}/files"
        self._files_route = "/".join(filter(None, (dicomweb_root(configuration), self._files)))
        servers = section.get("Servers")
        self.configured = frozenset(servers if isinstance(servers, dict) else ())
        """The servers that the configuration names: the plugin knows them a moment after its start."""
        self._is_wanted = is_wanted or bool(self.configured)
        self._port, self._loopback = configuration.get("HttpPort", 8042), loopback

    def missing(self, loopback: Loopback) -> str | None:
        """Return why what is to be sent can't be, or None.

        It waits until the plugin has read its servers. They start together.
        """
        try:
            for _ in range(PLUGIN_LOOKS):
                if self.configured <= {*loopback.get(f"/{self.route}")}:
                    break
                time.sleep(PLUGIN_LOOK_SECONDS)
        except LoopbackError as error:
            if error.status != 404:
                raise
            if not self._is_wanted:
                orthanc.LogWarning(
                    "auto-forward-dicomweb: Orthanc has no DICOMweb plugin, hence no destination: nothing is sent"
                )
                return None
            return (
                "Destinations: these are servers of Orthanc's DICOMweb plugin, which is not loaded, or is switched off. "
                'Allowed: a configuration whose "Plugins" name libOrthancDicomWeb.so (Debian\'s package orthanc-dicomweb)'
            )
        return None

    def probe(self, loopback: Loopback, name: str) -> None:
        """Ask a server for one study. Raises `LoopbackError` if it does not answer, or refuses us.

        One that takes images and can't be searched answers 404 or 400.
        """
        try:
            self._get(loopback, name, "/studies", {"limit": "1"})
        except LoopbackError as error:
            if error.status not in (400, 404):
                raise

    def prove(
        self, loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]], _asked: dict[str, Any]
    ) -> set[str]:
        """Return which instances a server has, of these patients, by QIDO-RS."""
        server = loopback.get(f"/{self.route}?expand").get(name)
        if server is None:
            raise ValueError(f"Orthanc does not know {name}")
        url = urllib.parse.urlsplit(server["Url"])
        host = url.hostname or ""
        if (url.port or {"https": 443}.get(url.scheme, 80)) == self._port and is_this_machine(host):
            raise ValueError(f"{name} leads back to this server")
        addresses = {found[4][0] for found in socket.getaddrinfo(host, None)}
        # Two that forward to each other and both delete would be left with nothing. Orthanc does not say who sent what came
        # through a plugin, as by STOW-RS.
        for came in (one.get("Metadata", {}) for one in instances.values()):
            if came.get("Origin") == "Plugins" or (
                came.get("Origin") == "RestApi" and came.get("RemoteIP") in addresses
            ):
                why = "it came in by a plugin, as by DICOMweb, or over HTTP from the address of"
                raise ValueError(f"{why} {name}: who sent it may count on it being here")
        found = self._found(loopback, name, instances)
        for instance in sorted(found)[:1]:
            self._raise_if_same_file(loopback, name, instance, instances[instance].get("FileUuid"))
        return found

    def _raise_if_same_file(self, loopback: Loopback, name: str, instance: str, file: str | None) -> None:
        """Raise ValueError if a server leads back to this one, by whatever way, or shares its database: it names our file."""
        try:
            answer = self._ask(loopback, name, f"/{self._files}/{instance}", {})
        except LoopbackError as error:
            # One of another kind, or without this script, knows no such route; all else says nothing.
            if error.status not in KNOWS_NO_ROUTE:
                raise ValueError(f"{name} can't be asked whether it leads back to this server: {error}") from error
            return
        if isinstance(answer, dict) and file and answer.get("FileUuid") == file:
            raise ValueError(
                f"{name} leads back to this server, or shares its database: it names the file that is here"
            )

    def register_route(self, bound: Callable[[RouteHandler], RouteHandler], refusal: str | None) -> None:
        """Register the route that an Orthanc asks which wants to know whether a server leads back to it.

        `bound` lets few requests at a time ask Orthanc.
        """

        def file(request: Request) -> dict[str, Any]:
            """Return the name of an instance's file: an Orthanc asks for it to see whether it would send to itself."""
            try:
                found = self._loopback.get(f"/instances/{request.groups[0]}")
            except LoopbackError as error:
                if error.status != 404:
                    raise
                raise Refused(404, "There is no such instance") from None
            return {"FileUuid": found.get("FileUuid")}

        register_route(f"/{self._files_route}/([0-9a-f-]+)", {"GET": bound(file)}, lambda: refusal)

    def instances_of(self, name: str, instances: Collection[str], _within: Collection[str] = ()) -> set[str]:
        """Return which of these instances a server says it has, of their patients.

        Raises
        ------
        ValueError, LoopbackError : it can't be asked, does not answer as a DICOMweb server, or has some of another patient.
        """
        keys, here = [*instances], dict[str, Mapping[str, Any]]()
        for start in range(0, len(keys), INSTANCES_PER_LOOKUP):
            body = {"Resources": keys[start : start + INSTANCES_PER_LOOKUP], "Metadata": False}
            here |= {one["ID"]: one for one in self._loopback.post("/tools/bulk-content", body)}
        return self._found(self._loopback, name, here)

    def _found(self, loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]]) -> set[str]:
        def find(level: str, query: Mapping[str, str]) -> list[dict[str, str]]:
            return self._find(loopback, name, level, query)

        return proved_by_patient(loopback, name, instances, find)

    def _find(self, loopback: Loopback, name: str, level: str, query: Mapping[str, str]) -> list[dict[str, str]]:
        """Return all that a server answers to QIDO-RS, page by page: it may give fewer at a time than it is asked for."""
        study, arguments = query["StudyInstanceUID"], {"includefield": PATIENT_ID}
        if level == "Study":
            path, arguments = "/studies", {**arguments, "StudyInstanceUID": study}
        else:
            series = query["SeriesInstanceUID"]
            if not fits_in_path(study) or not fits_in_path(series):
                return []  # whoever made such a UID would choose with it what else is asked for: so nothing is proved
            path = f"/studies/{study}/series/{series}/instances"
        answers: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        number = 0
        while True:
            paged = {**arguments, "limit": str(ANSWERS_PER_PAGE), "offset": str(number)}
            try:
                page = self._get(loopback, name, path, paged)
            except LoopbackError as error:
                if error.status != 404:
                    raise
                page = []  # some say so of a study that they don't have
            number += len(page)
            before = len(answers)
            answers |= {tuple(sorted(found.items())): found for found in map(_by_keyword, page)}
            if len(answers) == before:  # the end, or it knows no offset
                return [*answers.values()]
            if len(answers) > MOST_ANSWERS:
                raise ValueError(f"{name} has more than {MOST_ANSWERS} answers when asked what it has of a series")

    def _get(self, loopback: Loopback, name: str, path: str, arguments: Mapping[str, str]) -> list[Mapping[str, Any]]:
        found = self._ask(loopback, name, path, arguments)
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise ValueError(f"{name} does not answer as a DICOMweb server when asked what it has")
        return found

    def _ask(self, loopback: Loopback, name: str, path: str, arguments: Mapping[str, str]) -> Any:
        """Return what a server answers to a GET, decoded; None if that is no JSON, and `[]` if it is nothing."""
        body = {"Uri": path, "Arguments": arguments, "HttpHeaders": JSON}
        found = loopback.post(f"/{self.route}/{urllib.parse.quote(name, safe='')}/get", body)
        try:
            return json.loads(found or b"[]") if isinstance(found, bytes) else found
        except (ValueError, RecursionError):
            return None


def _by_keyword(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of an answer of QIDO-RS, by keyword (DICOM JSON, PS3.18 F.2); what it leaves out is not among them."""
    found: dict[str, str] = {}
    for tag, keyword in TAGS.items():
        element = answer.get(tag)
        value = element.get("Value") if isinstance(element, dict) else None
        if isinstance(value, list) and value and value[0] is not None:
            found[keyword] = str(value[0])
    return found
