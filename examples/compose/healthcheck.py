# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ends with 0 if Orthanc answers HTTP, whatever the status; what the Dockerfile's HEALTHCHECK runs.

ORTHANC_HEALTH_URL is another address than http://127.0.0.1:8042/system. A certificate is not checked.
"""

import os
import ssl
import sys
import urllib.error
import urllib.request

url = os.environ.get("ORTHANC_HEALTH_URL", "http://127.0.0.1:8042/system")
try:
    urllib.request.urlopen(url, timeout=8, context=ssl._create_unverified_context())
except urllib.error.HTTPError:
    pass  # 401 without a user: it answers
except OSError as error:
    sys.exit(f"{url}: {error}")
