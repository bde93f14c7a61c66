"""The image decoder: every kind of file, scaled decoding, EXIF, and files that are no images."""

from __future__ import annotations

import io
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from planted import write_image

from deepseek_det import Error
from deepseek_det.data import decode as module
from deepseek_det.data.decode import decode, oriented, probe

RNG = np.random.default_rng(7)
COLOURS = Image.fromarray(RNG.integers(0, 255, (30, 41, 3)).astype(np.uint8))


def encoded(image: Image.Image, format: str, **save: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, format, **save)
    return file.getvalue()


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_decode_lossless_file_equals_source(format: str) -> None:
    assert np.array_equal(decode(encoded(COLOURS, format)), np.asarray(COLOURS))


@pytest.mark.parametrize("save", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decode_jpeg_equals_pillow(mode: str, save: dict[str, Any]) -> None:
    data = encoded(COLOURS.convert(mode), "JPEG", **save)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode(data), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 8),
    st.sampled_from(["JPEG", "PNG", "L", "CMYK"]),
)
def test_decode_shrink_gives_ceiled_size(
    width: int, height: int, shrink: int, orientation: int, kind: str
) -> None:
    image = Image.new("RGB", (width, height), (200, 30, 60))
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind in ("L", "CMYK"):
        image = image.convert(kind)
    data = encoded(image, "PNG" if kind == "PNG" else "JPEG", exif=exif)
    wide, high = (height, width) if orientation >= 5 else (width, height)
    pixels = decode(data, shrink)
    assert pixels.shape == (-(-high // shrink), -(-wide // shrink), 3)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous


def test_decode_shrink_of_jpeg_keeps_the_picture() -> None:
    smooth = Image.fromarray(RNG.integers(0, 255, (8, 8, 3)).astype(np.uint8)).resize((640, 480))
    data = encoded(smooth, "JPEG", quality=95)
    for shrink in (2, 4, 8):
        expected = np.asarray(smooth.reduce(shrink)).astype(int)
        assert np.abs(decode(data, shrink).astype(int) - expected).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_decode_applies_exif_orientation(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(COLOURS, format, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(decode(data), expected)
    assert np.array_equal(decode(Image.open(io.BytesIO(data))), expected)


def test_oriented_keeps_unknown_orientation() -> None:
    pixels = np.arange(12).reshape(2, 2, 3)
    assert np.array_equal(oriented(pixels, 1), pixels)


GRAY16 = np.array([[0, 255, 256], [513, 65_280, 65_535]], np.uint16)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_decode_16_bit_keeps_upper_bits(format: str) -> None:
    pixels = decode(encoded(Image.fromarray(GRAY16), format))
    assert np.array_equal(pixels, np.repeat((GRAY16 >> 8)[..., None], 3, 2))


def test_decode_16_bit_shrinks() -> None:
    assert decode(encoded(Image.fromarray(GRAY16), "PNG"), 2).shape == (1, 2, 3)


CASES: dict[str, tuple[Image.Image, str, tuple[int, int, int]]] = {
    "bilevel": (Image.new("1", (4, 4), 1), "PNG", (255, 255, 255)),
    "gray_alpha": (Image.new("LA", (4, 4), (0, 0)), "PNG", (255, 255, 255)),
    "palette": (Image.new("RGB", (4, 4), (250, 0, 9)).quantize(4), "PNG", (250, 0, 9)),
    "transparent_over_white": (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "PNG", (255, 255, 255)),
    "half_transparent": (Image.new("RGBA", (4, 4), (55, 55, 55, 128)), "PNG", (155, 155, 155)),
    "opaque": (Image.new("RGBA", (4, 4), (1, 2, 3, 255)), "PNG", (1, 2, 3)),
    "cmyk_tiff": (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
    "cmyk_jpeg": (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", (255, 0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_decode_mode_becomes_rgb(name: str) -> None:
    image, format, expected = CASES[name]
    pixels = decode(encoded(image, format)).astype(int)
    assert pixels.shape == (4, 4, 3)
    assert np.abs(pixels - expected).max() <= 2


def test_decode_palette_with_transparent_entry_lies_over_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 0, 0, 0, 0, 0])
    assert decode(encoded(image, "PNG", transparency=0)).min() == 255


def test_decode_animation_takes_first_frame_and_says_so() -> None:
    frames = [Image.new("RGB", (6, 5), c) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="3 frames, only the first"):
        assert decode(data)[0, 0].tolist() == [255, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(data, say_frames=False)


def test_probe_counts_frames(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 5), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert probe(tmp_path / "a.gif").frames == 2


def test_probe_swaps_size_for_turned_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    COLOURS.save(tmp_path / "a.jpg", exif=exif)
    picture = probe(tmp_path / "a.jpg")
    assert (picture.width, picture.height) == (30, 41)
    assert picture.stored == (41, 30) and picture.orientation == 6


JPEG = encoded(COLOURS, "JPEG")
PNG = encoded(COLOURS, "PNG")
WIDE = encoded(Image.new("L", (60_000, 4)), "PNG")
# A PNG header alone that claims 60,000 x 60,000: refused from the header, nothing allocated.
BOMB_HEADER = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + PNG[24:29]
BOMB = PNG[:12] + BOMB_HEADER + zlib.crc32(BOMB_HEADER).to_bytes(4, "big") + PNG[33:]
BAD = {
    "empty": (b"", "empty"),
    "text": (b"this is not an image\n", "text file"),
    "html": (b"<!DOCTYPE html><html></html>", "text file"),
    "binary": (bytes(range(200, 256)) * 4, "no known image format"),
    "png_bit_flipped": (PNG[:200] + bytes([PNG[200] ^ 4]) + PNG[201:], "checksum"),
    "jpeg_header_only": (JPEG[:20], "bytes|damaged|decoded"),
    "jpeg_truncated": (JPEG[: len(JPEG) // 2], "truncated"),
    "png_truncated": (PNG[: len(PNG) // 2], "truncated|decoded"),
    "png_header_only": (PNG[:30], "decoded|damaged|not an image"),
    "webp_truncated": (encoded(COLOURS, "WEBP", lossless=True)[:-300], "decoded|damaged|not an"),
    "float_tiff": (encoded(Image.new("F", (3, 3), 0.5), "TIFF"), "floating point"),
    "negative_int_tiff": (encoded(Image.new("I", (3, 3), -5), "TIFF"), "0 to 65535"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "text file"),
    "bmp_truncated": (encoded(COLOURS, "BMP")[:-200], "truncated|decoded"),
}


@pytest.mark.parametrize("name", BAD)
def test_decode_bad_file_is_error_with_name(name: str, tmp_path: Path) -> None:
    data, reason = BAD[name]
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(Error, match=rf"(?s)photo\.jpg: .*({reason})"):
        decode(path)
    with pytest.raises(Error, match=f"(?s)bytes: .*({reason})"):
        decode(data)


CUT_OFF = [n for n in BAD if "tiff" not in n and "flipped" not in n]


@pytest.mark.parametrize("name", CUT_OFF)
def test_probe_finds_bad_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(BAD[name][0])
    with pytest.raises(module.ImageError) as caught:
        probe(path)
    assert caught.value.code == "image_unreadable"


@pytest.mark.parametrize("data", [WIDE, BOMB], ids=["wide", "bomb"])
def test_decode_too_large_names_size_and_limit(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    path.write_bytes(data)
    for call in (decode, probe):
        with pytest.raises(module.ImageError, match=r"(60000x4|3600000000).*32768") as caught:
            call(path)
        assert caught.value.code == "image_too_large"


def test_decode_too_large_jpeg_is_refused_before_decoding() -> None:
    data = encoded(Image.new("L", (60_000, 4)), "JPEG")
    with pytest.raises(Error, match="60000x4"):
        decode(data)


def test_decode_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"none\.jpg: no such file"):
        decode(tmp_path / "none.jpg")
    with pytest.raises(Error, match="directory"):
        decode(tmp_path)


@pytest.mark.parametrize("shrink", [0, 3, 16, -1])
def test_decode_other_shrink_is_value_error(shrink: int) -> None:
    with pytest.raises(ValueError, match="shrink"):
        decode(JPEG, shrink)


def test_decode_jpeg_with_bytes_after_its_end() -> None:
    assert np.array_equal(decode(JPEG + b"\0" * 40 + b"trailer"), decode(JPEG))


def test_probe_accepts_trailer_after_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG + b"trailer of a phone")
    assert probe(path).width == 41


def test_decode_damaged_exif_is_no_reason_to_refuse() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(encoded(COLOURS, "JPEG", exif=exif))
    at = data.index(b"Exif\0\0") + 6
    data[at : at + 8] = b"\xff" * 8
    assert decode(bytes(data)).shape == (30, 41, 3)


def test_decode_path_as_text(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    assert np.array_equal(decode(str(path)), decode(path))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(JPEG) - 1), st.integers(0, 255), st.booleans())
def test_decode_flipped_byte_is_pixels_or_error(at: int, value: int, as_png: bool) -> None:
    source = PNG if as_png else JPEG
    at = at * len(source) // len(JPEG)
    data = source[:at] + bytes([value]) + source[at + 1 :]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert decode(data).dtype == np.uint8
    except Error:
        pass
