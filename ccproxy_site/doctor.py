"""Looks at an installation from end to end, and says in words what is wrong with it and how to mend it.

Nothing is changed and no secret is told. Without its database everything else is still looked at.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import ipaddress
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import msgspec
import redis
from cryptography.fernet import Fernet
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import checks
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from accounting import list_prices, reports, rollups
from accounting.booking import QUARANTINE
from accounting.models import ApiKey, UsageRecord
from accounting.reports import Period
from accounting.spool import SUFFIX
from ccproxy_site import keyring
from ccproxy_site.celery import app
from providers import hot
from providers.models import CredentialMode, Provider, ProviderHealth
from providers.routing import Route, matches
from providers.snapshot import live, read_routing

Level = Literal["ok", "warning", "problem"]
Said = tuple[Level, str]

# Names that are read elsewhere than in the settings.
KNOWN_BESIDE = {"CCPROXY_BUILD_CYTHON"}
ALIKE = 0.85
SHORTEST_SECRET = 32
MEGABYTE = 1024 * 1024
LITTLE_ROOM, NO_ROOM = 1024 * MEGABYTE, 100 * MEGABYTE
# Seconds: libpq waits no less than two.
DATABASE_PATIENCE, REDIS_PATIENCE = 2, 1.0
CLOCK_TOLERANCE = 5.0
# A journal whose process has ended is taken over within two seconds, sums are made every few: what is older than this
# shows that nobody does it.
TAKE_OVER_SECONDS, SUMS_SECONDS = 60.0, 300.0
UNPRICED_DAYS, EXPIRY_DAYS = 7, 14
MOST_NAMED = 5
# Patterns with more stars are not compared: their instances double with each.
MOST_STARS = 4


class Finding(msgspec.Struct, frozen=True):
    level: Level
    about: str
    message: str


class Check(msgspec.Struct, frozen=True):
    about: str
    look: Callable[[], Iterable[Said]]


def examine() -> list[Finding]:
    found = [finding for check in BY_ITSELF for finding in findings_of(check)]
    database = findings_of(Check("database", database_answers))
    found += database
    if any(finding.level == "problem" for finding in database):
        unseen = ", ".join(check.about for check in IN_THE_DATABASE)
        return [*found, Finding("warning", "not seen", f"without the database this could not be looked at: {unseen}.")]
    return found + [finding for check in IN_THE_DATABASE for finding in findings_of(check)]


def findings_of(check: Check) -> list[Finding]:
    try:
        return [Finding(level, check.about, message) for level, message in check.look()]
    except DatabaseError as error:
        reason = f"the database refuses to tell ({first_line(error)}): see what is said of migrations."
    except OSError as error:
        reason = f"this could not be looked at: {error}. Run doctor as the user that the gateway runs as."
    return [Finding("problem", check.about, reason)]


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


# The environment


def names() -> Iterator[Said]:
    example = settings.BASE_DIR / ".env.example"
    if not example.exists():
        return
    known = KNOWN_BESIDE.union(re.findall(r"^#?([A-Z_]+)=", example.read_text(), re.MULTILINE))
    strangers = [(name, near(name, known)) for name in sorted(os.environ) if name not in known]
    suspicious = [(name, likely) for name, likely in strangers if likely or name.startswith("CCPROXY_")]
    for name, likely in suspicious:
        hint = f"did you mean {likely}?" if likely else ".env.example has all that are."
        yield "warning", f"the environment variable {name} is read by nobody; {hint}"
    if not suspicious:
        yield "ok", "no variable looks like one of ours misspelt."


def near(name: str, known: Iterable[str]) -> str:
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=ALIKE)), "")


def secrets() -> Iterator[Said]:
    if sentence := keyring.missing(settings.SECRETS):
        yield "problem", sentence
    if settings.CREDENTIAL_KEYS and not all(map(is_fernet_key, settings.CREDENTIAL_KEYS)):
        yield (
            "problem",
            "CREDENTIAL_KEYS must be keys of 32 bytes in URL-safe base64, separated by commas: no provider credential"
            " can be read.",
        )
    short = [name for name, secret in settings.SECRETS.items() if 0 < len(secret) < SHORTEST_SECRET]
    if short:
        yield "warning", f"{', '.join(short)}: shorter than {SHORTEST_SECRET} characters, which can be guessed."
    if not sentence and not short:
        yield "ok", "all four are set."


def is_fernet_key(key: str) -> bool:
    try:
        Fernet(key)
    except ValueError:
        return False
    return True


def debugging() -> Iterator[Said]:
    if settings.DEBUG:
        yield "problem", "DEBUG is on: its pages show settings and code to whoever meets an error. Take it out of .env."
    else:
        yield "ok", "DEBUG is off."


def hosts() -> Iterator[Said]:
    others = [host for host in settings.ALLOWED_HOSTS if not is_loopback(host)]
    if not is_loopback(settings.HOST) and not others:
        yield (
            "warning",
            f"HOST is {settings.HOST}, so others reach the gateway, but ALLOWED_HOSTS names this machine only: the"
            " admin and /me answer them with 400. Set ALLOWED_HOSTS to the name that people type, such as"
            " ALLOWED_HOSTS=gateway.example,localhost, and start again.",
        )
    elif others and not settings.CSRF_TRUSTED_ORIGINS:
        shown = others[0].lstrip(".") if others[0] != "*" else "gateway.example"
        yield (
            "warning",
            f"ALLOWED_HOSTS has {others[0]}, but CSRF_TRUSTED_ORIGINS is empty: where a server in front does https,"
            f" every form is refused with 403. Set CSRF_TRUSTED_ORIGINS=https://{shown} there.",
        )
    else:
        yield "ok", f"listens on {settings.HOST}; pages answer {', '.join(settings.ALLOWED_HOSTS)}."


def is_loopback(host: str) -> bool:
    plain = host.strip("[]").lower()
    if plain == "localhost" or plain.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(plain).is_loopback
    except ValueError:
        return False


def own_checks() -> Iterator[Said]:
    """Of Django and ours: what `manage.py check` says."""
    messages = checks.run_checks()
    for message in messages:
        level: Level = "problem" if message.is_serious() else "warning"
        yield level, " ".join(filter(None, [message.msg, message.hint]))
    if not messages:
        yield "ok", "`manage.py check` finds nothing."


def loops() -> Iterator[Said]:
    state = hot.state()
    if state == "not built":
        yield "warning", "not built: every answer costs more CPU. `make setup` builds them where a C compiler is found."
    else:
        yield "ok", f"{state}."


# Files


def data_folder() -> Iterator[Said]:
    folder = settings.DATA_DIR
    if not folder.is_dir():
        yield "problem", f"{folder} is not there: `manage.py serve` makes it, or set CCPROXY_DATA_DIR."
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        yield "problem", f"{folder} cannot be written by this user: give it to the user that the gateway runs as."
    if folder.stat().st_mode & 0o022:
        yield "warning", f"others may write into {folder}: chmod 700 {folder}"
    yield room_in(folder)


def room_in(folder: Path) -> Said:
    free = shutil.disk_usage(folder).free
    told = f"{folder} has {free // MEGABYTE:,} MB free"
    if free < NO_ROOM:
        return "problem", f"{told}: the gateway refuses requests when nothing is left. Make room."
    return ("warning", f"{told}: make room soon.") if free < LITTLE_ROOM else ("ok", f"{told}.")


def private_files() -> Iterator[Said]:
    folder, found = settings.DATA_DIR, False
    kept = folder / keyring.FILE_NAME
    if kept.exists() and kept.stat().st_mode & 0o077:
        found = True
        yield "problem", f"others can read the secrets: chmod 600 {kept}"
    database = Path(settings.DATABASES["default"]["NAME"])
    if connection.vendor == "sqlite" and database.exists() and is_open_to_others(database):
        found = True
        yield (
            "warning",
            f"other users of this machine can read {database.name}, in which the sessions of administrators lie:"
            f" chmod 700 {database.parent}",
        )
    first_login = folder / "first-login.txt"
    if first_login.exists():
        found = True
        yield "warning", f"the first password and key still lie in {first_login}: note what you need and delete it."
    if not found:
        yield "ok", "nobody else can read what is secret."


def is_open_to_others(path: Path) -> bool:
    """By its own mode and that of its folder."""
    own, folder = path.stat().st_mode, path.parent.stat().st_mode
    return any(own & (0o4 << shift) and folder & (0o1 << shift) for shift in (0, 3))


def spool() -> Iterator[Said]:
    folder = settings.SPOOL_DIR
    if not folder.is_dir():
        yield "ok", "there is none yet: the first start makes it."
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        yield "problem", f"{folder} cannot be written by this user: give it to the user that the gateway runs as."
        return
    yield from journals(folder)
    refused = folder / QUARANTINE
    if refused.exists() and (lines := refused.read_bytes().count(b"\n")):
        yield (
            "problem",
            f"{lines:,} requests are not in the ledger, since the database refused their rows. {refused} keeps them,"
            " each with the reason: mend that, and report it with the reason where it is a fault of ours.",
        )
    damaged = len(list(folder.glob("*.damaged")))
    if damaged:
        yield (
            "warning",
            f"{damaged} journals in {folder} had unreadable lines and are kept as *.damaged: what could be read is"
            " booked. Look whether the disk is sound, then move them away.",
        )


def journals(folder: Path) -> Iterator[Said]:
    """A journal is locked by its process for as long as that lives."""
    free, held = [], 0
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            if is_locked(path):
                held += 1
            else:
                free.append(time.time() - path.stat().st_mtime)
        except FileNotFoundError:  # booked meanwhile
            continue
    if free and not held:
        yield "warning", f"{len(free)} journals of ended processes wait to be booked: the next start on this host does."
    elif free and min(free) > TAKE_OVER_SECONDS:
        yield (
            "problem",
            f"{len(free)} journals of ended processes wait to be booked, and no living one takes them over: its log"
            " says why.",
        )
    else:
        yield "ok", "nothing is left over from ended processes."


def is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


# Other servers


def brokers() -> Iterator[Said]:
    """Redis, as often as it is named, and whoever else carries Celery's messages."""
    variables = {"REDIS_URL": settings.REDIS_URL, "CELERY_BROKER_URL": settings.CELERY_BROKER_URL}
    servers: dict[tuple[str, str], list[str]] = {}
    for variable, url in variables.items():
        if url and not url.startswith("filesystem:"):
            servers.setdefault((url.partition(":")[0], url.partition("//")[2].partition("/")[0]), []).append(variable)
    for (scheme, _), named in servers.items():
        of = " and ".join(named)
        refusal = (refusal_of_redis if scheme in {"redis", "rediss"} else refusal_of_broker)(variables[named[0]])
        if refusal:
            yield "problem", f"the server of {of} does not answer ({refusal}): start it, or correct the variable."
        else:
            yield "ok", f"the server of {of} answers."
    if not servers:
        yield "ok", "none is set: Celery's messages go through a folder."


