"""Images and image folders that claim, hide or are what they should not, and what comes of each."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from archives import random_pixels
from PIL import Image


def saved(image: Image.Image, style: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, style, **options)
    return stream.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(random_pixels(1, 20, 30, 3)).convert(mode)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    about = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + chunk(b"IDAT", pixels)


def frames() -> list[Image.Image]:
    return [Image.fromarray(random_pixels(n, 20, 20, 3)) for n in range(5)]


def bad_text() -> bytes:
    """A PNG whose text takes 100 MB."""
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text("x", "0" * 10**8, zip=True)
    return saved(picture(), "PNG", pnginfo=about)


IMAGE_FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "CMYK": ("jpg", lambda: saved(picture("CMYK"), "JPEG"), "used"),
    "CMYK TIFF": ("tif", lambda: saved(picture("CMYK"), "TIFF"), "used"),
    "16-bit PNG": (
        "png",
        lambda: saved(Image.fromarray(random_pixels(1, 20, 20).astype(np.uint16) * 257), "PNG"),
        "used",
    ),
    "big-endian 16-bit TIFF": (
        "tif", lambda: b"MM" + _big_endian_tiff()[2:], "used",
    ),
    "float TIFF": (
        "tif", lambda: saved(Image.fromarray(random_pixels(1, 20, 20).astype(np.float32)), "TIFF"),
        "used",
    ),
    "NaN TIFF": (
        "tif",
        lambda: saved(Image.fromarray(np.full((20, 20), np.nan, np.float32)), "TIFF"),
        "used",
    ),
    "1-bit": ("png", lambda: saved(picture("1"), "PNG"), "used"),
    "palette with transparency": (
        "png", lambda: saved(picture("P"), "PNG", transparency=bytes(range(256))), "used",
    ),
    "transparency": ("png", lambda: saved(picture("RGBA"), "PNG"), "used"),
    "animated PNG": (
        "png", lambda: saved(frames()[0], "PNG", save_all=True, append_images=frames()[1:]), "used",
    ),
    "animated WebP": (
        "webp", lambda: saved(frames()[0], "WEBP", save_all=True, append_images=frames()[1:]),
        "used",
    ),
    "animated GIF called PNG": (
        "png", lambda: saved(frames()[0], "GIF", save_all=True, append_images=frames()[1:]), "used",
    ),
    "one pixel": ("png", lambda: saved(picture().resize((1, 1)), "PNG"), "used"),
    "truncated JPEG": ("jpg", lambda: saved(picture(), "JPEG")[:-300], "refused"),
    "truncated PNG": ("png", lambda: saved(picture(), "PNG")[:-300], "refused"),
    "header of a PNG": ("png", lambda: saved(picture(), "PNG")[:20], "refused"),
    "truncated TIFF": ("tif", lambda: saved(picture(), "TIFF")[:100], "refused"),
    "empty": ("png", lambda: b"", "refused"),
    "text": ("png", lambda: b"no picture", "refused"),
    "an SVG": ("png", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "refused"),
    "claims 10^9 pixels": ("png", lambda: png_that_claims(50_000, 20_000), "refused"),
    "claims 10^8 pixels": ("png", lambda: png_that_claims(10_000, 10_000), "refused"),
    "claims no pixel": ("png", lambda: png_that_claims(0, 10), "refused"),
    "claims 2^31 a side": ("png", lambda: png_that_claims(2**31 - 1, 1), "refused"),
    "a line that is enlarged": (
        "png", lambda: saved(Image.new("L", (10**7, 1)), "PNG"), "refused",
    ),
    "a text of 100 MB": ("png", bad_text, "refused"),
    "broken EXIF": (
        "jpg", lambda: saved(picture(), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40), "used",
    ),
}  # fmt: skip


def _big_endian_tiff() -> bytes:
    image = Image.frombytes("I;16B", (20, 20), random_pixels(1, 20, 40).tobytes())
    return saved(image, "TIFF")


def loop_to_itself(root: Path) -> None:
    (root / "train/ant/loop").symlink_to("loop")


def loop_upwards(root: Path) -> None:
    (root / "train/ant/loop").symlink_to("..")


def many_loops(root: Path) -> None:
    for name in ("ant", "bee", "cat"):
        for number in range(3):
            (root / "train" / name / f"loop{number}").symlink_to(root / "train")


def class_is_a_loop(root: Path) -> None:
    (root / "train/dog").symlink_to("..")


def class_is_a_link(root: Path) -> None:
    (root / "train/ant").rename(root / "elsewhere")
    (root / "train/ant").symlink_to(root / "elsewhere")


def pipe_of_an_image(root: Path) -> None:
    os.mkfifo(root / "train/ant/pipe.png")


def endless_image(root: Path) -> None:
    (root / "train/ant/zero.png").symlink_to("/dev/zero")


def folder_of_an_image(root: Path) -> None:
    (root / "train/ant/folder.png").mkdir()


FOLDERS: dict[Callable[[Path], None], str] = {
    loop_to_itself: "used", loop_upwards: "refused", many_loops: "refused",
    class_is_a_loop: "refused", class_is_a_link: "used", pipe_of_an_image: "refused",
    endless_image: "refused", folder_of_an_image: "used",
}  # fmt: skip
