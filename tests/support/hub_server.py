"""A stand-in for the Hugging Face Hub on this machine: enough of it to take a folder's files."""

import base64
import json
from email.message import Message
from pathlib import Path
from typing import Any

from local_server import LocalServer


class Hub(LocalServer):
    """Keeps the files that it is sent, by repository.

    `role` is what its one token may do; with `closed` no file is taken.
    """

    def __init__(self, folder: Path, *, role: str = "write", closed: bool = False):
        super().__init__()
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self._role, self._closed = role, closed
        self.environment = {
            "HF_ENDPOINT": self.address,
            "HF_TOKEN": "hf_right",
            "HF_HOME": str(folder),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def headers(self, status: int) -> dict[str, str]:
        return {"X-Error-Code": "RepoNotFound"} if status == 404 else {}

    def answer(self, path: str, headers: Message, content: bytes) -> tuple[int, Any]:
        if headers.get("Authorization") != "Bearer hf_right":
            return 401, {"error": "Invalid credentials"}
        return self._of_its_owner(path.partition("?")[0], content)

    def _of_its_owner(self, path: str, content: bytes) -> tuple[int, Any]:
        if path == "/api/whoami-v2":
            token = {"displayName": "a token", "role": self._role}
            return 200, {"type": "user", "name": "somebody", "auth": {"accessToken": token}}
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
            self.files.setdefault(name, {})
            self.private[name] = asked.get("private", False) or asked.get("visibility") == "private"
            return 200, {"url": f"{self.address}/{name}"}
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
            page = f"{self.address}/{name}"
            return 200, {"commitUrl": f"{page}/commit/1", "commitOid": "1" * 40, "success": True}
        if path == f"/api/models/{name}" and name in self.files:
            return 200, {"id": name}
        return 404, {"error": f"nothing stands in for {path}"}