def refusal_of_redis(url: str) -> str:
    try:
        client = redis.Redis.from_url(
            url, socket_connect_timeout=REDIS_PATIENCE, socket_timeout=REDIS_PATIENCE, retry=None
        )
        with client:
            client.ping()
    except ValueError:  # its text may hold a piece of the password
        return "that is no address such as redis://host:6379/0; signs in a password must be percent-encoded"
    except (redis.RedisError, OSError) as error:
        return first_line(error)
    return ""


def refusal_of_broker(url: str) -> str:
    try:
        with app.connection(url, connect_timeout=REDIS_PATIENCE) as held:
            held.connect()
    except Exception as error:  # noqa: BLE001 - every transport has errors of its own; their texts may hold the address
        return type(error).__name__
    return ""


# The database


def database_answers() -> Iterator[Said]:
    if connection.vendor == "sqlite":
        name = settings.DATABASES["default"]["NAME"]
        if connection.connection is None and not Path(name).exists():
            yield "problem", f"there is none yet at {name}: `manage.py serve` makes it."
            return
    elif connection.connection is None:
        # Somebody waits for us, and a network that swallows packets answers nobody.
        options = {**connection.settings_dict["OPTIONS"], "connect_timeout": DATABASE_PATIENCE}
        connection.settings_dict = {**connection.settings_dict, "OPTIONS": options}
    try:
        connection.ensure_connection()
        yield "ok", f"answers: {version()}."
    except (DatabaseError, OSError) as error:
        yield (
            "problem",
            f"it does not answer ({first_line(error)}). Requests go on and wait in the spool, but no gateway can start:"
            " start the database, or correct DATABASE_URL.",
        )


