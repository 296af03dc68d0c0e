# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/version.py: edit that, never this file.
"""The version of the collection, the same for all scripts."""

__version__ = "0.1.0"
