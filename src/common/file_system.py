# SPDX-License-Identifier: AGPL-3.0-or-later
"""How full a file system is, as `df` counts."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple


class FileSystem(NamedTuple):
    """Bytes that are used, bytes that there are without what only root may use, and what tells it from others."""

    used: int
    size: int
    identity: int

    @property
    def used_percent(self) -> float:
        """How full it is."""
        return 100 * self.used / max(self.size, 1)


def file_system_of(folder: Path) -> FileSystem:
    """Return the file system that a folder is on. Raises OSError: it can't be measured."""
    if not hasattr(os, "statvfs"):  # Windows
        usage = shutil.disk_usage(folder)
        return FileSystem(usage.total - usage.free, usage.total, folder.stat().st_dev)
    found = os.statvfs(folder)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    return FileSystem(used, used + found.f_bavail * found.f_frsize, found.f_fsid)
