# SPDX-License-Identifier: AGPL-3.0-or-later
"""What only root may do: small and read-only file systems for tests. `testing/install` needs root or sudo already."""

from __future__ import annotations

import os

AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
