"""The health check of the containers: exit code 0 when this one does its work. `beat` looks after Celery's clock."""

import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

# Celery's clock notes at least every three minutes what it has sent.
LONGEST_SILENCE = 600.0


def web() -> str:
    """What is wrong, or ""."""
    address = f"http://127.0.0.1:{os.environ.get('PORT', '8787')}/health/ready"
    try:
        with urllib.request.urlopen(address, timeout=9):
            return ""
    except (urllib.error.URLError, OSError) as error:
        return f"{address}: {error}"


def beat() -> str:
    notes = Path(os.environ.get("CCPROXY_DATA_DIR", "var")).glob("beat-schedule*")
    latest = max((path.stat().st_mtime for path in notes), default=0.0)
    return "" if time.time() - latest < LONGEST_SILENCE else "beat has noted nothing for ten minutes"


if __name__ == "__main__":
    sys.exit((beat if sys.argv[1:] == ["beat"] else web)() or 0)
