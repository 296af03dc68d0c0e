# SPDX-License-Identifier: AGPL-3.0-or-later
"""Thumbnails of an Orthanc, and images to draw them from."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

from PIL import Image

from testing.server import OrthancServer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "series_thumbnail.py"
NAMED = {"UserMetadata": {"ThumbnailInstanceID": 2345}, "UserContentType": {"SeriesThumbnail": 4455}}


def picture_of(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def thumbnail(server: OrthancServer, level: str, resource: str, **params: Any) -> Image.Image:
    answer = server.request("GET", f"/{level}/{resource}/thumbnail", params=params)
    assert answer.status_code == 200, answer.text
    image = picture_of(answer.content)
    assert answer.headers["Content-Type"] == f"image/{str(image.format).lower()}"
    return image


def chosen(server: OrthancServer, series: str) -> str:
    """The instance that was chosen, once it is written."""
    path = f"/series/{series}/metadata/{next(iter(server.configuration.get('UserMetadata', {'2001': 0})))}"

    def name() -> str:
        server.request("GET", f"/series/{series}/thumbnail")  # one that is changing is drawn, and not yet kept
        answer = server.request("GET", path)
        return answer.text if answer.ok else ""

    return str(server.wait_until(name))


def wait_until_kept(server: OrthancServer, series: str) -> None:
    number = 4455 if "UserContentType" in server.configuration else 4301

    def is_kept() -> bool:
        if server.configuration["StableAge"] > 60:  # nobody draws it ahead
            server.request("GET", f"/series/{series}/thumbnail")
        return server.request("GET", f"/series/{series}/attachments/{number}/data").ok

    server.wait_until(is_kept)


def let_the_second_pass() -> None:
    """In which an old picture may be given: who asks from now on gets the new one, however busy this machine is."""
    time.sleep(1.01)
