"""The vendors to choose from agree with what is known of them elsewhere."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from providers.dialects import DIALECTS
from providers.dialects.profiles import ANTHROPIC_ENDPOINTS, HOSTS, PROFILES, by_host
from providers.models import Provider
from providers.upstream import url_for
from providers.vendors import PLACEHOLDER, VENDORS, Vendor

EACH = pytest.mark.parametrize("vendor", VENDORS.values(), ids=list(VENDORS))


def test_every_profile_has_a_vendor_to_choose() -> None:
    assert {vendor.profile for vendor in VENDORS.values()} == set(PROFILES)


def test_whoever_speaks_anthropics_format_can_be_chosen_in_it() -> None:
    offered = {vendor.profile: vendor.base_url for vendor in VENDORS.values() if vendor.type == "anthropic"}
    assert offered == {**ANTHROPIC_ENDPOINTS, "generic": VENDORS["anthropic"].base_url}


@EACH
def test_a_dialect_is_named_only_where_the_host_does_not_tell_it(vendor: Vendor) -> None:
    assert vendor.profile in PROFILES
    if vendor.dialect:
        assert by_host(vendor.base_url) == "generic"


def test_every_public_host_is_reached_by_a_vendor() -> None:
    reached = {by_host(vendor.base_url) for vendor in VENDORS.values()}
    assert {name for pattern, name in HOSTS if "." in pattern} <= reached


@EACH
def test_what_a_vendor_fills_in_is_sound_but_for_a_placeholder(vendor: Vendor) -> None:
    provider = Provider(name="x", type=vendor.type, base_url=vendor.base_url, dialect=vendor.dialect)
    try:
        provider.clean_fields()
    except ValidationError as error:
        pytest.fail(str(error))
    assert vendor.type in DIALECTS
    assert (PLACEHOLDER in vendor.base_url) == (vendor is VENDORS["azure"])


@pytest.mark.parametrize(
    ("name", "path", "called"),
    [
        ("anthropic", "/messages", "https://api.anthropic.com/v1/messages"),
        ("deepseek", "/messages", "https://api.deepseek.com/anthropic/v1/messages"),
        ("glm", "/messages", "https://api.z.ai/api/anthropic/v1/messages"),
        ("glm-chat", "/chat/completions", "https://api.z.ai/api/paas/v4/chat/completions"),
        ("gemini", "/chat/completions", "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions"),
        ("groq", "/chat/completions", "https://api.groq.com/openai/v1/chat/completions"),
        ("ollama", "/chat/completions", "http://localhost:11434/v1/chat/completions"),
    ],
)
def test_the_address_that_is_called_is_the_one_the_vendor_documents(name: str, path: str, called: str) -> None:
    assert url_for(VENDORS[name].base_url, path) == called
