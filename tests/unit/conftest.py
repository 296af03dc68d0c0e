# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tests without a server: what is in src/ with fakes around it."""

from tests.unit.fakes import clock, rest, source, start

__all__ = ["clock", "rest", "source", "start"]
