"""One picture, however hostile: decoded to grey or RGB, or one sentence about what is wrong."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray[Any, np.dtype[np.uint8]]
Content = Path | bytes | ValueError  # a file, its bytes, or why there are none
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOST_PIXELS = 1 << 26
MOST_BYTES = 1 << 27  # of a picture that is not a file, and so is read into memory
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # none that runs another program
_LARGE, _STRIP = 1 << 23, 1 << 20  # pixels
_one_at_a_time = threading.Lock()


def decode(content: Content, size: tuple[int, int] | None = None) -> Array:
    """The first frame, upright, as uint8 (1 or 3, H, W); transparency is laid on white.

    Grey is 1 channel where the file says so, and in a palette of greys; 16 bits become 8. With
    size, (H, W), the middle of that aspect is cropped and resized to it (bicubic, antialiased).
    Safe in threads; call it within `quiet`. Raises ValueError, which says what is wrong and not
    where.
    """
    if isinstance(content, ValueError):
        raise content
    from PIL import Image, ImageOps

    try:
        if not (content.stat().st_size if isinstance(content, Path) else len(content)):
            raise ValueError("it is empty")
        pixels = _checked(content)
        with _one_at_a_time if pixels > _LARGE else nullcontext():
            picture = _upright(content)
            if size is not None:
                picture = ImageOps.fit(picture, size[::-1], Image.Resampling.BICUBIC)
            return _array(picture)
    except Exception as error:  # its readers raise what they meet
        raise ValueError(said(error)) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without PIL's warnings. Not to be entered by several threads at once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def said(error: BaseException) -> str:
    """What an error says, in one short line that a terminal can show."""
    if type(error).__name__ == "UnidentifiedImageError":
        return f"it is no {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}, or its header is damaged"
    words = " ".join(str(getattr(error, "strerror", None) or error).split())
    return printable(words[:160] + ("…" if len(words) > 160 else "") or type(error).__name__)


def printable(text: str) -> str:
    """The text with control characters, line ends and lone surrogates written as escapes."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def _open(content: Path | bytes) -> Image:
    from PIL import Image

    return Image.open(
        io.BytesIO(content) if isinstance(content, bytes) else content, formats=_FORMATS
    )


def _checked(content: Path | bytes) -> int:
    """How many pixels the header tells of. Raises ValueError for a bomb, before any is decoded."""
    from PIL import Image

    with _open(content) as opened:
        width, height = opened.size
        most = MOST_PIXELS // 2 if opened.format == "WEBP" else MOST_PIXELS  # 16 bytes each there
        most = min(most, Image.MAX_IMAGE_PIXELS or most)
        if width * height > most:
            raise ValueError(
                f"a decompression bomb: it tells of {width}×{height} pixels, and {most:,} is "
                "the most"
            )
        if opened.format == "PNG":
            opened.verify()  # its decoder leaves the checksums unread
    return width * height


def _upright(content: Path | bytes) -> Image:
    """As L or RGB. What was opened is let go on return, so that two copies never become three."""
    from PIL import ImageOps

    with _open(content) as opened:
        ImageOps.exif_transpose(opened, in_place=True)
        return _plain(opened)


def _plain(picture: Image) -> Image:
    """As L or RGB: 16-bit grey scaled down, transparency on white, a palette of greys grey."""
    picture.load()
    if picture.mode == "F":
        raise ValueError("it holds floats; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        return _by_strips(picture, "L", _to_8_bits)
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode == "L":
        return picture
    if picture.has_transparency_data:
        colour = _by_strips(picture, "RGB", _on_white)
    elif picture.mode == "RGB":
        return picture
    else:
        colour = _by_strips(picture, "RGB", lambda strip: strip.convert("RGB"))
    return colour.convert("L") if all(map(_is_grey, _strips(colour))) else colour


def _to_8_bits(strip: Image) -> Image:
    from PIL import Image

    return Image.fromarray((np.asarray(strip).clip(0, 65535) / 257).round().astype(np.uint8))


def _on_white(strip: Image) -> Image:
    from PIL import Image

    white = Image.new("RGBA", strip.size, "white")
    return Image.alpha_composite(white, strip.convert("RGBA")).convert("RGB")


def _is_grey(strip: Image) -> bool:
    red, green, blue = (np.asarray(band) for band in strip.split())
    return bool((red == green).all() and (red == blue).all())


def _strips(picture: Image) -> Iterator[Image]:
    """The picture's rows, some at a time, so that what is made of them stays small."""
    width, height = picture.size
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        yield picture.crop((0, top, width, min(top + rows, height)))


def _by_strips(picture: Image, mode: str, change: Callable[[Image], Image]) -> Image:
    from PIL import Image

    done, top = Image.new(mode, picture.size), 0
    for strip in _strips(picture):
        done.paste(change(strip), (0, top))
        top += strip.height
    return done


def _array(picture: Image) -> Array:
    """uint8 (1 or 3, H, W)."""
    done = np.empty((len(picture.getbands()), picture.height, picture.width), np.uint8)
    top = 0
    for strip in _strips(picture):
        rows = np.asarray(strip)
        done[:, top : top + strip.height] = rows if rows.ndim == 2 else rows.transpose(2, 0, 1)
        top += strip.height
    return done
