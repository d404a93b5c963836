"""Provider credentials at rest: encrypted, and bound to the host they were given for."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


def host_of(url: str) -> str:
    """The host and port a credential may be sent to."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def seal(credential: str, base_url: str) -> str:
    return _box().encrypt(json.dumps([host_of(base_url), credential]).encode()).decode() if credential else ""


def unseal(sealed: str, base_url: str) -> str:
    """The credential, or "" where there is none for this host or no key of ours opens it."""
    host, credential = _opened(sealed)
    return credential if host == host_of(base_url) else ""


def is_for_another_host(sealed: str, base_url: str) -> bool:
    """Known only of what a key of ours opens: with a wrong CREDENTIAL_KEYS nothing must be thrown away."""
    host, _ = _opened(sealed)
    return host is not None and host != host_of(base_url)


def _opened(sealed: str) -> tuple[str | None, str]:
    if not sealed:
        return None, ""
    try:
        host, credential = json.loads(_box().decrypt(sealed.encode()))
    except (InvalidToken, ValueError):
        return None, ""
    return str(host), str(credential)


def _box() -> MultiFernet:
    try:
        return MultiFernet([Fernet(key) for key in settings.CREDENTIAL_KEYS])
    except ValueError as error:
        raise ImproperlyConfigured(
            "CREDENTIAL_KEYS must be one or more keys of 32 bytes in URL-safe base64, separated by commas."
        ) from error
