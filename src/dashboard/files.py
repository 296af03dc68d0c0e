# SPDX-License-Identifier: AGPL-3.0-or-later
"""The files of the page, all in memory."""

from __future__ import annotations

import hashlib

from common.embedded import embedded

JAVASCRIPT, CSS, SVG = "text/javascript; charset=utf-8", "text/css; charset=utf-8", "image/svg+xml"
INDEX = embedded("page/index.html")
APP = embedded("page/app.js")
STYLE = embedded("page/style.css")
PARTS = embedded("page/parts.css")
ICON = embedded("page/icon.svg")
LIB_ACTIONS = embedded("page/lib/actions.js")
LIB_API = embedded("page/lib/api.js")
LIB_CHART = embedded("page/lib/chart.js")
LIB_FORMAT = embedded("page/lib/format.js")
LIB_LIST = embedded("page/lib/list.js")
LIB_POLL = embedded("page/lib/poll.js")
LIB_ROUTER = embedded("page/lib/router.js")
LIB_STUDIES = embedded("page/lib/studies.js")
LIB_UI = embedded("page/lib/ui.js")
PANELS = embedded("page/panels/index.js")
PANEL_FLOW = embedded("page/panels/flow.js")
PANEL_AUDIT = embedded("page/panels/audit.js")
PANEL_DELIVERIES = embedded("page/panels/deliveries.js")
PANEL_JOBS = embedded("page/panels/jobs.js")
PANEL_RETENTION = embedded("page/panels/retention.js")
PANEL_DESTINATIONS = embedded("page/panels/destinations.js")
PANEL_SCRIPTS = embedded("page/panels/scripts.js")
PANEL_EVENTS = embedded("page/panels/events.js")
PANEL_RULES = embedded("page/panels/rules.js")
PANEL_MOVES = embedded("page/panels/moves.js")
PANEL_DEIDENTIFICATION = embedded("page/panels/deidentification.js")
VENDOR_PREACT = embedded("vendor/preact.js")
VENDOR_UPLOT = embedded("vendor/uplot.js")
VENDOR_UPLOT_CSS = embedded("vendor/uplot.css")
VENDOR_LICENSES = embedded("vendor/LICENSES.txt")
# By their paths below `/dashboard/files/{hash}/`, where modules find each other as they do in src/.
FILES: dict[str, tuple[str, str]] = {
    "app.js": (JAVASCRIPT, APP),
    "style.css": (CSS, STYLE),
    "parts.css": (CSS, PARTS),
    "icon.svg": (SVG, ICON),
    "lib/actions.js": (JAVASCRIPT, LIB_ACTIONS),
    "lib/api.js": (JAVASCRIPT, LIB_API),
    "lib/chart.js": (JAVASCRIPT, LIB_CHART),
    "lib/format.js": (JAVASCRIPT, LIB_FORMAT),
    "lib/list.js": (JAVASCRIPT, LIB_LIST),
    "lib/poll.js": (JAVASCRIPT, LIB_POLL),
    "lib/router.js": (JAVASCRIPT, LIB_ROUTER),
    "lib/studies.js": (JAVASCRIPT, LIB_STUDIES),
    "lib/ui.js": (JAVASCRIPT, LIB_UI),
    "panels/index.js": (JAVASCRIPT, PANELS),
    "panels/events.js": (JAVASCRIPT, PANEL_EVENTS),
    "panels/rules.js": (JAVASCRIPT, PANEL_RULES),
    "panels/moves.js": (JAVASCRIPT, PANEL_MOVES),
    "panels/deidentification.js": (JAVASCRIPT, PANEL_DEIDENTIFICATION),
    "panels/flow.js": (JAVASCRIPT, PANEL_FLOW),
    "panels/audit.js": (JAVASCRIPT, PANEL_AUDIT),
    "panels/deliveries.js": (JAVASCRIPT, PANEL_DELIVERIES),
    "panels/jobs.js": (JAVASCRIPT, PANEL_JOBS),
    "panels/retention.js": (JAVASCRIPT, PANEL_RETENTION),
    "panels/destinations.js": (JAVASCRIPT, PANEL_DESTINATIONS),
    "panels/scripts.js": (JAVASCRIPT, PANEL_SCRIPTS),
    "vendor/preact.js": (JAVASCRIPT, VENDOR_PREACT),
    "vendor/uplot.js": (JAVASCRIPT, VENDOR_UPLOT),
    "vendor/uplot.css": (CSS, VENDOR_UPLOT_CSS),
    "vendor/LICENSES.txt": ("text/plain; charset=utf-8", VENDOR_LICENSES),
}
# In the path of each file: a browser keeps files for ever, and another version of the script has another path.
FILES_HASH = hashlib.sha256("\0".join(f"{name}\0{text}" for name, (_, text) in FILES.items()).encode()).hexdigest()[:16]
PAGE = INDEX.replace("{files}", f"dashboard/files/{FILES_HASH}")
# Nothing inline, nothing from elsewhere, nothing in a frame of another site.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": POLICY,
    "Cache-Control": "private, max-age=31536000, immutable",
}
