"""What trainers print: the result is the one that reading line by line finds, and no byte is lost untold."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from loracle.errors import ConfigError
from loracle.own_trainer import output as printed
from loracle.own_trainer.output import Output, always_there, printing_to
from loracle.text.patterns import Pattern

PATTERNS = [
    r"accuracy: (\S+)",
    r"acc",
    r"acc\w* (\d+)",
    r"a+c: ?(\d)",
    r"\d+\.\d+",
    r"^(\d+)$",
    r"^acc|loss (\d)$",
    r"(?:acc|loss) ([^ ]+)",
    r"(?P<name>[a-z]+)=(\d)",
    r"(?i)ACC (\d)",
    r"[^a]*c(\s)",
    r"\bloss\b\W*(\d)",
    r"\Aacc (\d)\Z",
    r"acc(?! 1) (\d)",
    r"(?<=loss )\d",
    r"acc\{(\d)\}",
    r"l{0,2}os{2} (\d)",
    r"x*",
    r"\x61cc (\d)",
    r"acc\. (.*)",
    r"é (\d)",
]
PARTS = [
    "acc",
    "accuracy: ",
    "loss ",
    "aac: ",
    "a=",
    "1",
    "2.5",
    " ",
    ".",
    "{3}",
    "é ",
    "x",
    "ACC ",
    "c",
    "\t",
    "\x1b[0m",
]
LINES = st.lists(st.sampled_from(PARTS), max_size=5).map("".join)


def found_line_by_line(text: str, pattern: str) -> str | None:
    found = None
    *lines, begun = re.split(r"[\r\n]", text)
    for line in [*lines, *([begun] if begun else [])]:  # behind the last end no line has begun
        if match := re.search(pattern, line):
            value = match.group(1) if match.re.groups else match.group()
            found = found if value is None else value  # a branch without the group finds nothing
    return found


def feed(path: Path, content: bytes, pattern: str | None, sizes: list[int]) -> Output:
    """Feeds pieces of these sizes, again and again."""
    path.unlink(missing_ok=True)
    with Output(path, None if pattern is None else Pattern(pattern, "regex"), None) as output:
        at = i = 0
        while at < len(content):
            size = sizes[i % len(sizes)]
            output.feed(content[at : at + size])
            at, i = at + size, i + 1
    return output


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(LINES, max_size=30),
    st.sampled_from(["\n", "\r", "\r\n", "\n\n"]),
    st.sampled_from(PATTERNS),
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.booleans(),
)
@example(["acc 5", *["x"] * 20], "\n", r"acc (\d)", [1000], True)
@example(["x"], "\n", "x*", [1], True)  # matches what is empty, too
@example([*[""] * 7, "acc", "loss 1"], "\n", r"^acc|loss (\d)$", [1], True)  # the first match has no group
@example(["loss 1", "acc"], "\n", r"^acc|loss (\d)$", [1], True)
def test_the_result_is_that_of_the_last_line_that_matches(
    tmp_path: Path, lines: list[str], end: str, pattern: str, sizes: list[int], ended: bool
) -> None:
    text = end.join(lines) + (end if ended else "")
    content = text.encode()
    for pieces in (sizes, [len(content) + 1]):
        output = feed(tmp_path / "log.txt", content, pattern, pieces)
        if text:
            assert output.found == found_line_by_line(text, pattern)
        assert (tmp_path / "log.txt").read_bytes() == content
        assert output.tail == text.replace("\r", "\n")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3000), st.lists(st.integers(1, 400), min_size=1, max_size=5), st.booleans())
def test_every_byte_is_in_the_log_or_counted(tmp_path: Path, n: int, sizes: list[int], lines: bool) -> None:
    path = tmp_path / "log.txt"
    content = b"".join(b"%06d%s" % (i, b"\n" if lines else b" ") for i in range(n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(printed, "LOG_PART", 1000)
        feed(path, content, None, sizes)
    log = path.read_bytes()
    notice = re.search(rb"\n\.\.\. ([\d,]+) bytes are left out here \.\.\.\n", log)
    if notice is None:
        assert log == content
        return
    head, tail = log[: notice.start()], log[notice.end() :]
    assert len(head) == 1000
    assert 1000 <= len(tail) <= 3000
    left_out = int(notice[1].replace(b",", b""))
    assert head + content[1000 : 1000 + left_out] + tail == content
    assert log.count(b"left out here") == 1


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"accuracy: (\S+)", "accuracy: "),
        (r"'eval_loss': '?([^',}]+)", "'eval_loss': "),
        (r"ab+c*de?f{2}", "ab"),
        (r"(acc|loss) \d+ %", " %"),
        (r"a|b", ""),
        (r"(a|b) x", " x"),
        (r"(?i)loss", ""),
        (r"acc(?=x)", ""),
        (r"\x61bc", ""),
        (r"loss\.x\d", "loss.x"),
        (r"[abc]def\]", "def]"),
        (r"a\{2\}", "a{2}"),
        (r"x{,3}y", "y"),
        (r"(?:x)y", "y"),
        (r"(a)\1bc", ""),
        (r"[]x]y[^]]z", "y"),
    ],
)
def test_what_every_match_holds(pattern: str, text: str) -> None:
    assert always_there(pattern) == text.encode()


def test_lines_longer_than_any_memory_are_searched_in_pieces(tmp_path: Path) -> None:
    content = b"x" * 10_000_000 + b" accuracy: 0.5 " + b"y" * 300_000 + b"\nno\n"
    tracemalloc.start()
    try:
        output = feed(tmp_path / "log.txt", content, r"accuracy: (\S+)", [65_536])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert output.found == "0.5"
    assert held < 1_000_000
    assert (tmp_path / "log.txt").stat().st_size < 3_100_000


def test_a_pattern_that_takes_for_ever_on_a_line_is_an_error(tmp_path: Path) -> None:
    pattern = Pattern(r"(a|aa)+$", "objective.result.regex", seconds=0.2)
    with (
        Output(tmp_path / "log.txt", pattern, None) as output,
        pytest.raises(ConfigError, match="took more than"),
    ):
        output.feed(b"a" * 60 + b"!\n")


def test_bars_and_losses_are_progress_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printed, "SECONDS_BETWEEN_SIGNS", 0.0)
    told: list[tuple[int, int, float | None]] = []
    with Output(tmp_path / "log.txt", None, lambda *step: told.append(step)) as output:
        output.feed(b"Epoch 1/3: 5/100 loss 2.5\n")
        output.feed(b"nothing\n")
        output.feed(b"\r 7/100 loss=1.")  # not whole
        output.feed(b"25\r")
        output.feed(b"x\n" * 100_000 + b"8/100\n")
    assert told == [(1, 3, 2.5), (1, 3, 2.5), (1, 3, 2.5), (7, 100, 1.25), (8, 100, 1.25)]


def test_the_log_of_an_attempt_before_is_kept(tmp_path: Path) -> None:
    for text in (b"first\n", b"second\n", b"third\n"):
        with Output(tmp_path / "log.txt", None, None) as output:
            output.feed(text)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"log.txt": "third\n", "log-1.txt": "first\n", "log-2.txt": "second\n"}


# -- of Python code ---------------------------------------------------------------------------------


def test_python_prints_in_all_its_ways(tmp_path: Path) -> None:
    with Output(tmp_path / "log.txt", None, None) as output, printing_to(output):
        print("print", flush=True)
        sys.stdout.buffer.write(b"bytes \xff\n")
        sys.stderr.write("half \ud800 a character\n")
        sys.stdout.writelines(["two\n", "lines\n"])
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        assert sys.stdout.encoding == "utf-8"
        assert not sys.stdout.isatty()
        with pytest.raises(TypeError, match="must be str, not int"):
            sys.stdout.write(5)  # type: ignore[arg-type]
        sys.stdout.close()
        print("still there")
    log = (tmp_path / "log.txt").read_bytes()
    assert log == b"print\nbytes \xff\nhalf ? a character\ntwo\nlines\nstill there\n"


def test_programs_can_be_started_with_the_stream(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys; from pathlib import Path\n"
        "from loracle.own_trainer.output import Output, printing_to\n"
        "with Output(Path(sys.argv[1]), None, None) as output, printing_to(output):\n"
        "    subprocess.run(['echo', 'from below'], stdout=sys.stdout, check=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "log.txt"], capture_output=True, check=True
    )
    assert done.stdout == b"from below\n"


def test_who_keeps_the_stream_writes_into_the_trial_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[Any] = []
    logger = logging.getLogger("of_a_trial")
    for number in range(2):
        with Output(tmp_path / f"{number}.txt", None, None) as output, printing_to(output):
            if not kept:  # as in code that is run on import, or in the first call
                kept.append(logging.StreamHandler(sys.stdout))
                logger.addHandler(kept[0])
            logger.warning("trial %s", number)
    logger.warning("between trials")
    logger.removeHandler(kept[0])
    assert [(tmp_path / f"{number}.txt").read_text() for number in range(2)] == ["trial 0\n", "trial 1\n"]
    assert capsys.readouterr().out == "between trials\n"


def test_threads_that_print_together_lose_nothing(tmp_path: Path) -> None:
    def work(name: str) -> None:
        for i in range(500):
            sys.stdout.write(f"{name}{i}\n")

    with Output(tmp_path / "log.txt", None, lambda *_: None) as output, printing_to(output):
        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert sorted(lines) == sorted(f"{name}{i}" for name in "abc" for i in range(500))
    output.feed(b"a thread that outlives its trial")
    assert isinstance(sys.stdout, io.TextIOBase)


def test_progress_that_prints_does_not_print_into_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printed, "SECONDS_BETWEEN_SIGNS", 0.0)
    with (
        Output(tmp_path / "log.txt", None, lambda *step: print("told", step)) as output,
        printing_to(output),
    ):
        print("1/2", flush=True)
    assert (tmp_path / "log.txt").read_text() == "1/2\n"
    assert "told (1, 2, None)\n" in capsys.readouterr().out
