"""The four secrets of an installation: from the environment, or made once beside the embedded database."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

FILE_NAME = "secrets.env"


def _text() -> str:
    return secrets.token_urlsafe(48)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


# Separate secrets, since rotating one must not end every key or every session.
MAKERS: Mapping[str, Callable[[], str]] = {
    "SECRET_KEY": _text,
    "CREDENTIAL_KEYS": _fernet_key,
    "KEY_DIGEST_SECRET": _text,
    "STATE_SECRET": _text,
}


def read_secrets(environment: Mapping[str, str], data_dir: Path, *, embedded: bool) -> dict[str, str]:
    """Every secret by name; a missing one is "" unless the database is the embedded one, where it is made.

    On a shared database nothing is invented: two hosts would differ, and each would refuse the other's keys.
    """
    known = {name: environment.get(name, "") for name in MAKERS}
    if embedded and not all(known.values()):
        kept = _read(_made_once(data_dir / FILE_NAME))
        known = {name: value or kept.get(name, "") for name, value in known.items()}
    return known


def missing(known: Mapping[str, str]) -> str:
    """The sentence that stops a start, or "" when nothing is missing."""
    names = [name for name in MAKERS if not known.get(name)]
    if not names:
        return ""
    return (
        f"{', '.join(names)} must be set in the environment or in .env: with DATABASE_URL pointing to a shared database"
        " secrets are never invented, since every host needs the same ones. Make each with"
        ' python -c "import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())"'
        " and keep them with your backups."
    )


def _made_once(path: Path) -> Path:
    """Two processes may start at the same time: the file appears whole and only once."""
    if path.exists():
        return path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the ledger and the sessions will lie there too
    lines = "".join(f"{name}={make()}\n" for name, make in MAKERS.items())
    draft = path.with_name(f".{FILE_NAME}.{os.getpid()}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path


def _read(path: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}
