"""Which addresses are called. A base URL is an administrator's word, but whoever answers for its name may say any
address: the one under which a cloud hands out its machines' credentials as well.
"""

from __future__ import annotations

import socket
import unicodedata
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

# Where clouds answer their own machines, unless link-local: Amazon, Google, Scaleway, Alibaba, Oracle, Azure.
METADATA = frozenset(
    ip_address(text)
    for text in (
        "fd00:ec2::254",
        "fd20:ce::254",
        "fd00:42::42",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
    )
)
THIS_NETWORK = IPv4Network("0.0.0.0/8")
# IPv6 networks in which an IPv4 address stands, and how many bits follow it.
CARRIERS = (
    (IPv6Network("::ffff:0:0/96"), 0),  # mapped
    (IPv6Network("::ffff:0:0:0/96"), 0),  # translated
    (IPv6Network("::/96"), 0),  # compatible
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (IPv6Network("64:ff9b:1::/48"), 0),  # NAT64 of one's own
    (IPv6Network("2002::/16"), 80),  # 6to4
    (IPv6Network("2001::/32"), 64),  # Teredo: its server; its client follows, inverted
)
TEREDO = CARRIERS[-1][0]
NAT64_OF_ONES_OWN = CARRIERS[4][0]
ISATAP = 0x5EFE
LOCAL = frozenset({IPv6Address("::"), IPv6Address("::1")})
LAST_32 = 0xFFFFFFFF


def written_in(host: str) -> Address | None:
    """The address a host is, in whatever spelling a resolver would take: short, decimal, hexadecimal, octal."""
    plain = unicodedata.normalize("NFKC", host).strip("[]").rstrip(".").partition("%")[0]
    try:
        return ip_address(plain)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(plain))
    except (OSError, ValueError):
        return None


def is_never_called(address: Address, *, private_is_allowed: bool) -> bool:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not private_is_allowed and not _is_public(address):
        return True
    return any(_is_dangerous(each) for each in (address, *carried_by(address)))


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address.is_site_local:
        return False
    return all(each.is_global for each in (address, *carried_by(address)))


def _is_dangerous(address: Address) -> bool:
    if address.is_link_local or address.is_multicast or address.is_unspecified or address in METADATA:
        return True
    return isinstance(address, IPv4Address) and (address.is_reserved or address in THIS_NETWORK)


def carried_by(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that a gateway on the way would make of it."""
    if isinstance(address, IPv4Address) or address in LOCAL:
        return
    bits = int(address)
    for network, following in CARRIERS:
        if address in network:
            yield IPv4Address(bits >> following & LAST_32)
    if address in TEREDO:
        yield IPv4Address(~bits & LAST_32)
    if address in NAT64_OF_ONES_OWN:
        # As RFC 6052 has it behind 48 bits: two bytes, an empty one, two bytes.
        yield IPv4Address((bits >> 64 & 0xFFFF) << 16 | bits >> 40 & 0xFFFF)
    if bits >> 32 & 0xFDFFFFFF == ISATAP:
        yield IPv4Address(bits & LAST_32)
