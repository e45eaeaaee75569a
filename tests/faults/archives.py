"""Archives, images and weights that claim, hide or are what they should not, tried as data.

    python -m tests.faults.archives [--each N] [WORD...]

Each case is an archive, an image among others, an image folder, or a teacher's weights, validated
and run: what can be used is used, what cannot is refused in a message that names it, without a
hang, a traceback, or memory far beyond what the file is worth.
"""

import io
import json
import os
import pickle
import resource
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from .cases import Case, main
from .inside import command, defects, ended, levels_run_here

from archives import random_pixels, write_image_folder  # isort: skip

from networks import build_network

SPEC = """\
experiment: small
dataset: DATASET
student: {arch: vgg-like, depth: 1, width: 4, pool: 2}
training: {epochs: 1, batch_size: 7, optimizer: {lr: 0.05}}
pruning: {levels: 0}
recipes: [RECIPE]
seeds: [0]
"""
TEACHER = "teacher: {arch: vgg-like, depth: 1, width: 4, pool: 2}\n"
NPZ = "{name: npz, file: data.npz, validation: test}"
FOLDER = "{name: image-folder, root: pictures, size: {resize: 16, crop: 8}, validation: test}"

MEMORY = 3 * 2**30
"""Bytes of address space that a case may take beyond what this process has."""

# Archives

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

# Images


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

# Weights


def safetensors(about: dict[str, Any] | bytes, content: bytes = b"", length: int = 0) -> bytes:
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    return struct.pack("<Q", length or len(text)) + text + content


def weights() -> dict[str, torch.Tensor]:
    network = build_network("vgg-like", 1, 3, seed=0, image_size=(8, 8), depth=1, width=4, pool=2)
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def entry(
    start: int, stop: int, shape: tuple[int, ...] = (1,), kind: str = "F32"
) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, stop]}


def offsets_of_two() -> bytes:
    """The real weights, of which two tensors share their bytes."""
    content = save(weights())
    length = int.from_bytes(content[:8], "little")
    about = json.loads(content[8 : 8 + length])
    names = [name for name, e in about.items() if name != "__metadata__" and e["shape"] == [4]]
    about[names[0]]["data_offsets"] = about[names[1]]["data_offsets"]
    return safetensors(about, content[8 + length :])


WEIGHTS: dict[str, Callable[[], bytes]] = {
    "a header of 2^63": lambda: safetensors({}, length=2**63),
    "a header of 1 TiB": lambda: safetensors({}, length=2**40),
    "a header of 200 MB": lambda: safetensors(b"{" + b" " * 200_000_000 + b"}"),
    "a deep header": lambda: safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "no JSON": lambda: safetensors(b"\xff\xfe{}"),
    "a list": lambda: safetensors(b"[]"),
    "overlapping offsets": lambda: safetensors({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)),
    "overlapping offsets of the right names": offsets_of_two,
    "offsets beyond the end": lambda: safetensors({"a": entry(0, 2**40, (2**38,))}, bytes(4)),
    "offsets backwards": lambda: safetensors({"a": entry(4, 0)}, bytes(4)),
    "negative offsets": lambda: safetensors({"a": entry(-4, 0)}, bytes(4)),
    "a hole": lambda: safetensors({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
    "a shape that overflows": lambda: safetensors({"a": entry(0, 4, (2**62, 8))}, bytes(4)),
    "10^9 elements claimed": lambda: safetensors({"a": entry(0, 4, (10**9,))}, bytes(4)),
    "an unknown type": lambda: safetensors({"a": entry(0, 4, kind="F999")}, bytes(4)),
    "8-bit floats": lambda: safetensors({"a": entry(0, 4, (4,), "F8_E4M3")}, bytes(4)),
    "a name with an escape": lambda: safetensors({"\x1b[2J": entry(0, 4)}, bytes(4)),
    "metadata that is no text": lambda: safetensors({"__metadata__": {"a": [1]}}),
    "bytes after the end": lambda: save(weights()) + b"more",
    "a pickle": lambda: pickle.dumps(Evil()),
    "no tensors": lambda: save({}),
}

# Trying


@contextmanager
def little_memory() -> Any:
    """Limits this process's address space to what it has and a little more."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(
    folder: Path, dataset: str, named: str, expected: str, teacher: bool = False
) -> tuple[str, list[str]]:
    """Validate, plan and run; return the exit codes, and what was wrong."""
    spec = SPEC.replace("DATASET", dataset).replace("RECIPE", "mine" if teacher else "vanilla")
    (folder / "spec.yaml").write_text(spec + TEACHER * teacher)
    with levels_run_here(), little_memory():
        done = [command(folder, line, "spec.yaml") for line in ("validate", "plan", "run")]
    wrong = [defect for one in done for defect in defects(one)]
    run = done[-1]
    if expected == "used" and run.returncode != 0:
        wrong.append(f"is not used: {run.stderr.strip()[-200:]}")
    if expected == "refused":
        wrong += [] if run.returncode in (2, 3) else [f"`run` ends with {run.returncode}"]
        wrong += [] if named in run.stderr else [f"{named} is not named: {run.stderr[-200:]}"]
        if list(folder.glob("store/levels/*/*")):
            wrong.append("a level was run")
    if "memory is full" in run.stderr:
        wrong.append("it takes all memory")
    if "Warning" in "".join(one.stderr for one in done):
        wrong.append(f"Python's own warning is shown ({run.stderr[-150:]})")
    if (folder / "unpickled").exists():
        wrong.append("it was unpickled")
    if "\x1b" in "".join(one.stdout + one.stderr for one in done):
        wrong.append("an escape reaches the terminal")
    return " ".join(str(one.returncode) for one in done), wrong


def try_archive(folder: Path, name: str) -> tuple[str, list[str]]:
    folder.mkdir()
    make, expected = ARCHIVES[name]
    (folder / "data.npz").write_bytes(make())
    return attempt(folder, NPZ, "data.npz", expected)


def try_image(folder: Path, name: str) -> tuple[str, list[str]]:
    root = write_image_folder(folder / "pictures")
    ending, make, expected = IMAGE_FILES[name]
    (root / f"train/ant/case.{ending}").write_bytes(make())
    return attempt(folder, FOLDER, f"case.{ending}", expected)


def try_folder(folder: Path, change: Callable[[Path], None]) -> tuple[str, list[str]]:
    change(write_image_folder(folder / "pictures"))
    return attempt(folder, FOLDER, "pictures/", FOLDERS[change])


def try_weights(folder: Path, name: str) -> tuple[str, list[str]]:
    folder.mkdir()
    (folder / "data.npz").write_bytes(archive())
    (folder / "w.safetensors").write_bytes(WEIGHTS[name]())
    recipe = "recipe: mine\ntitle: x\ndistill: {teacher: {weights: w.safetensors}}\n"
    (folder / "mine.yaml").write_text(recipe)
    return attempt(folder, NPZ, "w.safetensors", "refused", teacher=True)


def cases(_root: Path) -> Iterator[Case]:
    """All of them."""
    for name in ARCHIVES:
        yield f"archive, {name}", lambda folder, n=name: ended(*try_archive(folder, n))
    for name in IMAGE_FILES:
        yield f"image, {name}", lambda folder, n=name: ended(*try_image(folder, n))
    for change in FOLDERS:
        what = change.__name__.replace("_", " ")
        yield f"image folder, {what}", lambda folder, c=change: ended(*try_folder(folder, c))
    for name in WEIGHTS:
        yield f"weights, {name}", lambda folder, n=name: ended(*try_weights(folder, n))


if __name__ == "__main__":
    sys.exit(main("archives", cases) != 0)
