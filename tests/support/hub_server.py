"""A stand-in for the Hugging Face Hub on this machine: enough of it to take a folder's files."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub:
    """Keeps the files that it is sent, by repository. Use as a context manager.

    `role` is what its one token may do; with `closed` no file is taken.
    """

    def __init__(self, folder: Path, *, role: str = "write", closed: bool = False):
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self._role, self._closed = role, closed
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.environment = {
            "HF_ENDPOINT": f"http://127.0.0.1:{self._http.server_port}",
            "HF_TOKEN": "hf_right",
            "HF_HOME": str(folder),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def __enter__(self) -> "Hub":
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
                if self.headers.get("Authorization") != "Bearer hf_right":
                    status, answer = 401, {"error": "Invalid credentials"}
                else:
                    status, answer = outer._answer(self.path.partition("?")[0], content)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                if status == 404:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _answer(self, path: str, content: bytes) -> tuple[int, Any]:
        if path == "/api/whoami-v2":
            token = {"displayName": "a token", "role": self._role}
            return 200, {"type": "user", "name": "somebody", "auth": {"accessToken": token}}
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
            self.files.setdefault(name, {})
            self.private[name] = asked.get("private", False) or asked.get("visibility") == "private"
            return 200, {"url": f"{self.environment['HF_ENDPOINT']}/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        name = "/".join(path.split("/")[3:5])
        if path == f"/api/models/{name}/preupload/main":
            wanted = [{**file, "uploadMode": "regular", "shouldIgnore": False}
                      for file in json.loads(content)["files"]]  # fmt: skip
            return 200, {"files": wanted}
        if path == f"/api/models/{name}/commit/main":
            if self._closed:
                return 403, {"error": "storage limit reached"}
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    file = line["value"]
                    self.files[name][file["path"]] = base64.b64decode(file["content"])
            page = f"{self.environment['HF_ENDPOINT']}/{name}"
            return 200, {"commitUrl": f"{page}/commit/1", "commitOid": "1" * 40, "success": True}
        if path == f"/api/models/{name}" and name in self.files:
            return 200, {"id": name}
        return 404, {"error": f"nothing stands in for {path}"}
