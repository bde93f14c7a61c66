"""Image files to arrays: one decoder for training, prediction and checks.

Rules, the same everywhere:

- The result is (H, W, 3) uint8 RGB, turned as the photo's EXIF orientation asks.
- JPEG goes through simplejpeg (it drops the GIL and can decode at 1/2, 1/4 and 1/8 of the size);
  what it does not take goes through Pillow, from the list `FORMATS` only.
- Gray and palette images become RGB. CMYK is converted by Pillow, without a colour profile.
- 16-bit values keep their upper 8 bits (a full-range reading; nothing is stretched). Floating
  point images are refused, as their range is a guess.
- Transparency is laid over white: colours beneath full transparency are often garbage.
- Of an animation or a multi-page file the first frame is used, said by a warning.
- A side beyond `MAX_SIDE_PX` or an area beyond `MAX_PIXELS` is refused before memory is taken.
"""

from __future__ import annotations

import errno
import io
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image, UnidentifiedImageError

from deepseek_det.errors import Error

MAX_SIDE_PX = 32_768
MAX_PIXELS = 1 << 27

FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""No EPS, PDF or FPX: plugins that start programs or bring parsers that nobody needs here."""

SHRINKS = (1, 2, 4, 8)

_MAGIC = {b"\xff\xd8": "a JPEG", b"\x89PNG": "a PNG", b"GIF8": "a GIF", b"BM": "a BMP"}
_ORIENTATION = 0x0112
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


class ImageError(Error):
    """An image that cannot be read. code: a key of `records.CODES`; reason: without the name."""

    def __init__(self, name: str, code: str, reason: str) -> None:
        super().__init__(f"decode: {name}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Picture:
    """What an image's header says.

    width, height: as displayed, EXIF applied; stored: (width, height) of the file's own raster;
    orientation: EXIF's 1..8; frames: 1 unless animated; mode: Pillow's name of the pixel type.
    """

    width: int
    height: int
    stored: tuple[int, int]
    orientation: int
    frames: int
    mode: str


def decode(
    source: str | Path | bytes | Image.Image, shrink: int = 1, *, say_frames: bool = True
) -> npt.NDArray[np.uint8]:
    """Decodes one image to (H, W, 3) uint8 RGB.

    source: path, the file's bytes, or a PIL image. shrink: 1, 2, 4 or 8; the result's size is
    ceil(size / shrink). say_frames: warn where a file holds more than the first frame.
    Raises `Error` that names the file and the reason; ValueError for another shrink.

    >>> from PIL import Image
    >>> decode(Image.new("L", (5, 3), 7), shrink=2).shape
    (2, 3, 3)
    """
    if shrink not in SHRINKS:
        raise ValueError(f"decode: shrink is {shrink!r}, one of {SHRINKS} was needed")
    if isinstance(source, Image.Image):
        return _from_pillow(source, "PIL image", shrink, say_frames)
    if isinstance(source, (bytes, bytearray, memoryview)):
        name, data = "bytes", bytes(source)
    else:
        name, data = str(source), _read(Path(source))
    if data[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(data, name, shrink)
        if pixels is not None:
            return pixels
    if data[:4] == b"\x89PNG":
        _verify(data, name)
    with _open(io.BytesIO(data), data[:64], len(data), name) as image:
        return _from_pillow(image, name, shrink, say_frames)


def probe(path: Path) -> Picture:
    """Reads an image's header and the end of its file, without decoding where that is enough.

    Files that lack their format's end mark are decoded to find out whether they are whole.
    Raises `ImageError` with the code image_missing, image_too_large or image_unreadable.
    """
    name = str(path)
    try:
        _check_regular(path)
        with path.open("rb") as file:
            head = file.read(64)
            bytes_long = file.seek(0, io.SEEK_END)
            tail_long = min(bytes_long, 64)
            file.seek(-tail_long, io.SEEK_END)
            tail = file.read(tail_long)
            file.seek(0)
            with _open(file, head, bytes_long, name) as image:
                _check_size(image.size, name)
                picture = _describe(image)
                if not _has_end(image.format or "", head, tail, bytes_long):
                    _load(image, name)
    except OSError as error:
        raise _os_error(name, error) from error
    return picture


def header(source: str | Path | bytes | Image.Image) -> Picture:
    """What an image's header says; unlike `probe` it takes what `decode` takes, and believes it.

    Raises `ImageError` with the code image_missing, image_too_large or image_unreadable.

    >>> header(Image.new("RGB", (5, 3))).stored
    (5, 3)
    """
    if isinstance(source, Image.Image):
        _check_size(source.size, "PIL image")
        return _describe(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        with _open(io.BytesIO(data), data[:64], len(data), "bytes") as image:
            _check_size(image.size, "bytes")
            return _describe(image)
    name = str(source)
    try:
        _check_regular(Path(source))
        with Path(source).open("rb") as file:
            head = file.read(64)
            bytes_long = file.seek(0, io.SEEK_END)
            file.seek(0)
            with _open(file, head, bytes_long, name) as image:
                _check_size(image.size, name)
                return _describe(image)
    except OSError as error:
        raise _os_error(name, error) from error


def oriented(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """`pixels` (H, W, ...) turned and mirrored as EXIF `orientation` 1..8 asks; C-contiguous.

    Source: EXIF 2.32, tag 0x0112.
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _check_regular(path: Path) -> None:
    """Keeps pipes and devices away, whose opening or reading may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "is no regular file")


def _read(path: Path) -> bytes:
    try:
        _check_regular(path)
        return path.read_bytes()
    except OSError as error:
        raise _os_error(str(path), error) from error


def _os_error(name: str, error: OSError) -> ImageError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ImageError(name, "image_missing", "no such file")
    return ImageError(name, "image_unreadable", error.strerror or str(error))


def _decode_jpeg(data: bytes, name: str, shrink: int) -> npt.NDArray[np.uint8] | None:
    """The fast path; None for what Pillow has to judge (CMYK, damage, libjpeg's mere warnings)."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_size((width, height), name)
    if colours not in ("YCbCr", "RGB", "Gray"):
        return None
    try:
        # The smallest of libjpeg's scales (1/8 .. 8/8) that reaches the asked size: exactly
        # ceil(size / shrink), as libjpeg rounds up too.
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=-(-height // shrink), min_width=-(-width // shrink)
        )
    except ValueError:
        return None
    if pixels.shape != (-(-height // shrink), -(-width // shrink), 3):
        return None
    if b"Exif\0\0" in data[:65_536]:
        with Image.open(io.BytesIO(data), formats=["JPEG", "MPO"]) as image:
            pixels = oriented(pixels, _orientation(image))
    result: npt.NDArray[np.uint8] = pixels
    return result


def _open(file: Any, head: bytes, bytes_long: int, name: str) -> Image.Image:
    """Opens by Pillow, every failure turned into an ImageError."""
    if bytes_long == 0:
        raise ImageError(name, "image_unreadable", "the file is empty (0 bytes)")
    Image.init()
    try:
        return Image.open(file, formats=[f for f in FORMATS if f in Image.OPEN])
    except Image.DecompressionBombError as error:
        reason = f"{error} (limit here {MAX_SIDE_PX} px a side, {MAX_PIXELS} px)"
        raise ImageError(name, "image_too_large", reason) from error
    except UnidentifiedImageError as error:
        magic = next((m for m in _MAGIC if head.startswith(m)), None)
        if magic is not None:
            reason = f"{_MAGIC[magic]} with a damaged or cut-off header ({bytes_long} bytes)"
        else:
            kind = "a text file" if _is_text(head) else "no known image format"
            reason = f"not an image: {kind} of {bytes_long} bytes, starting {head[:16]!r}"
        raise ImageError(name, "image_unreadable", reason) from error
    except Exception as error:  # Pillow's parsers let many kinds through on damaged headers
        reason = f"damaged header: {type(error).__name__}: {error}"
        raise ImageError(name, "image_unreadable", reason) from error


def _is_text(head: bytes) -> bool:
    for cut in range(4):  # the 64 bytes may end within a character
        try:
            text = head[: len(head) - cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return all(c.isprintable() or c.isspace() for c in text)
    return False


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width > MAX_SIDE_PX or height > MAX_SIDE_PX or width * height > MAX_PIXELS:
        reason = (
            f"{width}x{height} px is too large: the limit is {MAX_SIDE_PX} px a side "
            f"and {MAX_PIXELS} px in all"
        )
        raise ImageError(name, "image_too_large", reason)
    if width < 1 or height < 1:
        raise ImageError(name, "image_unreadable", f"its size is {width}x{height}")


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where there is none or the EXIF block is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _frames(image: Image.Image) -> int:
    """How many frames the file has; an MPO's extra views of one photo do not count."""
    if image.format in ("JPEG", "MPO", None):
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # the later frames are damaged; the first one is judged by its own decode
        return 1


def _describe(image: Image.Image) -> Picture:
    orientation = _orientation(image)
    stored = image.size
    width, height = stored[::-1] if orientation >= 5 else stored
    return Picture(width, height, stored, orientation, _frames(image), image.mode)


def _has_end(format: str, head: bytes, tail: bytes, bytes_long: int) -> bool:
    """Whether the file's end shows that nothing is cut off; False means: decode to find out."""
    if format == "JPEG":
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if format == "PNG":
        return tail.endswith(b"\0\0\0\0IEND\xaeB`\x82")
    if format == "WEBP":
        return bytes_long >= int.from_bytes(head[4:8], "little") + 8
    return False


def _verify(data: bytes, name: str) -> None:
    """Checks a PNG's checksums: Pillow decodes a damaged stream to black without a word."""
    try:
        with _open(io.BytesIO(data), data[:64], len(data), name) as image:
            image.verify()
    except ImageError:
        raise
    except Exception as error:  # SyntaxError, OSError, ...: Pillow's parsers are not of one mind
        raise ImageError(name, "image_unreadable", f"cannot be decoded: {error}") from error


def _load(image: Image.Image, name: str) -> None:
    try:
        image.load()
    except Exception as error:  # OSError for cut-off data, others from damaged streams
        reason = f"cannot be decoded: {error}"
        raise ImageError(name, "image_unreadable", reason) from error


def _from_pillow(
    image: Image.Image, name: str, shrink: int, say_frames: bool
) -> npt.NDArray[np.uint8]:
    _check_size(image.size, name)
    frames = _frames(image)
    if frames > 1 and say_frames:
        warnings.warn(f"decode: {name}: {frames} frames, only the first is used", stacklevel=3)
    orientation = _orientation(image)
    _load(image, name)
    flat = _to_rgb(image, name)
    if shrink > 1:
        flat = flat.reduce(shrink)
    return oriented(np.asarray(flat), orientation)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A Pillow image of any mode as RGB, by the rules of this file's head."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65_535):
            reason = f"integer pixels from {values.min()} to {values.max()}; 0 to 65535 was needed"
            raise ImageError(name, "image_unreadable", reason)
        return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        reason = "32-bit floating point pixels, whose range is unknown; 8 or 16 bit was needed"
        raise ImageError(name, "image_unreadable", reason)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
