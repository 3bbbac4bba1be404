import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from ddim.decoding import decode, quiet
from ddim.reading import read

NOISE = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
END = (b"IEND", b"")


def png(*chunks):
    """A PNG of these chunks, written without PIL."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def header(width, height, bits=8, kind=0):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)


def rows(*rows):
    return b"IDAT", zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))


def deep(*values):
    """16 bits of which both halves are the value, so that 8 bits are it exactly."""
    return bytes(half for value in values for half in (value, value))


def saved(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(NOISE), "PNG", exif=exif)


def flat(value, size=(2, 1)):
    return Image.new("RGB", size, value)


def bands(*values):
    """(C, 1, N) of rows of values, one a channel."""
    return np.array(values, dtype=np.uint8)[:, None]


RED, WHITE = (255, 0, 0), (255, 255, 255)
PALETTE = b"PLTE", bytes((10, 20, 30, 40, 50, 60))
GREYS = b"PLTE", bytes((9, 9, 9, 8, 8, 8))
INKS = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (7, 8, 9, 255)]
CMYK = Image.frombytes("CMYK", (5, 1), bytes(ink for inks in INKS for ink in inks))
TWO = {"save_all": True, "append_images": [flat((0, 255, 0))]}
DECODED = {
    "1 bit": (png(header(3, 1, 1), rows([0b10100000]), END), bands([255, 0, 255])),
    "2 bits": (png(header(4, 1, 2), rows([0b00011011]), END), bands([0, 85, 170, 255])),
    "grey": (png(header(2, 1), rows([3, 4]), END), bands([3, 4])),
    "grey, 16 bits": (png(header(3, 1, 16), rows(deep(0, 7, 255)), END), bands([0, 7, 255])),
    "RGB, 16 bits": (png(header(1, 1, 16, 2), rows(deep(1, 2, 3)), END), bands([1], [2], [3])),
    "RGBA, 16 bits": (
        png(header(1, 1, 16, 6), rows(deep(1, 2, 3, 255)), END),
        bands([1], [2], [3]),
    ),
    "grey with alpha": (png(header(2, 1, 8, 4), rows([0, 51, 9, 255]), END), bands([204, 9])),
    "RGBA": (
        png(header(2, 1, 8, 6), rows([0, 0, 255, 51, 1, 2, 3, 0]), END),
        bands([204, 255], [204, 255], [255, 255]),
    ),
    "palette": (
        png(header(2, 1, 8, 3), PALETTE, rows([1, 0]), END),
        bands([40, 10], [50, 20], [60, 30]),
    ),
    "palette with a clear colour": (
        png(header(2, 1, 8, 3), PALETTE, (b"tRNS", b"\0\xff"), rows([0, 1]), END),
        bands([255, 40], [255, 50], [255, 60]),
    ),
    "palette of greys": (png(header(2, 1, 8, 3), GREYS, rows([0, 1]), END), bands([9, 8])),
    "RGB with a clear colour": (
        png(
            header(2, 1, 8, 2),
            (b"tRNS", deep(0)[:1] + b"\1\0\2\0\3"),
            rows([1, 2, 3, 4, 5, 6]),
            END,
        ),
        bands([255, 4], [255, 5], [255, 6]),
    ),
    "CMYK": (
        saved(CMYK, "TIFF"),
        bands([255, 0, 255, 255, 0], [255, 255, 0, 255, 0], [255, 255, 255, 0, 0]),
    ),
    "CMYK as JPEG": (
        saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100),
        np.broadcast_to(np.array(RED, np.uint8)[:, None, None], (3, 8, 8)),
    ),
    "big endian 16 bits": (
        saved(Image.fromarray(np.array([[257, 514]], ">u2")), "TIFF"),
        bands([1, 2]),
    ),
    "GIF": (saved(flat(RED), "GIF", **TWO), bands([255] * 2, [0] * 2, [0] * 2)),
    "animated PNG": (saved(flat(RED), "PNG", **TWO), bands([255] * 2, [0] * 2, [0] * 2)),
    "animated WebP": (
        saved(flat(RED), "WEBP", lossless=True, **TWO),
        bands([255] * 2, [0] * 2, [0] * 2),
    ),
    "BMP": (saved(Image.fromarray(NOISE), "BMP"), NOISE.transpose(2, 0, 1)),
    "upright": (turned(1), NOISE.transpose(2, 0, 1)),
    "mirrored": (turned(2), NOISE[:, ::-1].transpose(2, 0, 1)),
    "on its head": (turned(3), NOISE[::-1, ::-1].transpose(2, 0, 1)),
    "flipped": (turned(4), NOISE[::-1].transpose(2, 0, 1)),
    "transposed": (turned(5), NOISE.transpose(2, 1, 0)),
    "turned right": (turned(6), NOISE[::-1].transpose(2, 1, 0)),
    "both": (turned(7), NOISE[::-1, ::-1].transpose(2, 1, 0)),
    "turned left": (turned(8), NOISE[:, ::-1].transpose(2, 1, 0)),
    "more data than pixels": (png(header(1, 1), rows([5], bytes(10**7)), END), bands([5])),
}
BOMB = zlib.compress(bytes(1 << 26), 9)
DOT = header(1, 1), rows([5]), END
REFUSED = {
    "empty": (b"", "it is empty"),
    "text": (b"no picture", "is no PNG, JPEG, WEBP, BMP, GIF or TIFF"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is no PNG"),
    "eps": (saved(flat(RED), "EPS"), "is no PNG"),
    "a wide header": (png(header(50_000, 50_000), rows([0]), END), "decompression bomb"),
    "over the most": (png(header(8_193, 8_192), rows([0]), END), "8193×8192.*67,108,864 is the"),
    "WebP over the most": (
        saved(Image.new("L", (5_793, 5_793)), "WEBP", method=0, quality=0),
        "33,554,432 is the most",
    ),
    "a profile that unfolds": (png(DOT[0], (b"iCCP", b"p\0\0" + BOMB), *DOT[1:]), "too large"),
    "text that unfolds": (png(DOT[0], (b"zTXt", b"p\0\0" + BOMB), *DOT[1:]), "too large"),
    "such text at the end": (png(*DOT[:2], (b"zTXt", b"p\0\0" + BOMB), END), "too large"),
    "a wrong checksum": (png(*DOT).replace(rows([5])[1], rows([6])[1]), "checksum in b'IDAT'"),
    "no end": (png(*DOT[:2]), "truncated"),
    "floats": (saved(Image.new("F", (2, 2)), "TIFF"), "holds floats; save it with 8"),
}
WHOLE = {
    kind: saved(Image.fromarray(NOISE), kind, **options)
    for kind, options in {
        "PNG": {},
        "JPEG": {"progressive": True},
        "BMP": {},
        "GIF": {},
        "TIFF": {"compression": "tiff_lzw"},
        "WEBP": {"lossless": True},
    }.items()
}


def decoded(content, size=None):
    with quiet():
        return decode(content, size)


@pytest.mark.parametrize("name", DECODED)
def test_every_kind_of_picture_is_decoded_to_the_bit(name):
    content, expected = DECODED[name]
    found = decoded(content)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_whole_picture_is_refused_in_a_sentence(name):
    content, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as caught:
        decoded(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_picture_cut_at_any_byte_is_refused_or_whole(kind):
    whole, refused = decoded(WHOLE[kind]), 0
    for length in range(len(WHOLE[kind])):
        try:
            found = decoded(WHOLE[kind][:length])
        except ValueError:
            refused += 1
        else:
            assert np.array_equal(found, whole), length
    assert refused > 0.8 * len(WHOLE[kind])


def test_no_damaged_byte_of_a_png_goes_unnoticed():
    whole = decoded(WHOLE["PNG"])
    for place in range(len(WHOLE["PNG"])):
        damaged = bytearray(WHOLE["PNG"])
        damaged[place] ^= 0x10
        try:
            found = decoded(bytes(damaged))
        except ValueError:
            continue
        assert np.array_equal(found, whole), place


def test_a_size_is_height_and_width_of_the_middle():
    picture = np.zeros((4, 12), np.uint8)
    picture[:, 2:10] = 50
    picture[1:3, 4:8] = 90
    content = saved(Image.fromarray(picture), "PNG")
    assert np.array_equal(decoded(content, (4, 8))[0], picture[:, 2:10])
    assert decoded(content, (2, 1)).shape == (1, 2, 1)
    for thin in ((1, 9_000), (9_000, 1)):
        found = decoded(saved(Image.new("L", thin, 77), "PNG"), (3, 5))
        assert np.array_equal(found, np.full((1, 3, 5), 77))


def test_strips_of_a_large_picture_fit_together():
    # More pixels than a strip of rows holds, of a kind that is changed strip by strip.
    levels = (np.arange(1_100)[:, None] + np.arange(1_000)) % 256
    content = saved(Image.fromarray((levels * 257).astype(np.uint16)), "PNG")
    assert np.array_equal(decoded(content)[0], levels)


def test_hostile_pictures_are_all_named_and_take_little_memory(tmp_path):
    large = b"IDAT", zlib.compress(bytes(8_000 * 32_001), 1)
    kinds = {**DECODED, **REFUSED, "large": (png(header(8_000, 8_000, 8, 6), large, END), None)}
    for name, (content, _) in kinds.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    code = """
import json, pathlib, sys
import ddim, PIL.Image
PIL.Image.init()
def peak():
    return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10
before = peak()
images = ddim.read(sys.argv[1], 8, skip_bad=True)
print(json.dumps([len(images), images.skipped, peak() - before]))
"""
    arguments = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    count, skipped, growth = json.loads(done.stdout)
    assert count == len(DECODED) + 1
    bad = [sentence.partition(": ")[0] for sentence in skipped]
    assert bad == sorted(f"{name}.png" for name in REFUSED)
    assert 64e6 * 4 < growth < 1e9  # so much the one large picture takes, and it is seen
    (tmp_path / "large.png").unlink()
    with pytest.raises(ValueError, match=f"^{len(REFUSED)} of {len(kinds) - 1} images cannot"):
        read(tmp_path, 8)
