# SPDX-License-Identifier: AGPL-3.0-or-later
"""A web page of one's own, and a button in Orthanc Explorer that leads to it: how many studies of which modality are here.

http://127.0.0.1:8042/modalities-page
"""

import collections
import html
import json
from typing import Any

import orthanc

PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Studies by modality</title>
<h1>Studies by modality</h1>
<table id="modalities"><tr><th>Modality<th>Studies{rows}</table>
<p><a href="app/explorer.html">Back</a></html>
"""

# Runs in each page of Orthanc Explorer when it is loaded; its first page has the id "lookup".
BUTTON = """
window.addEventListener('DOMContentLoaded', function () {
  var link = document.createElement('a');
  link.id = 'modalities-page';
  link.href = '../modalities-page';
  link.rel = 'external';
  link.textContent = 'Studies by modality';
  document.querySelector('#lookup [data-role="content"]').appendChild(link);
});
"""


def page(output: Any, uri: str, **request: Any) -> None:
    """What comes from DICOM files is escaped: a modality may be called `<script>`."""
    if request["method"] != "GET":
        output.SendMethodNotAllowed("GET")
        return
    query = {"Level": "Study", "Query": {}, "Expand": True, "RequestedTags": ["ModalitiesInStudy"]}
    studies = json.loads(orthanc.RestApiPost("/tools/find", json.dumps(query)))
    totals = collections.Counter(modality for study in studies for modality in modalities_of(study))
    rows = "".join(f"\n<tr><td>{html.escape(name)}<td>{number}" for name, number in sorted(totals.items()))
    output.AnswerBuffer(PAGE.format(rows=rows), "text/html; charset=utf-8")


def modalities_of(study: Any) -> set[str]:
    """From 1.11.0 Orthanc computes them; 1.10.1 knows them by its series."""
    if "RequestedTags" in study:
        return set(study["RequestedTags"].get("ModalitiesInStudy", "").split("\\"))
    series = json.loads(orthanc.RestApiGet(f"/studies/{study['ID']}/series"))
    return {each["MainDicomTags"].get("Modality", "") for each in series}


orthanc.RegisterRestCallback("/modalities-page", page)
orthanc.ExtendOrthancExplorer(BUTTON)
