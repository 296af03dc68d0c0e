# SPDX-License-Identifier: AGPL-3.0-or-later
"""What else the scripts did while `make demo` sent its studies: for each a line, and where to look."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testing.server import OrthancServer

BEFORE = "19991231"  # the purge's dry run counts what is dated until then


def lines(main: OrthancServer, to_anonymize: str) -> Iterator[str]:
    """Try some of the scripts; yield what each has to show, and its address, one line each.

    Parameters
    ----------
    main
        The main Orthanc, with all scripts.
    to_anonymize
        Orthanc's identifier of the study that a copy is made of.
    """
    series = main.get(f"/studies/{to_anonymize}/series")[0]["ID"]
    picture = f"/series/{series}/thumbnail?size=256"
    main.get(f"/series/{series}/thumbnail", size="256")
    events = Path(main.configuration["StorageDirectory"]) / "dicom_events.jsonl"
    main.wait_until(events.exists, what="events in a file")
    received = main.get("/audit-log", event="received", limit="1")["Total"]
    purge = f"/purge-old-studies?since={BEFORE}&dry-run=true"
    purged = main.get("/purge-old-studies", since=BEFORE, **{"dry-run": "true"}, format="json")["Studies"]
    copy = anonymized_copy(main, to_anonymize)
    yield from (
        f"  {what:42}{where}"
        for what, where in (
            ("A series as a small picture:", f"{main.url}{picture}"),
            (f"{count_lines(events)} events in a file:", shown(events)),
            (f"{received} lines of the audit log:", f"{main.url}/audit-log?event=received"),
            (f"{purged} studies that a purge would delete:", f"{main.url}{purge}"),
            ("An anonymized copy of a study:", f"{main.url}/app/explorer.html#study?uuid={copy['ID']}"),
        )
    )


def anonymized_copy(main: OrthancServer, study: str) -> Any:
    """Have a copy of a study made, and return the study that it is."""
    work = main.post(f"/anonymize-series/{study}", {"Recipe": "research"})["ID"]

    def made() -> Any:
        job = main.get(f"/anonymize-series/jobs/{work}")
        return job if job["State"] in ("done", "partly", "dead") else None

    return main.get(f"/instances/{main.wait_until(made, what='an anonymized copy')['Copies'][0]}/study")


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def shown(path: Path) -> Path:
    """Return a path as a person in the checkout writes it."""
    root = Path(__file__).parent.parent
    return path.relative_to(root) if path.is_relative_to(root) else path
