"""A loopback endpoint that speaks chat completions and says what a test wants."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint:
    """Speaks /v1/chat/completions; `says` makes status and reply from a request's number and body."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.says: Callable[[int, dict[str, Any]], tuple[int, Any]] = lambda number, body: (200, "4")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body | {"path": self.path})
                outer.keys.append(self.headers.get("Authorization"))
                status, said = outer.says(len(outer.bodies), body)
                if status == 200 and not isinstance(said, dict | bytes):
                    said = {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
