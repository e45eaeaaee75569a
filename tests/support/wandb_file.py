"""Reads a W&B transaction log: a 7-byte header, then LevelDB log blocks of 32 KiB."""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER, RECORD = 32768, 7, struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def _bodies(file: Path) -> Iterator[bytes]:
    data = file.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = HEADER, b""
    while position + RECORD.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < RECORD.size:
            position += left
            continue
        checksum, length, kind = RECORD.unpack_from(data, position)
        body = data[position + RECORD.size : position + RECORD.size + length]
        assert zlib.crc32(body, zlib.crc32(bytes([kind]))) == checksum
        position += RECORD.size + length
        parts = body if kind in (FULL, FIRST) else parts + body
        if kind in (FULL, LAST):
            yield parts


def read_run(file: Path) -> dict[str, Any]:
    """The run's names and config, and its history as a list of dicts."""
    from wandb.proto import wandb_internal_pb2

    def value(item: Any) -> tuple[str, Any]:
        return ".".join(item.nested_key) or item.key, json.loads(item.value_json)

    found: dict[str, Any] = {"history": [], "config": {}, "files": [], "models": {}}
    for body in _bodies(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(body)
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                found.update(id=run.run_id, project=run.project, group=run.run_group)
                found.update(job_type=run.job_type, name=run.display_name)
                found.update(entity=run.entity, tags=list(run.tags))
                found["config"].update(value(item) for item in run.config.update)
            case "config":
                found["config"].update(value(item) for item in record.config.update)
            case "history":
                found["history"].append(dict(value(item) for item in record.history.item))
            case "files":
                found["files"] += [file.path for file in record.files.files]
            case "artifact" if record.artifact.type == "model":  # tables are of another type
                found["models"][record.artifact.name] = {
                    entry.path: entry.size for entry in record.artifact.manifest.contents
                }
            case "exit":
                found["exit"] = record.exit.exit_code
    return found
