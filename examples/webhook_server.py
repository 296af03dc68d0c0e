# SPDX-License-Identifier: AGPL-3.0-or-later
"""Takes the events of dicom_events as a webhook, checks their signature, and prints each once.

python3 webhook_server.py 8099 SECRET

It answers 200 when an event has been worked on, 401 if the signature is wrong or older than five minutes: dicom_events then
waits and tries again. Needs nothing but Python's standard library; put a web server with TLS before it.
"""

import hashlib
import hmac
import http.server
import json
import sys
import threading
import time
from collections import OrderedDict
from typing import Any

REMEMBERED = 100_000
MOST = 10_000_000  # bytes
SECRET = b""
seen: OrderedDict[str, None] = OrderedDict()  # a program that keeps a database remembers the identifiers there
one_at_a_time = threading.Lock()


def work_on(event: dict[str, Any]) -> None:
    """What a program of your own does, before it answers."""
    print(event["type"], event["subject"], flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if length > MOST:
            self.answer(413)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if not self.is_signed(body):
            self.answer(401)
            return
        event = json.loads(body)
        with one_at_a_time:
            if event["id"] not in seen:
                work_on(event)
                seen[event["id"]] = None
                if len(seen) > REMEMBERED:
                    seen.popitem(last=False)
        self.answer(200)

    def is_signed(self, body: bytes) -> bool:
        stamp = self.headers.get("X-DicomEvents-Timestamp", "0")
        expected = hmac.new(SECRET, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        fresh = stamp.isdigit() and abs(time.time() - int(stamp)) < 300
        return fresh and hmac.compare_digest(f"sha256={expected}", self.headers.get("X-DicomEvents-Signature", ""))

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    SECRET = sys.argv[2].encode()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print("ready", server.server_address[1], flush=True)
    server.serve_forever()