def version() -> str:
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT sqlite_version()")
            return f"SQLite {cursor.fetchone()[0]}"
        cursor.execute("SHOW server_version")
        return f"PostgreSQL {cursor.fetchone()[0]}"


def journal_of_sqlite() -> Iterator[Said]:
    if connection.vendor != "sqlite":
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        mode = cursor.fetchone()[0]
    if mode not in {"wal", "memory"}:
        yield (
            "warning",
            f"its journal is in mode {mode} where WAL was asked for, so readers and writers wait for each other: put"
            " CCPROXY_DATA_DIR on a disk of this machine, not on a network's.",
        )


def migrations() -> Iterator[Said]:
    executor = MigrationExecutor(connection)
    pending = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    if pending:
        yield "problem", f"{pending} are not applied: `manage.py migrate` applies them, then restart with SIGHUP."
    else:
        yield "ok", "all are applied."


def clock() -> Iterator[Said]:
    ahead = 0.0
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            ahead = (timezone.now() - cursor.fetchone()[0]).total_seconds()
    newest = UsageRecord.objects.order_by("-started_at").values_list("started_at", flat=True).first()
    if abs(ahead) > CLOCK_TOLERANCE:
        which = "ahead of" if ahead > 0 else "behind"
        yield "warning", f"this machine's is {abs(ahead):.0f} s {which} the database's: set both by NTP."
    elif newest and newest > timezone.now() + dt.timedelta(seconds=TAKE_OVER_SECONDS):
        yield "warning", f"the ledger has a request from the future ({newest:%Y-%m-%d %H:%M} UTC): is the clock right?"
    else:
        yield "ok", "in step with the database."


