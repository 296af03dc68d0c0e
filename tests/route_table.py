# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every route of every script, with every parameter that it takes and a value that is allowed and harmless.

`test_route_parameters.py` compares this with what the scripts register, so that `test_fuzz_routes.py` leaves no new route
and no new parameter untried.
Harmless: what is named is not there, or lies in the year 1900.
"""

from __future__ import annotations

from typing import Any

NOBODY = "00000000-11111111-22222222-33333333-44444444"  # an Orthanc identifier that no resource has
PAGE: dict[str, Any] = {"since": 0, "limit": 10}
LIST: dict[str, Any] = {**PAGE, "short": True, "instances": False, "expand": True}
PICTURE: dict[str, Any] = {"size": 64, "format": "png", "quality": 50, "icon": True}
PURGE: dict[str, Any] = {
    "since": "19000101",
    "older-than": "120y",
    "by": "StudyDate",
    "Query": {"PatientID": "nobody"},
    "Labels": ["none"],
    "LabelsConstraint": "All",
    "limit": 1,
    "undated": False,
    "keep-received-days": 7,
    "only-if-at": ["nobody"],
    "proof": "C-FIND",
    "dry-run": True,
    "force": False,
    "async": False,
    "format": "json",
}
DELIVERIES: dict[str, Any] = {
    **PAGE,
    "before": 0,
    "state": "dead",
    "destination": "nobody",
    "job": NOBODY,
    "resource": NOBODY,
    "study": NOBODY,
    "from": "20260131",
    "to": "20260201",
}


def _common(name: str, routes: str = "") -> dict[str, dict[str, Any]]:
    """What each script has: its status and its routes."""
    return {f"GET /{name}/status": {}, f"GET /{name}{routes}": {}}


def _forwarder(name: str) -> dict[str, dict[str, Any]]:
    return {
        **_common(name),
        f"GET /{name}/deliveries": DELIVERIES,
        f"POST /{name}/deliveries/retry": {"Destination": "nobody"},
        f"GET /{name}/deliveries/([0-9]+)": {},
        f"DELETE /{name}/deliveries/([0-9]+)": {},
        f"POST /{name}/deliveries/([0-9]+)/retry": {},
        f"GET /{name}/destinations": {},
        f"POST /{name}/destinations/([^/]+)/(pause|resume)": {},
        f"GET /{name}/rules": {},
        f"POST /{name}/rules/test": {"Resource": NOBODY, "Level": "Study"},
        f"POST /{name}/send": {"Resource": NOBODY, "Level": "Study", "Destinations": ["nobody"], "Rule": "nobody"},
        f"POST /{name}/owed": {"Resources": [NOBODY]},
        f"POST /{name}/protected": {"Patients": [NOBODY]},
        f"GET /{name}/catch-up": {},
        f"POST /{name}/catch-up": {"Since": "2026-01-31T13:00:00Z", "DryRun": True},
        f"POST /{name}/backfill": {
            **{"From": "19000101", "To": "19000102", "Destination": "nobody", "Rule": "nobody", "DryRun": True}
        },
    }


ROUTES: dict[str, dict[str, Any]] = {
    **_forwarder("auto-forward-dicomweb"),
    "GET /dicom-web/auto-forward-dicomweb/files/([0-9a-f-]+)": {},
    **_forwarder("auto-forward-modality"),
    **_forwarder("auto-forward-peer"),
    "GET /scripts": {},
    "GET /scripts/health": {},
    **_common("anonymize-series"),
    "GET /anonymize-series/jobs": {**PAGE, "before": 0, "state": "dead"},
    "GET /anonymize-series/jobs/([0-9]+)": {},
    "DELETE /anonymize-series/jobs/([0-9]+)": {},
    "POST /anonymize-series/jobs/([0-9]+)/retry": {},
    "POST /anonymize-series/owed": {"Resources": [NOBODY]},
    "GET /anonymize-series/held": PAGE,
    "GET /anonymize-series/register": {"patient": "nobody", "study": "1.2", "pseudonym": "nobody"},
    "POST /anonymize-series/([0-9a-f-]+)": {"Recipe": "plain"},
    "POST /anonymize-series/([0-9a-f-]+)/re-identify": {},
    "GET /audit-log": {
        **{"patient": "nobody", "study": NOBODY, "event": "deleted", "since": "19000101", "until": "19000102"},
        **{"after": 0, "limit": 10},
    },
    "GET /audit-log/newest": {},
    **_common("audit-log", "/routes"),
    **_common("auto-retries"),
    "GET /auto-retries/jobs": {**PAGE, "state": "dead", "destination": "nobody", "job": NOBODY},
    "GET /auto-retries/jobs/([0-9]+)": {},
    "DELETE /auto-retries/jobs/([0-9]+)": {},
    "POST /auto-retries/jobs/([0-9]+)/retry": {},
    "POST /auto-retries/jobs/retry": {"Destination": "nobody"},
    "POST /auto-retries/owed": {"Resources": [NOBODY]},
    **_common("cmove-interceptor"),
    "GET /cmove-interceptor/requests": {**PAGE, "before": 0, "state": "moved"},
    "DELETE /cmove-interceptor/services/(.+)": {},
    **_common("dashboard", "/routes"),
    "GET /dashboard": {},
    "GET /dashboard/files/([^/]+)/(.+)": {},
    "GET /dashboard/summary": {},
    "GET /dashboard/flow": {"since": 0},
    "POST /dashboard/may-act": {},
    **_common("dicom-events"),
    "GET /dicom-events/dead-letters": {**PAGE, "broker": "file"},
    "POST /dicom-events/dead-letters/retry": {"Broker": "file"},
    "GET /dicom-events/dead-letters/([0-9]+)": {},
    "DELETE /dicom-events/dead-letters/([0-9]+)": {},
    "POST /dicom-events/dead-letters/([0-9]+)/retry": {},
    "DELETE /dicom-events/brokers/(.+)": {},
    "POST /dicom-events/replay": {"Study": NOBODY, "From": "1900-01-01T00:00:00Z", "To": "1900-01-02T00:00:00Z"},
    "GET /dicom-events/catch-up": {},
    "POST /dicom-events/catch-up": {"Since": "2026-01-31T13:00:00Z", "DryRun": True},
    **_common("instance-dump"),
    "GET /pydicom/([^/]+)": {"format": "json"},
    "GET /purge-old-studies": PURGE,
    "POST /purge-old-studies": PURGE,
    **_common("purge-old-studies", "/routes"),
    "GET /purge-old-studies/jobs": PAGE,
    "GET /purge-old-studies/jobs/([^/]+)": {},
    "POST /purge-old-studies/jobs/([^/]+)/cancel": {},
    "POST /purge-old-studies/confirm-clock": {},
    "GET /purge-old-studies/rules/([^/]+)/dry-run": {},
    "GET /purge-old-studies/history": {**PAGE, "purge": 1},
    "GET /dicom-web/purge-old-studies/files/([0-9a-f-]+)": {},
    "GET /with-private-tags/series": LIST,
    "GET /with-private-tags/series/([^/]+)": LIST,
    "GET /with-private-tags/studies/([^/]+)/series": LIST,
    "GET /with-private-tags/patients/([^/]+)/series": LIST,
    **_common("series-private-tags"),
    "GET /with-private-tags/status": {},
    "POST /with-private-tags/reconstruct": {"Patient": NOBODY, "Study": NOBODY, "Series": NOBODY},
    "GET /series/([^/]+)/thumbnail": PICTURE,
    "GET /studies/([^/]+)/thumbnail": PICTURE,
    "GET /instances/([^/]+)/thumbnail": PICTURE,
    **_common("series-thumbnail"),
}
ACT_ON_GET = {"GET /purge-old-studies"}
