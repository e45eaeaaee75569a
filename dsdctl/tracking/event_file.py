"""TensorBoard's event files: records that are appended whole, and read back to go on.

A record is its length (8 bytes), a checksum (4), that many bytes, and their checksum (4).
"""

import fcntl
import io
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsdctl.system.atomic import replace_file

NAME = "events.out.tfevents.dsdctl"
"""By `tfevents` in its name TensorBoard finds it; the name of its folder is that of the run."""

_FORMAT = "brain.Event:2"
"""What the first event of each file says."""


def add_scalars(folder: Path, step: int, scalars: Mapping[str, float]) -> bool:
    """Append a step's scalars, unless the file in `folder` has that step; say whether.

    What a killed process left half-written at its end is cut off. Raises OSError.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary

    folder.mkdir(parents=True, exist_ok=True)
    values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
    with open(folder / NAME, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        file.seek(0)
        end, steps = _read(file.read())
        if step in steps:
            return False
        file.truncate(end)
        beginning = b"" if end else _record(file_version=_FORMAT)
        file.write(beginning + _record(step=step, summary=Summary(value=values)))
        file.flush()
        os.fsync(file.fileno())
    return True


def write_page(folder: Path, text: str, images: Mapping[str, bytes]) -> None:
    """Write a Markdown text and images (PNG) in place of those that were there. Raises OSError."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    folder.mkdir(parents=True, exist_ok=True)
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
    values = [Summary.Value(tag="comparison", metadata=metadata, tensor=tensor)]
    for name, png in images.items():
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
        size = {"width": width, "height": height, "colorspace": 4}
        image = Summary.Image(**size, encoded_image_string=png)
        values.append(Summary.Value(tag=name, image=image))
    content = _record(file_version=_FORMAT) + _record(step=0, summary=Summary(value=values))
    replace_file(folder / NAME, content)


def _record(**fields: Any) -> bytes:
    """An event as a record."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    stream = io.BytesIO()
    RecordWriter(stream).write(Event(wall_time=time.time(), **fields).SerializeToString())
    return stream.getvalue()


def _read(content: bytes) -> tuple[int, set[int]]:
    """Where the last whole record ends, and the steps of those that hold values."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    end, steps = 0, set[int]()
    while end + 16 <= len(content):
        length = int.from_bytes(content[end : end + 8], "little")
        body = content[end + 12 : end + 12 + length]
        if end + length + 16 > len(content):
            break
        try:
            event = Event.FromString(body)
        except DecodeError:
            break
        if event.HasField("summary"):
            steps.add(event.step)
        end += length + 16
    return end, steps
