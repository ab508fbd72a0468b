"""A judge at an endpoint: a local server that answers as one does, or in all the ways that go wrong."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loracle.config.metrics.settings import ScoringConfig
from loracle.errors import ConfigError
from loracle.training.judging.endpoint import EndpointJudge, JudgeError, make
from loracle.training.judging.judge import filled


class Server(ThreadingHTTPServer):
    """Says what `answer` makes of a question: a text, or a status and a body."""

    daemon_threads = True
    answer: Callable[[str], Any]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append(body)
        server.keys.append(self.headers.get("Authorization"))
        found = server.answer(body["messages"][0]["content"])
        status, content = found if isinstance(found, tuple) else (200, said(found))
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def said(text: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def judge_at(url: str, **changes: Any) -> EndpointJudge:
    judge = {"url": url, "model": "judge-1", "retries": 2, "timeout": 5, **changes}
    return make("judge", ScoringConfig.model_validate({"metric": "judge", "judge": judge}))


def items(n: int) -> list[dict[str, Any]]:
    return [{"index": i, "prompt": f"question {i} {{prediction}}", "reference": "r"} for i in range(n)]


def test_ratings_come_back_in_order_and_the_key_goes_into_the_header(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-1")
    server.answer = lambda question: f"2 of 10?\nRating: **{question.partition('Answer:')[2].split()[0]}**"
    judge = judge_at(server.url, key_variable="JUDGE_KEY")
    judge_check = [{**items(1)[0], "reference": "7"}]
    judge.check(judge_check)
    assert judge.rate(["3", "10", "1.5"], ["r"] * 3, items(3)) == [3, 10, 1.5]
    assert set(server.keys) == {"Bearer secret-1"}
    body = server.asked[1]
    assert body["model"] == "judge-1"
    assert body["temperature"] == 0
    question = server.asked[0]["messages"][0]["content"]
    assert "question 0 {prediction}" in question  # what is filled in is not filled again
    with pytest.raises(ConfigError, match="JUDGE_KEY_2 is not set in the environment"):
        judge_at(server.url, key_variable="JUDGE_KEY_2")


def test_what_passes_is_tried_again_and_what_does_not_is_told(server: Server) -> None:
    tries: list[int] = []

    def flaky(_: str) -> Any:
        tries.append(1)
        ways: list[Any] = [(429, b"slow down"), (503, b""), "Rating: 4"]
        return ways[(len(tries) - 1) % 3]

    server.answer = flaky
    assert judge_at(server.url).rate(["a"], ["r"], items(1)) == [4]
    for answer, reason in (
        ((401, b"secret"), "refused: HTTP 401"),
        ((500, b""), "did not answer in 3 tries: HTTP 500"),
        ((200, b"<html>"), "did not answer in 3 tries: not what an endpoint answers: '<html>'"),
        ((200, b"{}"), "not what an endpoint answers"),
    ):
        server.answer = lambda _, found=answer: found
        with pytest.raises(JudgeError, match=reason):
            judge_at(server.url).rate(["a"], ["r"], items(1))


def test_an_endpoint_that_is_not_there_or_says_nothing_is_one_line(server: Server) -> None:
    url = server.url
    server.answer = lambda _: (time.sleep(3), "Rating: 1")[1]
    with pytest.raises(JudgeError, match="did not answer in 1 tries: TimeoutError"):
        judge_at(url, timeout=0.3, retries=0).rate(["a"], ["r"], items(1))
    with pytest.raises(JudgeError, match=r"did not answer in 1 tries: URLError: .*refused"):
        judge_at("http://127.0.0.1:9/v1", retries=0).rate(["a"], ["r"], items(1))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"nonsense\r\n\r\n", "BadStatusLine: nonsense"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{", "IncompleteRead"),
    ],
)
def test_what_breaks_off_or_is_no_http_is_tried_again(answer: bytes, reason: str) -> None:
    class Broken(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            self.wfile.write(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        with pytest.raises(JudgeError, match=f"did not answer in 2 tries: {reason}"):
            judge_at(url, retries=1).rate(["a"], ["r"], items(1))
        server.shutdown()


def test_a_few_answers_without_a_rating_get_the_lowest_and_many_end_the_run(server: Server) -> None:
    server.answer = lambda question: "I cannot." if "Answer:\nbad" in question else "Rating: 9"
    found = judge_at(server.url).rate(["bad", *map(str, range(19))], ["r"] * 20, items(20))
    assert found == [1, *[9] * 19]
    for nonsense in ("I cannot.", "Rating: 900", "Rating: NaN", "", None, "Rating: -5"):
        server.answer = lambda _, found=nonsense: found
        with pytest.raises(JudgeError, match="gave no rating from 1 to 10 for 20 of 20 answers"):
            judge_at(server.url).rate(list(map(str, range(20))), ["r"] * 20, items(20))
        with pytest.raises(ConfigError, match="gave no rating, asked about a reference"):
            judge_at(server.url).check(items(1))


def test_a_run_is_judged_and_its_key_stands_nowhere(
    server: Server,
    run_config: Callable[..., Path],
    said: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-of-mine")
    server.answer = lambda question: f"Rating: {1 + len(question) % 9}"
    judge = {"url": server.url, "model": "m", "key_variable": "JUDGE_KEY"}
    config = run_config(
        scoring={"metric": "judge", "judge": judge, "max_new_tokens": 6}, search={"trials": 2, "seed": 3}
    )
    found = json.loads(said("tune", config, "--json"))
    winner = found["winner"]
    assert 1 <= winner["metrics"]["low"] <= winner["score"] <= winner["metrics"]["high"] <= 10
    kept = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in kept if b"secret-of-mine" in path.read_bytes()]


@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        ("null", "scoring: the metric judge needs scoring.judge with url and model of an endpoint"),
        ("{url: 'file:///etc/passwd', model: m}", "scoring.judge: url begins with http"),
        ("{url: 'http://h', model: m, prompt: rate}", "prompt: has no {prediction}"),
        ("{url: 'http://h', model: m, lowest: 5, highest: 5}", "lowest has to be below highest"),
        ("{url: 'http://h', model: m, pattern: '('}", "not a regular expression"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused(judge: str, reason: str) -> None:
    from loracle.config.loading import parse_config

    with pytest.raises(ConfigError) as caught:
        parse_config(f"model: m\ndata: {{train: t}}\nscoring: {{metric: judge, judge: {judge}}}\n")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_places_of_a_template_are_filled_once() -> None:
    assert filled("{a}{b} {c} {", {"a": "{b}", "b": "x"}) == "{b}x {c} {"
