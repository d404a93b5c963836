"""What is never called, in every spelling and every wrapping."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from providers.addresses import is_never_called, written_in

NEVER = [
    "169.254.169.254",
    "169.254.0.1",
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "224.0.0.1",
    "239.255.255.255",
    "255.255.255.255",
    "240.0.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "::",
    "fe80::1",
    "febf::1",
    "ff02::1",
    "fd00:ec2::254",
    "fd20:ce::254",
]
# The same addresses as a gateway on the way would unwrap them.
WRAPPED = [
    "::ffff:169.254.169.254",
    "::ffff:0:169.254.169.254",
    "::169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::169.254.169.254",
    "64:ff9b:1:a9fe:a9:fe00::",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",
    "2001:0:808:808::5601:5601",
    "fd12::5efe:169.254.169.254",
    "fd12::200:5efe:169.254.169.254",
    "::ffff:0.0.0.0",
    "::ffff:255.255.255.255",
    "2002:e000:1::1",
    "64:ff9b::100.100.100.200",
]
PRIVATE = ["127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd12::1", "fec0::1"]
PRIVATE_WRAPPED = ["::ffff:127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::1"]
PUBLIC = ["8.8.8.8", "160.79.104.10", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]


@pytest.mark.parametrize("address", NEVER + WRAPPED)
@pytest.mark.parametrize("private_is_allowed", [True, False])
def test_some_addresses_are_never_called(address: str, *, private_is_allowed: bool) -> None:
    assert is_never_called(ip_address(address), private_is_allowed=private_is_allowed)


@pytest.mark.parametrize("address", PRIVATE + PRIVATE_WRAPPED)
def test_private_addresses_are_called_where_that_is_allowed(address: str) -> None:
    assert not is_never_called(ip_address(address), private_is_allowed=True)
    assert is_never_called(ip_address(address), private_is_allowed=False)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_always_called(address: str) -> None:
    assert not is_never_called(ip_address(address), private_is_allowed=True)
    assert not is_never_called(ip_address(address), private_is_allowed=False)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.169.254.",
        "2852039166",
        "0xa9fea9fe",
        "0xA9.0xFE.0xA9.0xFE",
        "0251.0376.0251.0376",
        "0251.254.169.0xfe",
        "169.254.43518",
        "169.16689662",
        "１６９.254.169.254",
        "①⑥⑨.254.169.254",
    ],
)
def test_every_spelling_is_read(host: str) -> None:
    assert written_in(host) == ip_address("169.254.169.254")


@pytest.mark.parametrize(("host", "address"), [("[::1]", "::1"), ("fe80::1%eth0", "fe80::1"), ("127.1", "127.0.0.1")])
def test_other_spellings(host: str, address: str) -> None:
    assert written_in(host) == ip_address(address)


@pytest.mark.parametrize("host", ["localhost", "api.example.com", "1.2.3.4.5", "256.1.1.1", "a.1", "0xzz", "", "a\0b"])
def test_names_are_no_addresses(host: str) -> None:
    assert written_in(host) is None
