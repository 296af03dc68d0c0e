# SPDX-License-Identifier: AGPL-3.0-or-later
"""De-identifies stable series or studies by rules, sends the copies on, and takes what comes back to its patient.

UIDs and pseudonyms are made from a secret: the next series of a patient gets the same. What may show a face or a name in
its pixels, and what is no image, is held back; each copy is read again, and held back if it still says who the patient is.

A smallest configuration (the secret has at least 32 characters; without one the script stays idle):

    "AnonymizeSeries": {
      "Secret": "${ANONYMIZE_SECRET}",
      "Recipes": {"ai": {"Modality": "AI", "DeleteCopy": true}},
      "Rules": [{"Level": "Series", "Query": {"Modality": "MR"}, "Destinations": ["ai"]}]
    }

To look at and to act on, with curl:

    POST /anonymize-series/{id}                   {"Recipe": "ai"}: a study or a series, whatever the rules say
    POST /anonymize-series/{id}/re-identify       what came back for a copy (with "ReIdentify": true)
    GET  /anonymize-series/status                 and /jobs?state=dead  /jobs/{id}  /held  /register?patient=
    POST /anonymize-series/jobs/{id}/retry        and DELETE /anonymize-series/jobs/{id}

Needs pydicom, 2.3 or newer: apt install python3-pydicom, or as docs/install.md says. All keys: docs/anonymize_series.md.
"""

from __future__ import annotations

import json

import orthanc

try:
    import pydicom
    import pydicom.charset
    import pydicom.datadict
except ImportError:
    pydicom = None

from anonymize_series.anonymizer import Anonymizer
from anonymize_series.routes import Routes
from anonymize_series.settings import MIN_SECRET_CHARACTERS, NAME, SECTION, Settings, wrong_with_settings
from common.metrics import listen_to_changes
from common.packages import package_problem
from common.quirks import kept_alive
from common.routes import warn_if_open
from common.settings import SettingsError, read_settings
from common.version import __version__  # noqa: F401 - of the built file

PROBLEM = package_problem("pydicom", "2.3", pydicom and pydicom.__version__, "python3-pydicom")


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        if wrong := wrong_with_settings(settings, configuration):
            raise SettingsError(f"{SECTION}.{wrong}")
        if settings.secret is None and SECTION in configuration:
            raise SettingsError(f"{SECTION}.Secret: found none, allowed: at least {MIN_SECRET_CHARACTERS} characters")
        if PROBLEM:
            raise SettingsError(f"{NAME} stays idle: {PROBLEM}")
    except SettingsError as error:
        refusal = f"{error}. anonymize_series is idle until this is corrected."
        orthanc.LogError(refusal)
    is_unused = refusal is None and settings.secret is None
    if is_unused:
        refusal = f"anonymize_series stays idle: there is no section {SECTION}, and no Secret in it"
        orthanc.LogWarning(refusal)
    anonymizer = Anonymizer(settings, configuration)
    script = Routes(anonymizer).register(refusal, is_unused=is_unused)
    if refusal is not None:
        listen_to_changes(script)
    else:
        warn_if_open("anonymize_series", configuration)
        listen_to_changes(script, anonymizer.on_change, anonymizer.measure)
        orthanc.RegisterOnStoredInstanceCallback(kept_alive(anonymizer.on_stored))


register()
