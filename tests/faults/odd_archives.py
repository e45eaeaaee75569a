"""Archives that claim, hide or are what they should not, and what comes of each."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from archives import random_pixels

IMAGES, LABELS = random_pixels(0, 40, 8, 8), np.arange(40) % 3


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def claim(shape: tuple[int, ...], descr: str = "|u1", content: bytes = b"") -> bytes:
    """An array of which the header says this shape, before other content."""
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + content


def header(text: bytes, version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    """A file of NumPy's with any header."""
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", length or len(text))
    return b"\x93NUMPY" + version + size + text


def archive(**members: bytes) -> bytes:
    """An archive of four arrays, some of them replaced."""
    stream = io.BytesIO()
    plain = {"x_train": npy(IMAGES), "y_train": npy(LABELS)}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in {**plain, "x_test": npy(IMAGES), "y_test": npy(LABELS)}.items():
            file.writestr(f"{name}.npy", members.pop(name, content))
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


class Evil:
    """Leaves a mark where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


def object_array() -> np.ndarray:
    array = np.empty(40, dtype=object)
    array[:] = [Evil()] * 40
    return array


def twice(content: bytes) -> bytes:
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as file:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file.writestr("x_train.npy", npy(IMAGES.astype(np.float32)))
    return stream.getvalue()


def wrong_crc() -> bytes:
    content = bytearray(archive())
    place = content.index(b"PK\x01\x02") + 16
    content[place] ^= 1
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(archive())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def larger_than_said() -> bytes:
    """The directory says that a member is 4 GiB long."""
    content = bytearray(archive())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<I", 2**32 - 2)
    return bytes(content)


def bomb_of_labels() -> bytes:
    """5 x 10^8 images of one pixel and their labels, in a file of some MiB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, descr, size in (("x_train", "|u1", 1), ("y_train", "<i8", 8)):
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                count = 5 * 10**8
                member.write(claim((count, 1, 1) if size == 1 else (count,), descr))
                for _ in range(size * 5):
                    member.write(bytes(10**8))
    return stream.getvalue()


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "claims 10^9 images": (lambda: archive(x_train=claim((10**9, 8, 8))), "refused"),
    "claims 10^9 pixels a side": (lambda: archive(x_train=claim((40, 10**9, 10**9))), "refused"),
    "claims more than 2^64": (lambda: archive(x_train=claim((2**40, 2**40, 2**40))), "refused"),
    "claims a negative size": (lambda: archive(x_train=claim((-40, 8, 8))), "refused"),
    "claims 10^9 labels": (lambda: archive(y_train=claim((10**9,), "<i8")), "refused"),
    "claims long strings": (lambda: archive(y_train=claim((40,), "|S999999999")), "refused"),
    "a header of 2 GiB": (
        lambda: archive(x_train=header(b"{", b"\x02\x00", 2**31)),
        "refused",
    ),
    "a header of 60 kB": (lambda: archive(x_train=header(b"(" * 60_000)), "refused"),
    "a deep header": (lambda: archive(x_train=header(b"[" * 5000 + b"]" * 5000)), "refused"),
    "a header that is a call": (
        lambda: archive(x_train=header(b"__import__('os').mkdir('unpickled')\n")),
        "refused",
    ),
    "a header of version 9": (lambda: archive(x_train=header(b"{}", b"\x09\x00")), "refused"),
    "object images": (lambda: archive(x_train=npy(object_array())), "refused"),
    "object labels": (lambda: archive(y_train=npy(object_array())), "refused"),
    "a pickle for an array": (lambda: archive(y_train=pickle.dumps(Evil())), "refused"),
    "a pickle beside the arrays": (lambda: archive(**{"z.npy": pickle.dumps(Evil())}), "used"),
    "float images": (lambda: archive(x_train=npy(IMAGES.astype(np.float32))), "refused"),
    "NaN images": (lambda: archive(x_train=npy(IMAGES * np.nan)), "refused"),
    "16-bit big-endian images": (lambda: archive(x_train=npy(IMAGES.astype(">u2"))), "refused"),
    "big-endian labels": (lambda: archive(y_train=npy(LABELS.astype(">i4"))), "used"),
    "unsigned labels": (lambda: archive(y_train=npy(LABELS.astype(np.uint64))), "used"),
    "labels beyond int64": (
        lambda: archive(y_train=npy(np.where(LABELS, LABELS, 2**64 - 1).astype(np.uint64))),
        "refused",
    ),
    "NaN labels": (lambda: archive(y_train=npy(LABELS * np.nan)), "refused"),
    "bool labels": (lambda: archive(y_train=npy(LABELS > 0)), "refused"),
    "structured images": (
        lambda: archive(x_train=npy(np.zeros((40, 8, 8), [("a", "u1"), ("b", "O")]))),
        "refused",
    ),
    "images in Fortran's order": (
        lambda: archive(x_train=npy(np.asfortranarray(IMAGES))), "used",
    ),
    "a member twice": (lambda: twice(archive()), "refused"),
    "a member of a path": (lambda: archive(**{"../../x_train.npy": b"x"}), "used"),
    "a wrong CRC": (wrong_crc, "refused"),
    "encrypted members": (encrypted, "refused"),
    "a member larger than it is": (larger_than_said, "refused"),
    "a bomb of labels": (bomb_of_labels, "refused"),
    "truncated": (lambda: archive()[:-200], "refused"),
    "a directory alone": (lambda: b"PK\x05\x06" + bytes(18), "refused"),
}  # fmt: skip