def worker() -> Iterator[Said]:
    """Probes and sums are what the worker does; beat tells it when."""
    seen = ProviderHealth.objects.order_by("-checked_at").values_list("checked_at", flat=True).first()
    start = "`manage.py serve` starts worker and beat (not with --no-worker); look into its log."
    if live(list(Provider.objects.all())):
        age = (timezone.now() - seen).total_seconds() if seen else None
        if age is None:
            yield "warning", f"no provider was probed yet, {settings.PROBE_SECONDS:.0f} s after a start one is. {start}"
        elif age > 3 * settings.PROBE_SECONDS + 15:
            yield "problem", f"the last probe is {span(age)} old, so worker or beat does not run. {start}"
        else:
            yield "ok", f"the last probe is {span(age)} old."
    behind = rollups.lag()
    if behind is not None and behind > SUMS_SECONDS:
        yield "problem", f"reports are {span(behind)} behind the ledger, since nobody sums it. {start}"
    else:
        yield "ok", "reports are up to date." if behind is None else f"reports are {span(behind)} behind the ledger."


def span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# The configuration


def providers() -> Iterator[Said]:
    rows = live(list(Provider.objects.select_related("health")))
    if not rows:
        yield "problem", "none is enabled, so nobody can answer: add one in the admin, or with `manage.py apply FILE`."
    for provider in rows:
        if provider.is_demo:
            yield (
                "warning",
                "only the built-in demo answers: add a provider in the admin, or with `manage.py apply FILE`.",
            )
        elif provider.sealed_credential and not provider.credential:
            yield (
                "problem",
                f"the credential of {provider.name} does not open with CREDENTIAL_KEYS: put the key it was sealed with"
                " back into that list, or enter the credential again.",
            )
        else:
            yield health_of(provider)


def health_of(provider: Provider) -> Said:
    try:
        health = provider.health
    except ProviderHealth.DoesNotExist:
        return "ok", f"{provider.name}: not probed yet."
    if not health.ok:
        return (
            "problem",
            f"{provider.name}: the last probe failed ({health.detail}). Test or disable it on its page in the admin.",
        )
    if provider.credential_mode == CredentialMode.OWN and not provider.sealed_credential:
        return "ok", f"{provider.name}: {health.detail}, without a credential."
    return "ok", f"{provider.name}: {health.detail}."


