"""Images arrive as they were sent, and hostile files do not."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smdl_flower.errors import ConfigError, SuspectAnswersError
from smdl_flower.interface import pixels
from smdl_flower.interface.pixels import Scale

SHAPE = (1, 8, 8)
GREY = np.arange(64, dtype=np.uint8).reshape(SHAPE) * 4


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_file_keeps_every_pixel(channels):
    image = np.random.default_rng(1).integers(0, 256, (channels, 9, 9), np.uint8)
    assert (pixels.from_text(pixels.to_text(image), (channels, 9, 9)) == image).all()


def test_images_that_are_no_png_files_are_refused():
    with pytest.raises(ConfigError, match="2 channels"):
        pixels.png(np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(ConfigError, match="2 channels"):
        pixels.from_file(b"", (2, 8, 8))


@given(st.binary(max_size=100))
def test_any_bytes_are_an_image_or_refused(content):
    for what in (content, pixels.png(GREY)[:60] + content):
        try:
            assert pixels.from_file(what, SHAPE).shape == SHAPE
        except SuspectAnswersError:
            continue


@pytest.mark.parametrize("text", [None, 3, ["x"], "ä", "not base64!", "====", ""])
def test_what_is_no_base64_of_an_image_is_refused(text):
    with pytest.raises(SuspectAnswersError):
        pixels.from_text(text, SHAPE)


def test_an_image_that_claims_to_be_huge_is_refused_before_it_is_unpacked():
    def chunk(kind: bytes, data: bytes) -> bytes:
        packed = kind + data
        return struct.pack(">I", len(data)) + packed + struct.pack(">I", zlib.crc32(packed))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(SuspectAnswersError):
        pixels.from_file(bomb, SHAPE)


def test_other_kinds_of_files_are_not_even_tried():
    file = io.BytesIO()
    Image.fromarray(GREY[0]).save(file, "BMP")
    with pytest.raises(SuspectAnswersError, match="no PNG"):
        pixels.from_text(base64.b64encode(file.getvalue()).decode(), SHAPE)


def test_signed_numbers_are_what_copies_compute_with():
    signed = pixels.scaled(GREY, Scale.SIGNED)
    assert signed.dtype == np.float32
    assert np.abs(signed - (GREY.astype(np.float32) / 127.5 - 1)).max() < 1e-6
