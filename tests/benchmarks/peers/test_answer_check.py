from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from benchmarks.peers import answer_check, dialects
from benchmarks.peers.answer_check import Judge
from benchmarks.peers.dialects import Question
from benchmarks.peers.rows import chosen, items
from benchmarks.servers import free_ports

ROW = chosen(["echo-1"])[0]


class Echo(BaseHTTPRequestHandler):
    """Answers with the body; a path says how it fails."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # the name is http.server's
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/hangs-up":
            self.close_connection = True
            return
        self.send_response(503 if self.path == "/refuses" else 200)
        said = b"x" * len(body) if self.path == "/lies" else body
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with echo_server() as port:
        yield port


@contextmanager
def echo_server() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(path: str, count: int) -> list[tuple[Question, Judge]]:
    read = partial(dialects.read, "mosec", ROW)
    return [
        (Question(path, {}, item.question), answer_check.judge_of(read, item.answer))
        for item in items(ROW, count)
    ]


def test_right_answers_are_counted_on_all_connections(port: int) -> None:
    counted = answer_check.check(port, asked("/", 8), connections=4, seconds=0.0)
    assert (counted.answers, counted.wrong, counted.example) == (4, 0, "")


@pytest.mark.parametrize(
    ("path", "example"),
    [("/lies", "another answer"), ("/refuses", "status 503"), ("/hangs-up", "RemoteDisconnected")],
)
def test_wrong_answers_are_counted_and_shown(port: int, path: str, example: str) -> None:
    counted = answer_check.check(port, asked(path, 2), connections=2, seconds=0.0)
    assert (counted.answers, counted.wrong) == (2, 2)
    assert example in counted.example


def test_a_server_that_answers_nothing_but_errors_is_not_asked_for_ever(port: int) -> None:
    counted = answer_check.check(port, asked("/lies", 2), connections=1, seconds=1000.0)
    assert counted.wrong == answer_check.FAULTS_LIMIT


def test_a_server_that_is_not_there_is_said_to_be(port: int) -> None:
    (nobody,) = free_ports(1)
    assert "refused" in answer_check.ask_once(nobody, *asked("/", 1)[0])
    assert answer_check.ask_once(port, *asked("/", 1)[0]) == ""
