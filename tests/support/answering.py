"""A server on this machine that answers as a test says, and remembers what it was asked."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, TypedDict


class Answer(TypedDict, total=False):
    """What the server does with a request: breaks off, or answers."""

    broken: bool
    status: int
    headers: dict[str, str]
    body: Any


class Server:
    """Answers requests in turn, and the last answer stays; or as a function of method and path says."""

    def __init__(self, answers: Callable[[str, str], Answer] | None = None) -> None:
        self.answers: list[Answer] = []
        self.seen: list[tuple[str, str, bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.seen.append((self.command, self.path, body))
                answer = answers(self.command, self.path) if answers else outer._next()
                if answer.get("broken"):
                    self.connection.close()
                    return
                content = answer.get("body", {})
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(answer.get("status", 200))
                for name, value in {**answer.get("headers", {}), "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do  # noqa: N815 - the names that the library calls

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _next(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def serving(answers: Callable[[str, str], Answer] | None = None) -> Iterator[Server]:
    """Serve while the block runs."""
    made = Server(answers)
    thread = Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()
