# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finds and loads the modules of a combined file."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import io
import linecache
import os
import zipfile
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

from combine.runtime.log import Log
from combine.runtime.script import Script


class Loader(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of the combined file, each with its own file name, lines and text."""

    def __init__(
        self, scripts: list[Script], owners: dict[int, Script], log: Log, folder: Path, files: dict[str, bytes]
    ) -> None:
        self.owners, self.log, self.folder, self.files = owners, log, folder, files
        self.all_scripts = scripts
        self.scripts = {module: script for script in scripts for module in script.modules}

    def find_spec(
        self, fullname: str, path: object, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in self.scripts:
            file = self.get_filename(fullname)
            places = [str(Path(file).parent)] if self.is_package(fullname) else None
            return importlib.util.spec_from_file_location(
                fullname, file, loader=self, submodule_search_locations=places
            )
        if any(module.startswith(fullname + ".") for module in self.scripts):  # a folder without __init__.py
            return importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        return None

    def is_package(self, fullname: str) -> bool:
        return self.scripts[fullname].modules[fullname].endswith("/__init__.py")

    def get_filename(self, fullname: str) -> str:
        return str(self.folder / self.scripts[fullname].modules[fullname])

    def content(self, fullname: str) -> bytes:
        script = self.scripts[fullname]
        return self.files[script.files[script.modules[fullname]]]

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.content(fullname))

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.content(fullname), self.get_filename(fullname))

    def get_data(self, path: str) -> bytes:
        """Answer `pkgutil.get_data`."""
        name = os.path.relpath(path, self.folder).replace(os.sep, "/")
        for script in self.all_scripts:
            if name in script.files:
                return self.files[script.files[name]]
        raise FileNotFoundError(path)

    def get_resource_reader(self, fullname: str) -> Any:
        """Answer `importlib.resources` with the package's files as an archive in memory."""
        if not self.is_package(fullname):
            return None
        script = self.scripts[fullname]
        top = script.modules[fullname].removesuffix("__init__.py")
        archive = zipfile.ZipFile(io.BytesIO(), "w")
        archive.filename = str(self.folder / top)
        for name, digest in script.files.items():
            if name.startswith(top):
                archive.writestr(zipfile.ZipInfo(name.removeprefix(top)), self.files[digest])
        return SimpleNamespace(files=lambda: zipfile.Path(archive))

    def exec_module(self, module: ModuleType) -> None:
        name, file = module.__name__, self.get_filename(module.__name__)
        script = self.scripts[name]
        self.owners[id(module.__dict__)] = script
        # Without a time of change the entry stays, whatever lies on the disk under that name.
        linecache.cache[file] = (len(self.content(name)), None, self.get_source(name).splitlines(True), file)
        if name != script.module:
            super().exec_module(module)
            return
        script.state = "loading"
        try:
            super().exec_module(module)
            script.state = "loaded"
            while script.pending:
                script.pending.pop(0)()
        except BaseException as error:
            script.state, script.error = "failed", self.log.describe(error)
            script.pending.clear()
            traced = self.log.trace(error)
            self.log.write("Error", f"The script {name} failed to load: {script.error}, traceback:\n{traced}")
            raise
