"""Sizes read from first bytes, and what they cost each family of models."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from providers import images
from providers.images import UNREAD, image_size, image_tokens, rule_of


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def source(data: bytes) -> dict[str, Any]:
    return {"type": "base64", "media_type": "image/png", "data": encoded(data)}


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x06\0\0\0"


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + width.to_bytes(2, "little") + height.to_bytes(2, "little") + b"\xf7\0\0"


def jpeg(width: int, height: int, *before: bytes) -> bytes:
    segments = b"".join(b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data for data in before)
    frame = b"\xff\xc2\0\x11\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x03" + bytes(9)
    return b"\xff\xd8" + segments + b"\xff\xc4\0\x04\0\0" + b"\xff" + frame


def webp(kind: bytes, chunk: bytes) -> bytes:
    return b"RIFF\0\0\0\0WEBP" + kind + len(chunk).to_bytes(4, "little") + chunk


def lossy(width: int, height: int) -> bytes:
    scaled = (width | 1 << 14).to_bytes(2, "little") + (height | 1 << 14).to_bytes(2, "little")
    return webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + scaled)


def lossless(width: int, height: int) -> bytes:
    return webp(b"VP8L", b"\x2f" + (width - 1 | height - 1 << 14).to_bytes(4, "little") + bytes(5))


def extended(width: int, height: int) -> bytes:
    return webp(b"VP8X", bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))


@pytest.mark.parametrize("make", [png, gif, jpeg, lossy, lossless, extended])
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (1000, 750), (480, 1024)])
def test_image_sizes_are_read_from_the_header(make: Any, size: tuple[int, int]) -> None:
    assert image_size(make(*size)) == size


def test_a_jpeg_may_have_segments_before_its_frame() -> None:
    assert image_size(jpeg(640, 480, b"Exif\0\0" + bytes(20_000), b"\xff\xc0" * 10)) == (640, 480)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1, 1, 1),
        (750, 1, 1),
        (751, 1, 2),
        (200, 200, 54),
        (1000, 1000, 1334),
        (1568, 765, 1600),
        (1568, 1568, 1600),
        (3136, 400, 419),  # fitted to 1568 by 200 first
        (100_000, 1, 3),
        (65_535, 65_535, 1600),
    ],
)
def test_images_cost_their_fitted_area_and_at_most_1600(width: int, height: int, expected: int) -> None:
    assert image_tokens(source(png(width, height)), rule_of("claude-opus-5-5")) == expected


@pytest.mark.parametrize(
    "unreadable",
    [
        {"type": "url", "url": "https://example.com/a.png"},
        {"type": "file", "file_id": "file_1"},
        {"type": "base64", "data": ""},
        {"type": "base64", "data": "not base64 at all!"},
        {"type": "base64", "data": "ÄÖÜ\ud800"},
        {"type": "base64", "data": 7},
        {"type": "base64", "data": encoded(png(0, 5))},
        {"type": "base64", "data": encoded(png(640, 480)[:20])},
        {"type": "base64", "data": encoded(b"\xff\xd8" + b"\xff" * 60_000)},
        {"type": "base64", "data": encoded(b"\xff\xd8\xff\xe1\0\0" * 8_000)},
        {"type": "base64", "data": encoded(webp(b"????", bytes(20)))},
        {},
        None,
        "https://example.com/a.png",
    ],
)
@pytest.mark.parametrize("model", ["claude-opus-5-5", "gpt-4o", "gpt-5-mini"])
def test_an_image_that_cannot_be_read_costs_the_same_for_everyone(unreadable: object, model: str) -> None:
    assert image_tokens(unreadable, rule_of(model)) == UNREAD


@pytest.mark.parametrize(
    ("data", "looks"),
    [(png(750, 100), 1), (jpeg(640, 480, bytes(20_000)), 2), (b"\xff\xd8\xff\xe1\0\0" * 8_000, 2)],
)
def test_only_the_beginning_of_an_image_is_decoded(monkeypatch: pytest.MonkeyPatch, data: bytes, looks: int) -> None:
    decoded: list[int] = []
    original = images.decoded

    def noted(data: str) -> bytes:
        decoded.append(len(data))
        return original(data)

    monkeypatch.setattr(images, "decoded", noted)
    image_tokens(source(data + bytes(3_000_000)), rule_of(""))
    assert decoded == list(images.HEADER_CHARACTERS[:looks])


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        ("gpt-4o", (1024, 1024), 85 + 4 * 170),  # 768 by 768: four tiles
        ("openai/gpt-4o-2024-11-20", (1024, 1024), 765),
        ("GPT-4o", (1024, 1024), 765),
        ("gpt-4o", (2048, 4096), 85 + 6 * 170),  # 1024 by 2048, then 768 by 1536
        ("gpt-4o", (512, 512), 85 + 170),
        ("gpt-4o", (513, 512), 85 + 2 * 170),
        ("gpt-4o", (1, 1), 85 + 170),
        ("gpt-4o", (20_000, 1), 85 + 4 * 170),
        ("gpt-4o-mini", (512, 512), 2833 + 5667),
        ("gpt-4.1", (512, 512), 255),
        ("o3", (512, 512), 75 + 150),
        ("gpt-5.1", (512, 512), 70 + 140),
        ("gpt-5-mini", (320, 320), 162),
        ("gpt-4.1-mini", (5000, 5000), 2489),  # 1,536 patches, at 1.62 each
        ("gpt-5-nano", (32, 33), 5),
        ("o4-mini", (320, 320), 172),
        ("anthropic/claude-sonnet-4.5", (750, 100), 100),
        ("us.anthropic.claude-opus-4-1", (750, 100), 100),
        ("glm-4.6v", (750, 100), 100),
        ("", (750, 100), 100),
    ],
)
def test_every_family_has_its_rule(model: str, size: tuple[int, int], expected: int) -> None:
    assert image_tokens(source(png(*size)), rule_of(model)) == expected
