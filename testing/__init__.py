# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tools to test a script for Orthanc's Python plugin: this project's own, and yours.

- `testing.standin`: a strict stand-in for the `orthanc` module; a test takes milliseconds.
- `testing.server`: a real Orthanc in a folder of its own on free ports; a test takes seconds.
- `testing.waiting`, `testing.logs`: `wait_until`, and assertions on what was logged.
- `testing.dicom`: real and generated DICOM files to send to it.
- `testing.nodes`: DICOM nodes and HTTP servers that misbehave as real ones do.
- `testing.awkward`: a DICOM node that is as awkward as the PACS that exist.
- `testing.pytest_plugin`: all of them as pytest fixtures, by `pytest -p testing.pytest_plugin`.

How to use them: docs/testing.md.
"""
