"""Every setting that belongs to a process, read once from the environment (or .env). The rest lives in the admin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import environ
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static

from ccproxy_site import keyring

BASE_DIR = Path(__file__).resolve().parent.parent

# As it was given, without what .env adds: processes that are started later read that anew.
given_environment = dict(os.environ)

env = environ.Env()
environ.Env.read_env(BASE_DIR / ".env")

# Whether providers/hot.py, which reads it by itself, takes the compiled loops where they were built.
CCPROXY_ENABLE_CYTHON = env.bool("CCPROXY_ENABLE_CYTHON", default=True)

# Where the gateway listens.
HOST = env.str("HOST", default="127.0.0.1")
PORT = env.int("PORT", default=8787)
# Web processes on that port, and whether several may do without Redis (ccproxy_site/checks.py).
WEB_CONCURRENCY = env.int("WEB_CONCURRENCY", default=1)
ALLOW_LOCAL_STATE = env.bool("ALLOW_LOCAL_STATE", default=False)

# Database, spool, secrets and queue of an installation that needs nothing else.
DATA_DIR = Path(env.str("CCPROXY_DATA_DIR", default=str(BASE_DIR / "var"))).resolve()
SPOOL_DIR = DATA_DIR / "spool"

EMBEDDED = not env.str("DATABASE_URL", default="")
DATABASES: dict[str, Any] = {"default": env.db("DATABASE_URL", default=f"sqlite:///{DATA_DIR / 'ccproxy.sqlite3'}")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # IMMEDIATE: a transaction that reads first and writes later would fail at once with "database is locked".
    # FULL: a booked row is dropped from the spool, so the commit must be on the disk.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
    }
else:
    # A network that swallows packets would otherwise be noticed after a quarter of an hour.
    DATABASES["default"]["OPTIONS"] = {
        "connect_timeout": 5,
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
        **DATABASES["default"].get("OPTIONS", {}),
    }
    DATABASES["default"]["CONN_MAX_AGE"] = 60
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

SECRETS = keyring.read_secrets(os.environ, DATA_DIR, embedded=EMBEDDED)
SECRET_KEY = SECRETS["SECRET_KEY"]
# Encrypts provider credentials; several, separated by commas, while one replaces another: the first encrypts.
CREDENTIAL_KEYS = [key.strip() for key in SECRETS["CREDENTIAL_KEYS"].split(",") if key.strip()]
KEY_DIGEST_SECRET = SECRETS["KEY_DIGEST_SECRET"]
STATE_SECRET = SECRETS["STATE_SECRET"]

DEBUG = env.bool("DEBUG", default=False)
# Checked for the admin and its pages only: /v1 and /health answer any Host.
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

# What one request may bring. Claude Code's long sessions pass older limits of 10 MB and 1,000 messages.
MAX_BODY_BYTES = env.int("MAX_BODY_BYTES", default=32 * 1024 * 1024)
MAX_MESSAGES = env.int("MAX_MESSAGES", default=100_000)
MAX_CONTENT_BYTES = env.int("MAX_CONTENT_BYTES", default=32 * 1024 * 1024)
# Django's own limit of 2.5 MB would refuse a conversation with two images.
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES

# What one connection may take of the server's time and memory (ccproxy_site/connection.py). A head has so many seconds
# from its first byte; a body must keep up an average rate once the grace is over, and is never silent for long.
MAX_HEADER_BYTES = env.int("MAX_HEADER_BYTES", default=32 * 1024)
MAX_HEADERS = env.int("MAX_HEADERS", default=100)
HEADER_SECONDS = env.float("HEADER_SECONDS", default=10.0)
BODY_GRACE_SECONDS = env.float("BODY_GRACE_SECONDS", default=10.0)
BODY_BYTES_PER_SECOND = env.int("BODY_BYTES_PER_SECOND", default=1024)
BODY_SILENCE_SECONDS = env.float("BODY_SILENCE_SECONDS", default=30.0)
# Connections without a request: a new one, and one that was answered.
SILENT_SECONDS = env.float("SILENT_SECONDS", default=30.0)
KEEP_ALIVE_SECONDS = env.float("KEEP_ALIVE_SECONDS", default=75.0)
# A client that takes nothing of its answer for so long is gone.
CLIENT_STALL_SECONDS = env.float("CLIENT_STALL_SECONDS", default=300.0)
# How much one process takes at once. Behind a proxy everyone has one address: 0 is no limit.
MAX_CONNECTIONS = env.int("MAX_CONNECTIONS", default=10_000)
MAX_CONNECTIONS_PER_ADDRESS = env.int("MAX_CONNECTIONS_PER_ADDRESS", default=0)
MAX_CONCURRENT_REQUESTS = env.int("MAX_CONCURRENT_REQUESTS", default=2000)
# Open live views, and none of them counts as a request.
MAX_LIVE_VIEWERS = env.int("MAX_LIVE_VIEWERS", default=20)
# How long a process that is asked to end lets its answers run on.
DRAIN_SECONDS = env.float("DRAIN_SECONDS", default=60.0)

# Seconds until a waiting client gets its 200 and comments, and between signs of life on a silent stream.
COMMIT_AFTER = env.float("COMMIT_AFTER", default=15.0)
PING_AFTER = env.float("PING_AFTER", default=10.0)
# Whether providers may live in private networks and on this host; link-local and metadata addresses are never called.
PROVIDER_PRIVATE_NETWORKS = env.str("PROVIDER_PRIVATE_NETWORKS", default="allow")
if PROVIDER_PRIVATE_NETWORKS not in {"allow", "deny"}:
    raise ImproperlyConfigured(f"PROVIDER_PRIVATE_NETWORKS is {PROVIDER_PRIVATE_NETWORKS!r}: say allow or deny.")
# Whether answers and errors name the provider that served.
EXPOSE_PROVIDER = env.bool("EXPOSE_PROVIDER", default=True)

# How often the running configuration is compared with the database.
CONFIG_POLL_SECONDS = env.float("CONFIG_POLL_SECONDS", default=1.0)

# The ledger: how often the spool is forced to the disk, and how often what is settled is booked. Batches of half a
# second cost a fraction of the CPU that ten commits a second do.
SPOOL_SYNC_SECONDS = env.float("SPOOL_SYNC_SECONDS", default=0.1)
BOOKING_SECONDS = env.float("BOOKING_SECONDS", default=0.5)
# Whether every line waits for the disk.
SPOOL_SYNC_EVERY_ROW = env.bool("SPOOL_SYNC_EVERY_ROW", default=False)
SPOOL_SEGMENT_BYTES = env.int("SPOOL_SEGMENT_BYTES", default=8 * 1024 * 1024)
SPOOL_PROGRESS_SECONDS = env.float("SPOOL_PROGRESS_SECONDS", default=5.0)

REDIS_URL = env.str("REDIS_URL", default="")
CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", default="filesystem://")

LOG_LEVEL = env.str("LOG_LEVEL", default="INFO").upper()
if LOG_LEVEL not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
    raise ImproperlyConfigured(f"LOG_LEVEL is {LOG_LEVEL!r}: say DEBUG, INFO, WARNING, ERROR or CRITICAL.")
LOG_FILE_PATH = env.str("LOG_FILE_PATH", default="")
ERROR_LOG_FILE_PATH = env.str("ERROR_LOG_FILE_PATH", default="")
# How the console's lines are written; the files are always JSON.
LOG_FORMAT = env.str("LOG_FORMAT", default="text").lower()
if LOG_FORMAT not in {"text", "json"}:
    raise ImproperlyConfigured(f"LOG_FORMAT is {LOG_FORMAT!r}: say text or json.")
# Of the one line that each request leaves; LOG_LEVEL unless it is given.
METRICS_LOG_LEVEL = env.str("METRICS_LOG_LEVEL", default="").upper() or LOG_LEVEL
if METRICS_LOG_LEVEL not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
    raise ImproperlyConfigured(
        f"METRICS_LOG_LEVEL is {METRICS_LOG_LEVEL!r}: say DEBUG, INFO, WARNING, ERROR or CRITICAL."
    )
# What the web processes have counted (gateway/metrics.py), and whether /metrics tells it to whoever asks.
METRICS_DIR = DATA_DIR / "metrics"
METRICS_OPEN = env.bool("METRICS_OPEN", default=False)

INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "ccproxy_site.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "ninja",  # its documentation page comes from here instead of from a foreign host
    "providers",
    "accounting",
    "gateway",
    "ccproxy_site.apps.SiteConfig",
]

# For the admin and its pages; /v1 goes through none of this (ccproxy_site/lean.py).
MIDDLEWARE = [
    "ccproxy_site.safety.SafePages",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

# Attempts to sign in are counted here. Redis counts for all processes, and while it is away each for itself.
CACHES: dict[str, Any] = {
    "default": {
        "BACKEND": "ccproxy_site.caches.RedisOrMemory",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "ccproxy",
        "OPTIONS": {"socket_connect_timeout": 2.0, "socket_timeout": 2.0},
    }
    if REDIS_URL
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 10_000}}
}

# Who signs in works a day; where a request came over https, ccproxy_site/safety.py says so on its cookies.
SESSION_COOKIE_AGE = 12 * 3600
CSRF_COOKIE_HTTPONLY = True
LOGIN_URL = "/admin/login/"
LOGIN_REDIRECT_URL = "/admin/"

ROOT_URLCONF = "ccproxy_site.urls"
ASGI_APPLICATION = "ccproxy_site.asgi.application"
# A redirect drops bodies and credentials: every path is served with and without its slash instead.
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "ccproxy_site" / "templates"],  # before those of unfold, some of which it replaces
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en"
USE_TZ = True
# In which days and months begin: of the reports, of the pages, of budgets.
TIME_ZONE = env.str("BOOKS_TIME_ZONE", default="UTC")
try:
    BOOKS_TIME_ZONE = ZoneInfo(TIME_ZONE)
except (ZoneInfoNotFoundError, ValueError):
    raise ImproperlyConfigured(
        f"BOOKS_TIME_ZONE is {TIME_ZONE!r}, which is no time zone: say one such as UTC or Europe/Berlin."
    ) from None
STATIC_URL = "static/"
# Served from the packages themselves: nothing to collect before the first start.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

CHANNEL_LAYERS: dict[str, Any] = (
    {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [REDIS_URL]}}}
    if REDIS_URL
    else {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
)

# Inline: no file to be found, and no 404 in the browser's console.
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Cpath d='M2 8h4l3-5h5M6 8l3 5h5' fill='none' stroke='%239333ea' stroke-width='2'/%3E%3C/svg%3E"
)
UNFOLD = {
    "SITE_TITLE": "ccproxy",
    "SITE_HEADER": "ccproxy",
    "SITE_SYMBOL": "alt_route",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "sizes": "any", "href": lambda request: _ICON}],
    "SITE_URL": None,
    "STYLES": [lambda request: static("ccproxy/pages.css"), lambda request: static("ccproxy/charts.css")],
    "SCRIPTS": [lambda request: static("ccproxy/pages.js")],
    "DASHBOARD_CALLBACK": "ccproxy_site.home.callback",
    "SIDEBAR": {"show_search": True, "command_search": True, "navigation": "ccproxy_site.sidebar.navigation"},
    "COMMAND": {
        "search_models": [
            "accounting.apikey",
            "accounting.costcentre",
            "providers.provider",
            "providers.modelroute",
            "auth.user",
        ]
    },
}

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"text": {"()": "ccproxy_site.logs.TextLines"}, "json": {"()": "ccproxy_site.logs.JsonLines"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "ccproxy.requests": {"level": METRICS_LOG_LEVEL},
        # A line per request is the gateway's own business; the libraries' would only repeat it.
        "httpx": {"level": "WARNING"},
        "aiohttp": {"level": "WARNING"},
        "daphne": {"level": "WARNING"},
        "django": {"level": "WARNING"},
        # It warns that a folder has no host name.
        "kombu.connection": {"level": "ERROR"},
    },
}
for _name, _path, _level in (("file", LOG_FILE_PATH, "NOTSET"), ("errors", ERROR_LOG_FILE_PATH, "ERROR")):
    if _path:
        LOGGING["handlers"][_name] = {
            "class": "logging.handlers.WatchedFileHandler",
            "filename": _path,
            "formatter": "json",
            "level": _level,
        }
        LOGGING["root"]["handlers"].append(_name)

# Celery carries probes and rollups. Its default broker is a folder: slow, and enough for what does not matter.
_QUEUE_DIR = DATA_DIR / "queue"
if CELERY_BROKER_URL == "filesystem://":
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(_QUEUE_DIR / "messages"),
        "data_folder_out": str(_QUEUE_DIR / "messages"),
        "control_folder": str(_QUEUE_DIR / "control"),
    }
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SOFT_TIME_LIMIT = 300
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BEAT_SCHEDULE_FILENAME = str(DATA_DIR / "beat-schedule")
# How often every provider is asked whether it is there, and how long its list of models is good.
PROBE_SECONDS = env.float("PROBE_SECONDS", default=60.0)
MODEL_LIST_SECONDS = env.float("MODEL_LIST_SECONDS", default=60.0)
# How often what was booked is added to the sums that reports are made of.
ROLLUP_SECONDS = env.float("ROLLUP_SECONDS", default=20.0)
CELERY_BEAT_SCHEDULE = {
    "probe-providers": {"task": "providers.tasks.probe_providers", "schedule": PROBE_SECONDS},
    # Those that no worker took in time are not worth more than the next one.
    "roll-up": {
        "task": "accounting.tasks.roll_up",
        "schedule": ROLLUP_SECONDS,
        "options": {"expires": ROLLUP_SECONDS},
    },
}

# First run only: what makes a provider and its routes, where none exists yet.
OPENAI_API_KEY = env.str("OPENAI_API_KEY", default="")
OPENROUTER_API_KEY = env.str("OPENROUTER_API_KEY", default="")
OPENAI_BASE_URL = env.str("OPENAI_BASE_URL", default="")
BACKEND_URL = env.str("BACKEND_URL", default="")
BACKEND_KEY = env.str("BACKEND_KEY", default="")
BIG_MODEL_NAME = env.str("BIG_MODEL_NAME", default="")
SMALL_MODEL_NAME = env.str("SMALL_MODEL_NAME", default="")
