# SPDX-License-Identifier: AGPL-3.0-or-later
"""Lays the site out as the repository is, so that each link works in both. MkDocs runs it (`hooks` of mkdocs.yml)."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
# Besides what is in docs/: pages, and what pages link to.
MORE = ("*.md", "LICENSE", "examples/**/*.md", "examples/**/*.py", "examples/**/*.json", "examples/**/*.yml")
KEPT = {".md", ".png", ".json"}


def on_files(files: Files, config: Any) -> Files:
    """Put each file of docs/ into `docs/` of the site, and add what is above."""
    docs = Path(config.docs_dir)
    theme = [file for file in files if not _is_inside(file, docs)]
    paths = [path for path in docs.rglob("*") if path.suffix in KEPT]
    paths += [path for pattern in MORE for path in ROOT.glob(pattern) if path.is_file()]
    return Files([*theme, *(_file(path, config) for path in sorted(set(paths)))])


def _is_inside(file: File, folder: Path) -> bool:
    return file.abs_src_path is not None and Path(file.abs_src_path).is_relative_to(folder)


def _file(path: Path, config: Any) -> File:
    name = path.relative_to(ROOT).as_posix()
    return File(name, str(ROOT), config.site_dir, config.use_directory_urls)
