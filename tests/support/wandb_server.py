"""A stand-in for W&B's server on this machine: enough of it for runs to begin, log and end."""

import json
from collections import Counter
from email.message import Message
from typing import Any

from local_server import LocalServer


class Server(LocalServer):
    """Counts the history rows that it is sent, by run and step.

    With `refusing` every request gets a 401; with `dies` it is gone after the first row.
    """

    def __init__(self, *, refusing: bool = False, dies: bool = False):
        super().__init__()
        self.rows: Counter[tuple[str, int]] = Counter()
        self._refusing, self._dies = refusing, dies
        self.environment = {
            "WANDB_MODE": "online",
            "WANDB_API_KEY": "0" * 40,
            "WANDB_BASE_URL": self.address,
            "WANDB_ERROR_REPORTING": "false",
        }

    def answer(self, path: str, _headers: Message, content: bytes) -> tuple[int, dict[str, Any]]:
        if self._refusing:
            return 401, {}
        if self._dies and self.rows:
            return 503, {}
        if path.endswith("/file_stream"):
            files = json.loads(content).get("files") or {}
            for row in files.get("wandb-history.jsonl", {}).get("content", ()):
                self.rows[path.split("/")[-2], json.loads(row)["_step"]] += 1
            return 200, {}
        if path.endswith("/graphql"):
            request = json.loads(content)
            return 200, {"data": _data(request["operationName"], request.get("variables") or {})}
        return 200, {}


def _data(operation: str, variables: dict[str, Any]) -> dict[str, Any]:
    """What the client cannot do without, of the answer to a query of it."""
    project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}}
    if operation == "RunResumeStatus":
        return {"model": {**project, "bucket": None}}
    if operation == "UpsertBucket":
        bucket = {"id": "b", "name": variables["name"], "project": project, "config": "{}"}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if operation == "CreateRunFiles":
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}
    return {}