def routes() -> Iterator[Said]:
    found = read_routing().routes
    if not found:
        yield (
            "problem",
            "there is none, so every model is unknown: add one in the admin, or with `manage.py apply FILE`.",
        )
    empty = [route.pattern for route in found if not route.targets]
    if empty:
        yield (
            "warning",
            f"no enabled provider answers for {shortened(empty)}: enable one, or add a target, or delete the route.",
        )
    for winner, loser in never_winning(found):
        yield "warning", f"{loser} is never taken: {winner} stands before it and takes all of its names."
    if found and not empty:
        yield "ok", f"{len(found)}, each with an enabled provider."


def never_winning(found: Sequence[Route]) -> Iterator[tuple[str, str]]:
    """Who wins and who takes nothing. The routes stand in the order in which they are asked; whoever takes all names of
    another has as many letters at most, so that only equals have to be compared.
    """
    comparable = [route for route in found if "[" not in route.pattern and route.pattern.count("*") <= MOST_STARS]
    for _, equals in itertools.groupby(comparable, key=lambda route: route.specificity):
        before: list[str] = []
        for pattern in [route.pattern for route in equals]:
            names = instances(pattern)
            winner = next((other for other in before if all(matches(other, name) for name in names)), None)
            if winner:
                yield winner, pattern
            before.append(pattern)


def instances(pattern: str) -> list[str]:
    """Names that a pattern covers only where it covers all of these: signs that stand in no pattern for its ? and *."""
    some = "\ue000"
    parts = pattern.replace("?", some).split("*")
    fillings = itertools.product(("", some * 200), repeat=len(parts) - 1)
    return ["".join(map("".join, itertools.zip_longest(parts, filling, fillvalue=""))) for filling in fillings]


def keys() -> Iterator[Said]:
    usable = ApiKey.objects.usable()
    number = usable.count()
    if not number:
        yield "problem", "none is active, so nobody may ask: `manage.py issue_key NAME`, or the admin."
        return
    soon = usable.filter(expires_at__lte=timezone.now() + dt.timedelta(days=EXPIRY_DAYS)).order_by("expires_at")
    expiring = [f"{key.name} ({key.expires_at:%Y-%m-%d})" for key in soon if key.expires_at]
    if expiring:
        yield "warning", f"these end within {EXPIRY_DAYS} days: {shortened(expiring)}. Move their expiry in the admin."
    yield "ok", f"{number:,} active."


def prices() -> Iterator[Said]:
    last = reports.today()
    period = Period(last - dt.timedelta(days=UNPRICED_DAYS - 1), last + dt.timedelta(days=1))
    unknown = list_prices.unpriced(period)
    if not unknown:
        yield "ok", f"every model of the last {UNPRICED_DAYS} days has one."
        return
    requests = sum(number for *_, number in unknown)
    models = shortened([f"{model} of {provider}" for provider, model, _ in unknown])
    yield (
        "warning",
        f"{requests:,} requests of the last {UNPRICED_DAYS} days have no cost, since no price is known for {models}:"
        " add one in the admin under Prices. It holds for what comes after it.",
    )


def administrators() -> Iterator[Said]:
    if get_user_model().objects.filter(is_superuser=True, is_active=True).exists():
        yield "ok", "there is one."
    else:
        yield "warning", "nobody can sign in to the admin: `manage.py createsuperuser`."


def shortened(told: Sequence[str]) -> str:
    more = len(told) - MOST_NAMED
    return ", ".join(told[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


BY_ITSELF = [
    Check("environment", names),
    Check("secrets", secrets),
    Check("debug", debugging),
    Check("hosts", hosts),
    Check("settings", own_checks),
    Check("data folder", data_folder),
    Check("private files", private_files),
    Check("spool", spool),
    Check("redis and broker", brokers),
    Check("compiled loops", loops),
]
IN_THE_DATABASE = [
    Check("journal mode", journal_of_sqlite),
    Check("migrations", migrations),
    Check("clock", clock),
    Check("worker", worker),
    Check("providers", providers),
    Check("routes", routes),
    Check("keys", keys),
    Check("prices", prices),
    Check("administrators", administrators),
]
