# SPDX-License-Identifier: AGPL-3.0-or-later
"""The version of the collection, the same for all scripts."""

__version__ = "0.1.0"
