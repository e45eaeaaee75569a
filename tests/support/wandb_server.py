"""A stand-in for W&B's server on this machine: enough of it for runs to begin, log and end."""

import gzip
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """Counts the history rows that it is sent, by run and step. Use as a context manager.

    With `refusing` every request gets a 401; with `dies` it is gone after the first row.
    """

    def __init__(self, *, refusing: bool = False, dies: bool = False):
        self.rows: Counter[tuple[str, int]] = Counter()
        self._refusing, self._dies = refusing, dies
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.environment = {
            "WANDB_MODE": "online",
            "WANDB_API_KEY": "0" * 40,
            "WANDB_BASE_URL": f"http://127.0.0.1:{self._http.server_port}",
            "WANDB_ERROR_REPORTING": "false",
        }

    def __enter__(self) -> "Server":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    content = gzip.decompress(content)
                status, answer = (401, {}) if outer._refusing else outer._answer(self.path, content)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            do_GET = do_PUT = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _answer(self, path: str, content: bytes) -> tuple[int, dict[str, Any]]:
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
