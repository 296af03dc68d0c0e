# SPDX-License-Identifier: AGPL-3.0-or-later
"""How fast the destination of `make demo` takes images: as its package comes, and with the remedy for that."""

from __future__ import annotations

import time
from collections.abc import Iterator

from testing.demo_studies import Study
from testing.server import OrthancServer


def lines(main: OrthancServer, destination: OrthancServer, study: Study) -> Iterator[str]:
    """Send a study to the destination as it is, then with TCP_NODELAY=1 in its environment; yield what to print."""
    images = f"{len(study.files)} images in"
    yield "DESTINATION runs as a package starts it. A study sent to it again, and once more with one setting:"
    yield f"  as it is:              {images} {seconds_of_sending(main, study):.2f} s"
    destination.environment["TCP_NODELAY"] = "1"
    destination.restart()
    yield f"  with TCP_NODELAY=1:    {images} {seconds_of_sending(main, study):.2f} s"
    yield "Why, and what to do where you can't set that: docs/slow_sending.md"


def seconds_of_sending(main: OrthancServer, study: Study) -> float:
    """Return how long one association with all images of a study takes."""
    begin = time.monotonic()
    main.post("/modalities/DESTINATION/store", {"Resources": [study.identifier], "Synchronous": True})
    return time.monotonic() - begin
