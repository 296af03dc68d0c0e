# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes of the script."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from common.identifiers import is_orthanc_identifier
from common.loopback import LoopbackError
from common.parameters import Text, takes
from common.route_list import answers
from common.routes import Answer, Refused, Request, one_line

from .entries import Wanted
from .lists import PAGE_OF_SERIES, RESPONSE_CONTENT, Page, found_with_tags, page_of, with_tags
from .private_tags import PrivateTags
from .settings import Settings
from .values import decoded_values

PLURAL_OF_PARENT = {"Patient": "patients", "Study": "studies", "Series": "series"}
LIST_TIMEOUT_SECONDS = 5.0  # that a list waits for its turn


class Routes:
    """Lists the series with their private tags, looks at series again, and reports how far that is."""

    def __init__(
        self, settings: Settings, wanted: Wanted, private_tags: PrivateTags, configuration: Mapping[str, Any]
    ) -> None:
        self._settings, self._wanted, self._private_tags = settings, wanted, private_tags
        self._archive, self._known_series = private_tags.archive, private_tags.known_series
        self._loopback = self._archive.loopback
        # Each list holds one of Orthanc's HTTP threads, and needs another.
        self._listings = threading.BoundedSemaphore(max(1, int(configuration.get("HttpThreadsCount", 50)) // 2))

    @takes(PAGE_OF_SERIES)
    def series(self, request: Request) -> Any:
        """All series with their private tags; `?limit=`, `?since=`, `?short`, `?instances=true`."""
        return self._list_of("", "", page_of(request.parameters))

    @takes(PAGE_OF_SERIES)
    def series_of_study(self, request: Request) -> Any:
        """The series of one study with their private tags; parameters as for all series."""
        return self._list_of("Study", request.groups[0], page_of(request.parameters))

    @takes(PAGE_OF_SERIES)
    def series_of_patient(self, request: Request) -> Any:
        """The series of one patient with their private tags; parameters as for all series."""
        return self._list_of("Patient", request.groups[0], page_of(request.parameters))

    @takes(PAGE_OF_SERIES)
    def one_series(self, request: Request) -> Any:
        """One series with its private tags; `?short`, `?instances=true`."""
        page, series = page_of(request.parameters), request.groups[0]
        with self._listing():
            self._must_be_here("series", series)
            found = self._loopback.get(f"/series/{series}{'?short' if page.short else ''}")
            metadata = self._loopback.get(f"/series/{series}/metadata?expand")
        return with_tags(found, decoded_values(metadata.get(self._archive.metadata)), page.instances)

    @takes(dict.fromkeys(PLURAL_OF_PARENT, Text()))
    @answers(404)
    def reconstruct(self, request: Request) -> dict[str, int]:
        """Looks at the series of a `Patient`, `Study` or `Series` again, or at all; answers how many."""
        asked = request.parameters
        if len(asked) > 1:
            raise Refused(400, "Give one of Patient, Study and Series, an Orthanc identifier, or none for all")
        with self._listing():
            series = self._series_to_reconstruct(asked)
        self._known_series.reconstruct(series)
        self._private_tags.worker.wake.set()
        return {"Series": len(series)}

    def status(self, _request: Request) -> dict[str, Any]:
        """Whether it runs, which tags it keeps, of how many series, and how far it has caught up."""
        known, todo, total = self._known_series.counts()
        return {
            "Tags": [("!!" if entry.exists_only else "") + key for key, entry in self._wanted.entries.items()],
            "Series": known,
            "Arriving": len(self._private_tags.stored),
            "CatchUp": {"Total": total, "Done": total - todo, "Running": todo > 0},
        }

    @contextlib.contextmanager
    def _listing(self) -> Iterator[None]:
        """Wait until Orthanc has threads for one more list. Raises `Refused` for what fails inside, too."""
        if not self._listings.acquire(timeout=LIST_TIMEOUT_SECONDS):
            raise Refused(503, "Too many lists are asked for at once; try again in a second")
        try:
            yield
        except LoopbackError as error:
            if error.status in (400, 404):  # 1.10.1: of what is here at another level
                raise Refused(404, "There is nothing by this identifier at this level") from None
            raise Refused(503, f"Orthanc could not give the list: {one_line(error)}") from None
        finally:
            self._listings.release()

    def _must_be_here(self, level: str, resource: str) -> None:
        if not self._archive.has(level, known_identifier(level, resource)):
            raise Refused(404, f"There is no {resource!r} among the {level}")

    def _list_of(self, parent: str, resource: str, page: Page) -> Answer:
        with self._listing():
            if parent:
                self._must_be_here(PLURAL_OF_PARENT[parent], resource)
            content = (self._found_list if self._loopback.has_extended_find else self._expanded_list)(
                parent, resource, page
            )
        return Answer(content, mime="application/json")

    def _found_list(self, parent: str, resource: str, page: Page) -> bytes:
        """Return a list by one request that gives the metadata with the series (Orthanc 1.12.5 and later)."""
        query: dict[str, Any] = {"Level": "Series", "Query": {}, "Short": page.short, "Since": page.since}
        query["ResponseContent"] = [*RESPONSE_CONTENT, *(["Children"] if page.instances else [])]
        query |= {f"Parent{parent}": resource} if parent else {}
        query |= {"Limit": page.limit} if page.limit is not None else {}
        _, listing = self._loopback.request_raw("POST", "/tools/find", query)
        return found_with_tags(listing, self._archive.metadata)

    def _expanded_list(self, parent: str, resource: str, page: Page) -> bytes:
        """Return Orthanc's own list with the metadata of each; in a list of all, which that would slow down, from the ledger."""
        short = "&short" if page.short else ""
        if parent:
            path = f"/{PLURAL_OF_PARENT[parent]}/{resource}/series?expand{short}"
            found = self._loopback.get(path)[page.since :][: page.limit]
        else:
            limits = f"&since={page.since}&limit={page.limit or 10**9}" if page.limit is not None or page.since else ""
            found = self._loopback.get(f"/series?expand{short}{limits}")
        # Of all series the ledger knows only with these settings.
        if not parent and page.limit is None and self._settings.reconcile and self._settings.catch_up:
            known = self._known_series.all_shown()
            return json.dumps([with_tags(each, known.get(each["ID"], {}), page.instances) for each in found]).encode()
        return json.dumps(
            [with_tags(each, self._archive.values_of(each["ID"]), page.instances) for each in found]
        ).encode()

    def _series_to_reconstruct(self, asked: Mapping[str, str]) -> list[str]:
        if not asked:
            return self._archive.all_series()
        ((parent, resource),) = asked.items()
        level = PLURAL_OF_PARENT[parent]
        self._must_be_here(level, resource)
        if parent == "Series":
            return [resource]
        return [each["ID"] for each in self._loopback.get(f"/{level}/{resource}/series")]


def known_identifier(level: str, text: str) -> str:
    """Return an identifier that Orthanc may know. Raises `Refused` (404): it can't be one."""
    if not is_orthanc_identifier(text):
        raise Refused(404, f"There is no {one_line(text)[:60]!r} among the {level}")
    return text
