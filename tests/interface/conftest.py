"""A server on this machine that says whatever a test wants it to."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Scripted:
    """A server, and what was posted to it.

    Attributes:
        url: Its address.
        posted: Path, headers (lower case) and body of each request, in order.
    """

    url: str
    posted: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


Say = Callable[[BaseHTTPRequestHandler, int], None]


def answer(content: bytes, status: int = 200, **headers: str) -> Say:
    """Say this, whatever is asked."""

    def say(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return say


@contextmanager
def listening(say: Say, tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers.get("Content-Length", 0))
            seen = {k.lower(): v for k, v in self.headers.items()}
            scripted.posted.append((self.path, seen, self.rfile.read(length)))
            say(self, len(scripted.posted))
            self.close_connection = True

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    scripted = Scripted(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/ask")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield scripted
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
