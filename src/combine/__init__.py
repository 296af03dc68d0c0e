#!/usr/bin/env python3
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Make one Orthanc script of many: ``python3 combine.py A.py B.py dicom_events -o combined.py``.

Orthanc's Python plugin loads one script and grants one callback of each kind; a second registration ends the
server. The combined file embeds each script unchanged, loads each as the module that it is alone, and hands
every event to each script that asked for it. It works on scripts that know nothing of it. The scripts come back
byte for byte with ``--extract``. ``docs/combine.md`` gives the rules and what differs from running alone.

It needs Python 3.11 or newer and nothing else; copy this one file wherever it is wanted.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from combine.configuration import check_configuration
from combine.imports import missing_imports
from combine.reading import extract, show, verify
from combine.registrations import conflicts
from combine.sources import MARK, CombineError, Source, bundle, name_modules, place, read, read_source
from combine.writing import render, write
from common.version import __version__


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def error(self, message: str) -> Any:
        raise CombineError(f"{message} (--help tells more)")


def arguments() -> Parser:
    parser = Parser(
        prog="combine.py",
        usage="%(prog)s SCRIPT [SCRIPT ...] -o FILE [--config PATH] [--no-bundle] [--allow-conflict] [--force]\n"
        "       %(prog)s SCRIPT [SCRIPT ...] --config PATH\n"
        "       %(prog)s --list FILE | --verify FILE [SCRIPT ...] | --extract FILE FOLDER",
        description="Make one Orthanc script of many.",
        epilog="Example: python3 combine.py auto_forward_modality.py purge_old_studies.py dicom_events "
        "-o /etc/orthanc/scripts/combined.py --config /etc/orthanc",
    )
    parser.add_argument("sources", nargs="*", type=Path, metavar="SCRIPT", help="a script or a package's folder")
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        help="the combined file to write; needed, except with --config, --list, --verify and --extract",
    )
    parser.add_argument("--no-bundle", action="store_true", help="leave out what scripts import from their own folder")
    parser.add_argument(
        "--allow-conflict",
        action="store_true",
        help="where two scripts want the same route or callback, the first wins",
    )
    parser.add_argument("--force", action="store_true", help="replace the output, also if it is no combined file")
    parser.add_argument("--version", action="version", version=f"combine.py {__version__}")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help="check Orthanc's configuration, a file or folder; status 1 if something is wrong or missing, 2 if it can't be read",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--list", type=Path, metavar="FILE", help="show what a combined file holds")
    group.add_argument("--verify", type=Path, metavar="FILE", help="say which scripts changed since; 1 if any did")
    group.add_argument(
        "--extract", type=Path, nargs=2, metavar=("FILE", "FOLDER"), help="write the scripts as they were"
    )
    return parser


def collect(paths: Sequence[Path], options: argparse.Namespace) -> list[Source]:
    sources = [read_source(path) for path in paths]
    given: dict[Path, Source] = {}
    for source in sources:
        if source.path.resolve() in given:
            raise CombineError(f"{source.path} is given twice")
        given[source.path.resolve()] = source
    for source in sources:
        bundle(source, given, not options.no_bundle)
    name_modules(sources, options.allow_conflict)
    place(sources, options.allow_conflict)
    return sources


def combine(options: argparse.Namespace) -> int:
    if not options.sources or (options.output is None and options.config is None):
        raise CombineError("name the scripts and the file to write: combine.py A.py B.py -o combined.py")
    sources = collect(options.sources, options)
    found = list(conflicts(sources))
    if found and not options.allow_conflict:
        raise CombineError("; ".join(found) + " (--allow-conflict: the first wins)")
    for missing in missing_imports(sources, options.output):
        print(f"combine.py: warning: {missing}", file=sys.stderr)
    problems = list(check_configuration(options.config, sources, options.output)) if options.config else []
    if options.output:
        check_output(options.output, sources, force=options.force)
        write(options.output, render(sources, options))
    for problem in problems:
        print(f"{options.config}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def check_output(path: Path, sources: list[Source], *, force: bool) -> None:
    if path.suffix.lower() != ".py" or "." in path.stem or path.stem == "orthanc":
        raise CombineError(f"{path}: Orthanc can't load a script of this name (one dot, .py, and not orthanc.py)")
    if any(path.resolve() in source.read_from for source in sources):
        raise CombineError(f"{path} is one of the files that go in: it is left as it is; write to another one")
    if path.is_file() and path.stat().st_size and not read(path).startswith(MARK.encode()) and not force:
        raise CombineError(f"{path} is there and no combined file: it is left as it is (--force replaces it)")


def main(words: Sequence[str] | None = None) -> int:
    try:
        options = arguments().parse_args(words)
        if options.list:
            return show(options.list)
        if options.verify:
            return verify(options.verify, options.sources)
        if options.extract:
            return extract(*options.extract)
        return combine(options)
    except (CombineError, OSError) as error:
        print(f"combine.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    gc.disable()  # it would look through half a million nodes again and again, half of the time, and find nothing to free
    sys.exit(main())
