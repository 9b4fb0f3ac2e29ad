"""An OpenAI-compatible endpoint on 127.0.0.1 for tests of the client side: real HTTP, answers given by a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], str | int]
"""From a request's body to the answer's text, or to an HTTP status that refuses it."""


@dataclass
class Endpoint:
    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, body: dict[str, Any]) -> None:
        with self._lock:
            self.requests.append(body)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)

    def leave(self) -> None:
        with self._lock:
            self._now -= 1


@contextmanager
def serve(answer: Answer) -> Iterator[Endpoint]:
    """Runs an endpoint for the duration of a `with` block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body["path"] = self.path
            endpoint.enter(body)
            try:
                found = answer(body)
            finally:
                endpoint.leave()
            status = found if isinstance(found, int) else 200
            data = json.dumps(_reply(self.path, found)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _reply(path: str, found: str | int) -> dict[str, Any]:
    if isinstance(found, int):
        return {"error": {"message": f"refused with {found}", "type": "test"}}
    message = {"message": {"role": "assistant", "content": found}} if "chat" in path else {"text": found}
    choice = {"index": 0, "finish_reason": "stop", **message}
    return {"id": "1", "object": "completion", "created": 0, "model": "tiny", "choices": [choice]}


def last_text(body: dict[str, Any]) -> str:
    """The text of a request's last message, or its raw prompt."""
    if "prompt" in body:
        return body["prompt"]
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
