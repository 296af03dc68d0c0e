# SPDX-License-Identifier: AGPL-3.0-or-later
"""Each real file's thumbnail beside what Orthanc shows, on one page for people: `make gallery` writes build/gallery/.

The files are stored as they are. What can be said of two pictures in figures is here too; tests look at these.
"""

from __future__ import annotations

import dataclasses
import html
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
from PIL import Image, ImageChops, ImageStat

from testing.server import OrthancServer
from tests.corpus import corpus_files
from tests.series_thumbnail.helpers import ROOT, SCRIPT, let_the_second_pass, picture_of

FOLDER = ROOT / "build" / "gallery"
CONFIGURATION = {"StableAge": 3600}  # nothing is drawn ahead
SIZE = 128
QUICK = {"Accept": "image/jpeg"}  # which Orthanc makes much quicker than PNG; in few pixels it loses colours
FEW_PIXELS = 65_536
COMPARED = 32  # pixels of each side: finer differences are no matter of likeness
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file: what it says of itself, its thumbnail, and the same frame as Orthanc's `/preview` shows it."""

    name: str
    dataset: Any
    refused: str  # Orthanc's reason not to store it, else empty
    thumbnail: Image.Image | None = None
    is_icon: bool = True
    preview: Image.Image | None = None

    @property
    def syntax(self) -> str:
        syntax = self.dataset.file_meta.get("TransferSyntaxUID") if hasattr(self.dataset, "file_meta") else None
        return syntax.name if syntax else "none"

    @property
    def proportions(self) -> float:
        """The height of the image by its width, as the file says."""
        rows, columns = self.dataset.Rows, self.dataset.Columns
        return float(rows / columns * pixel_proportions(self.dataset))

    @property
    def likeness(self) -> float | None:
        """The correlation of thumbnail and preview, 1 where they are alike, -1 where one is inverted; None if one is flat."""
        if self.thumbnail is None or self.preview is None or self.is_icon:
            return None
        return correlation(*(values(each) for each in (self.thumbnail, self.preview)))


def entries(server: OrthancServer) -> list[Entry]:
    """Store all real files and look at each; in rounds, because several are the same instance with other pixels."""
    found, files = [], corpus_files()
    while files:
        stored, later = [], []
        for name, path in files:
            answer = server.request("POST", "/instances", data=path.read_bytes())
            if not answer.ok:
                found.append(Entry(name, read(path), refusal(answer.json())))
            elif answer.json()["Status"] == "AlreadyStored":
                later.append((name, path))
            else:
                stored.append((name, path, answer.json()["ID"]))
        found += [look(server, name, path, instance) for name, path, instance in stored]
        for _, _, instance in stored:
            server.delete(f"/instances/{instance}")
        files = later
        if later:
            let_the_second_pass()
    return sorted(found, key=lambda entry: entry.name)


def look(server: OrthancServer, name: str, path: Path, instance: str) -> Entry:
    """Return what is shown of one instance."""
    dataset = read(path)
    is_small = dataset.get("Rows", 0) * dataset.get("Columns", 0) <= FEW_PIXELS
    frames = server.request("GET", f"/instances/{instance}/frames")
    middle = len(frames.json()) // 2 if frames.ok else 0
    for which in (f"/frames/{middle}", ""):
        path_of_preview = f"/instances/{instance}{which}/preview"
        preview = server.request("GET", path_of_preview, headers={} if is_small else QUICK)
        if preview.ok:
            break
    params = {"size": SIZE, "format": "png"}
    drawn = server.request("GET", f"/instances/{instance}/thumbnail", params={**params, "icon": "false"})
    thumbnail = drawn if drawn.ok else server.request("GET", f"/instances/{instance}/thumbnail", params=params)
    return Entry(
        name,
        dataset,
        refused="",
        thumbnail=picture_of(thumbnail.content) if thumbnail.ok else None,
        is_icon=not drawn.ok,
        preview=reduced(picture_of(preview.content)) if preview.ok else None,
    )


def reduced(image: Image.Image) -> Image.Image:
    """Return an image not larger than a page shows it."""
    image.thumbnail((2 * SIZE, 2 * SIZE), Image.Resampling.BOX)
    return image


def read(path: Path) -> Any:
    """Return a file's tags without its pixels."""
    return pydicom.dcmread(path, force=True, stop_before_pixels=True)


def refusal(answer: dict[str, Any]) -> str:
    """Return why Orthanc does not store a file."""
    return str(answer.get("Details") or answer.get("Message"))


def pixel_proportions(dataset: Any) -> float:
    """Return the height of a pixel by its width; of several frames, of the middle one."""
    for group in (dataset, *functional_groups(dataset)):
        for name in SPACINGS:
            spacing: Any = group.get(name) or ()
            if len(spacing) == 2 and min(spacing) > 0:
                return float(spacing[0]) / float(spacing[1])
    return 1.0


def functional_groups(dataset: Any) -> Iterator[Any]:
    """Yield the measures of pixels of all frames, then of the middle one."""
    groups = [*dataset.get("SharedFunctionalGroupsSequence", [])[:1]]
    of_frames = dataset.get("PerFrameFunctionalGroupsSequence", [])
    groups += of_frames[len(of_frames) // 2 :][:1]
    for group in groups:
        yield from group.get("PixelMeasuresSequence", [])[:1]


def values(image: Image.Image) -> bytes:
    """Return an image's greys, few enough to compare."""
    return image.convert("L").resize((COMPARED, COMPARED), Image.Resampling.BOX).tobytes()


def correlation(one: bytes, other: bytes) -> float | None:
    """Return Pearson's correlation; None if all values of one are the same."""
    means = [sum(each) / len(each) for each in (one, other)]
    first, second = ([value - mean for value in each] for each, mean in zip((one, other), means, strict=True))
    squares = sum(a * a for a in first) * sum(b * b for b in second)
    return sum(a * b for a, b in zip(first, second, strict=True)) / squares**0.5 if squares else None


def deviation(image: Image.Image) -> float:
    """Return the standard deviation of an image's greys, 0 where it is flat, of the size of a thumbnail."""
    small = image.convert("L")
    small.thumbnail((SIZE, SIZE), Image.Resampling.BOX)
    return float(ImageStat.Stat(small).stddev[0])


def colour(image: Image.Image) -> float:
    """Return by how much red, green and blue differ on average, from 0 to 255."""
    red, green, blue = image.convert("RGB").split()
    pairs = ((red, green), (green, blue))
    return max(float(ImageStat.Stat(ImageChops.difference(*pair)).mean[0]) for pair in pairs)


def write_page(found: list[Entry], folder: Path) -> None:
    """Write the page and its pictures into a folder, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shown = [entry for entry in found if not entry.refused]
    rows = [row(entry, number, folder) for number, entry in enumerate(shown)]
    refused = [f"<li>{html.escape(f'{entry.name}: {entry.refused}')}" for entry in found if entry.refused]
    (folder / "index.html").write_text(
        '<!doctype html><meta charset="utf-8"><title>Thumbnails of real files</title>'
        "<style>body{font:14px sans-serif} figure{display:inline-block;width:280px;margin:8px;vertical-align:top}"
        "img,span{display:inline-block;width:128px;height:128px;object-fit:contain;"
        "background:#446;color:#fff;margin:2px;vertical-align:top}"
        "figcaption{overflow-wrap:anywhere}</style>"
        f"<h1>Thumbnails of {len(shown)} real files</h1><p>On the left the thumbnail, on the right the same frame as "
        f"Orthanc's <code>/preview</code> shows it.</p>{''.join(rows)}"
        f"<h2>{len(refused)} files that Orthanc does not store</h2><ul>{''.join(refused)}</ul>\n",
        encoding="utf-8",
    )


def row(entry: Entry, number: int, folder: Path) -> str:
    """Return one file's part of the page; write its pictures."""
    pictures = ""
    for kind, image in (("thumbnail", entry.thumbnail), ("preview", entry.preview)):
        if image is None:
            pictures += f"<span>no {kind}</span>"
            continue
        if image.mode not in ("L", "RGB"):
            image = image.convert("RGB")
        image.save(folder / f"{number}-{kind}.png")
        pictures += f'<img src="{number}-{kind}.png" alt="{kind}">'
    likeness = "" if entry.likeness is None else f"likeness {entry.likeness:.2f}"
    said = (
        str(entry.dataset.get("Modality", "")),
        str(entry.dataset.get("PhotometricInterpretation", "")),
        entry.syntax,
        "icon" if entry.is_icon else likeness,
    )
    words = ", ".join(filter(None, said))
    return f"<figure>{pictures}<figcaption><b>{html.escape(entry.name)}</b><br>{html.escape(words)}</figcaption></figure>\n"


def main() -> None:
    """Write the gallery with an Orthanc of its own."""
    warnings.simplefilter("ignore", UserWarning)  # pydicom wonders at much in these files
    with tempfile.TemporaryDirectory() as folder:
        server = OrthancServer(Path(folder), SCRIPT, CONFIGURATION).start()
        try:
            found = entries(server)
        finally:
            server.kill()
            server.close()
    write_page(found, FOLDER)
    print(f"{FOLDER / 'index.html'}: {sum(not entry.refused for entry in found)} files")


if __name__ == "__main__":
    main()
