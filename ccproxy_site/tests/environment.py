"""A pytest plugin: every run gets a data folder and secrets of its own, before Django reads its settings."""

from __future__ import annotations

import os
import tempfile

os.environ.update(
    CCPROXY_DATA_DIR=tempfile.mkdtemp(prefix="ccproxy-tests-"),
    SECRET_KEY="only for tests",
    CREDENTIAL_KEYS="MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    KEY_DIGEST_SECRET="only for tests",
    STATE_SECRET="only for tests",
)
