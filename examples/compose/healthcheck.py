# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ends with 0 if Orthanc answers HTTP, whatever the status; what the Dockerfile's HEALTHCHECK runs.

With `ready` it asks /scripts/health, as ORTHANC_HEALTH_USER (`name:password`), and ends with 1 unless each script runs
or stands by. ORTHANC_HEALTH_URL is another address than http://127.0.0.1:8042/system. A certificate is not checked.
"""

import base64
import os
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request

url = os.environ.get("ORTHANC_HEALTH_URL", "http://127.0.0.1:8042/system")
is_ready_wanted = sys.argv[1:] == ["ready"]
request = urllib.request.Request(urllib.parse.urljoin(url, "scripts/health") if is_ready_wanted else url)
if user := os.environ.get("ORTHANC_HEALTH_USER"):
    request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
try:
    urllib.request.urlopen(request, timeout=8, context=ssl._create_unverified_context())
except urllib.error.HTTPError as error:
    if is_ready_wanted:
        sys.exit(f"{request.full_url}: {error.code} {error.read(2000).decode(errors='replace')}")
    # else 401 without a user: it answers
except OSError as error:
    sys.exit(f"{request.full_url}: {error}")
