"""A server on this machine that stands in for one of the internet."""

import gzip
import json
import threading
from abc import ABC, abstractmethod
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class LocalServer(ABC):
    """Answers each request, of whatever method, with JSON. Use as a context manager."""

    def __init__(self) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @abstractmethod
    def answer(self, path: str, headers: Message, content: bytes) -> tuple[int, Any]:
        """The status and what is answered, of which JSON is made."""

    def headers(self, status: int) -> dict[str, str]:  # noqa: ARG002
        """Headers of an answer, besides those of JSON."""
        return {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    content = gzip.decompress(content)
                status, answer = outer.answer(self.path, self.headers, content)
                body = json.dumps(answer).encode()
                self.send_response(status)
                of_json = {"Content-Type": "application/json", "Content-Length": str(len(body))}
                for name, value in (of_json | outer.headers(status)).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler
