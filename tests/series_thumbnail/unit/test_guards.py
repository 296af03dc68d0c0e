# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_thumbnail without a server: a picture is that of the series as it is now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import Answer, StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

SERIES = "-".join(["0123abcd"] * 5)
URI = f"/series/{SERIES}/thumbnail"
JPEG = b"\xff\xd8\xff"


class Gallery:
    """A series of three instances that Orthanc can render: a picture holds the name of its instance."""

    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, standin: StandIn, clock: Clock) -> None:
        self.rest, self._standin, self.clock = rest, standin, clock
        self.instances, self.metadata = ["i1", "i2", "i3"], {"LastUpdate": "1"}
        rest.answers |= {
            ("GET", "/changes?last"): lambda *_: {"Last": len(self.instances)},
            ("GET", "/statistics"): {},
            ("GET", f"/series/{SERIES}/statistics"): lambda *_: self._statistics(),
            ("GET", f"/series/{SERIES}/metadata"): lambda *_: self.metadata,
            ("GET", f"/series/{SERIES}/instances"): lambda *_: [self._instance(each) for each in self.instances],
        }
        for number in range(1, 9):
            tags = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Rows": "64", "Columns": "64", "NumberOfFrames": "1"}
            rest.answers["GET", f"/instances/i{number}/simplified-tags"] = tags
            rest.answers["GET", f"/instances/i{number}/rendered"] = JPEG + b"i%d" % number
            rest.answers["GET", f"/instances/i{number}/metadata/TransferSyntax"] = b"1.2.840.10008.1.2.4.90"
        self.script = start("series_thumbnail", {"UserMetadata": {}})

    def _statistics(self) -> Any:
        return {"DicomDiskSize": "1", "CountInstances": len(self.instances)}

    @staticmethod
    def _instance(name: str) -> dict[str, Any]:
        return {"ID": name, "MainDicomTags": {"InstanceNumber": name[1:]}}

    def get(self, query: str = "", uri: str = URI, **headers: str) -> Answer:
        return self._standin.http("GET", f"{uri}{query}", headers=headers)

    def grow(self, *instances: str, event: bool = True) -> None:
        self.instances += instances
        if event:
            self.script.change("NEW_CHILD_INSTANCE", SERIES, "SERIES")

    def drawn(self) -> int:
        return sum("/rendered" in path for _, path, _ in self.rest.requests)


@pytest.fixture
def gallery(start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn, clock: Clock) -> Gallery:
    return Gallery(start, rest, orthanc_standin, clock)


def test_the_middle_instance_is_drawn_once(gallery: Gallery) -> None:
    assert [gallery.get().body for _ in range(3)] == [JPEG + b"i2"] * 3
    assert gallery.drawn() == 1


def test_the_middle_moves_with_what_comes(gallery: Gallery) -> None:
    gallery.get()
    gallery.grow("i4", "i5", "i6", "i7")
    assert gallery.get().body == JPEG + b"i4"


def test_without_an_event_an_old_picture_is_given_for_a_second_at_most(gallery: Gallery) -> None:
    gallery.get()
    gallery.grow("i4", "i5", "i6", "i7", event=False)
    gallery.clock.advance(1.1)
    assert gallery.get().body == JPEG + b"i4"


def test_while_nothing_changes_a_picture_is_given_again_without_drawing(gallery: Gallery) -> None:
    gallery.get()
    gallery.clock.advance(3600)
    assert gallery.get().body == JPEG + b"i2"
    assert gallery.drawn() == 1


def test_what_is_deleted_is_gone_from_memory_too(gallery: Gallery) -> None:
    gallery.get()
    gallery.rest.answers["GET", f"/series/{SERIES}/metadata"] = gallery.rest.error(404)
    gallery.script.change("DELETED", SERIES, "SERIES")
    assert gallery.get().status == 404


def test_what_came_while_it_was_drawn_does_not_leave_an_old_picture_behind(gallery: Gallery) -> None:
    def render(_path: str, _body: Any) -> bytes:
        gallery.grow("i4", "i5", "i6", "i7")
        return JPEG + b"i2"

    gallery.rest.answers["GET", "/instances/i2/rendered"] = render
    gallery.get()
    assert gallery.get().body == JPEG + b"i4"


def test_a_picture_that_the_caller_has_is_not_sent_again(gallery: Gallery) -> None:
    etag = gallery.get().headers["ETag"]
    assert gallery.get(**{"if-none-match": etag}).status == 304
    assert gallery.get(**{"if-none-match": '"another"'}).status == 200
    assert gallery.get().headers["Cache-Control"] == "private, no-cache"


def test_the_choice_and_the_picture_are_kept_with_the_series(gallery: Gallery) -> None:
    gallery.get("?size=128")
    put = eventually(lambda: [path for method, path, _ in gallery.rest.requests if method == "PUT"])
    assert put[0].startswith(f"/series/{SERIES}/attachments/")


def test_an_image_that_orthanc_can_not_decode_is_an_icon_or_a_404_and_said_once(
    gallery: Gallery, orthanc_standin: StandIn
) -> None:
    for number in (1, 2, 3):
        gallery.rest.answers["GET", f"/instances/i{number}/rendered"] = b"no picture"
    assert gallery.get("?format=png").body.startswith(b"\x89PNG")
    assert gallery.get("?format=png&icon=false").status == 404
    said = [text for _, text in orthanc_standin.logs if "can't decode" in text]
    assert len(said) == 1


def test_what_is_no_identifier_reaches_no_route_of_orthanc(gallery: Gallery) -> None:
    for name in ("x", "..", "0123abcd", SERIES.upper()):
        assert gallery.get(uri=f"/series/{name}/thumbnail").status == 404
    assert [path for _, path, _ in gallery.rest.requests if "thumbnail" not in path] == []


@pytest.mark.parametrize(
    "query", ["?size=0", "?size=x", "?size=100000", "?quality=101", "?format=gif", "?icon=no", "?siz=1"]
)
def test_a_wrong_parameter_is_a_400_and_draws_nothing(gallery: Gallery, query: str) -> None:
    assert gallery.get(query).status == 400
    assert gallery.drawn() == 0


def test_what_orthanc_gives_and_is_no_image_is_an_icon(gallery: Gallery) -> None:
    """Of an image of floats, for example, that ends too early."""
    for number in range(1, 4):
        gallery.rest.answers["GET", f"/instances/i{number}/simplified-tags"] |= {
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": "16",
        }
        gallery.rest.answers["GET", f"/instances/i{number}/numpy"] = b"\x93NUMPY\x01\x00\x04\x00{}  cut"
    answer = gallery.get("?format=png")
    assert (answer.status, answer.body[:4]) == (200, b"\x89PNG")
