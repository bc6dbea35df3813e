"""The image's health check: exit code 0 if the job API answers that the miner is ready, 1 with one line if not.

It asks at MINER_BIND and MINER_PORT, so set those instead of the flags.
"""

import os
import sys
import urllib.request

bind = os.environ.get("MINER_BIND") or "127.0.0.1"
host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(bind, f"[{bind}]" if ":" in bind else bind)  # noqa: S104
url = f"http://{host}:{os.environ.get('MINER_PORT') or 9833}/health"
try:
    urllib.request.urlopen(url, timeout=3).close()
except OSError as error:
    sys.exit(f"{url}: {error}")
