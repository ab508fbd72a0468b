"""`loracle data`: what a user sees of the rows before anything costs money."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Loracle, copy_rows
from rich.console import Console
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, GPT2Tokenizer

from loracle.commands.data import show_view
from loracle.config.loading import load_config
from loracle.config.settings import RunConfig
from loracle.run.data.view import view_data
from loracle.training.dataset.tokenizer import load_reading
from loracle.training.model.base_model import load_base
from loracle.training.objective import TrainingObjective

Write = Callable[..., Path]


def test_rows_are_shown_with_the_tokens_that_carry_loss(loracle: Loracle, run_config: Write) -> None:
    code, out, _ = loracle("data", run_config(), "--rows", 1)
    assert code == 0
    assert "tokens that carry loss are between [[ and ]]" in out
    first = json.loads((run_config().parent / "train.jsonl").read_text().splitlines()[1])
    lines = out.splitlines()
    assert any(line.endswith("[[" + line.split("[[")[-1]) and "<eos>]]" in line for line in lines)
    assert f"{first['prompt']}[[{first['completion']}<eos>]]" in loracle("data", run_config(), "--rows", 9)[1]
    assert "rows: 60 of prompt/completion; at most 32 tokens" in lines
    assert "validation shows differences between two settings from " in out


def test_it_says_what_tune_will_say(loracle: Loracle, run_config: Write) -> None:
    path = run_config(data={"max_length": 13, "validation_limit": 4})
    rows = [*copy_rows(60), *copy_rows(60)[:5], {"prompt": "copy:abcdabcd=", "completion": "abcd"}]
    (path.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = loracle("data", path, "--json")
    assert code == 0
    view, objective = json.loads(out), TrainingObjective.from_config(load_config(path))
    said = [notice.text for notice in objective.notices if notice.about == "data"]
    assert [notice["text"] for notice in view["notices"]] == said
    assert {name: part["rows"] - part["used"] for name, part in view["parts"].items()} == objective.dropped
    sizes = objective.sizes
    assert [part["used"] for part in view["parts"].values()] == [sizes.train, sizes.validation, sizes.test]


def test_rows_of_guards_are_shown_and_checked(loracle: Loracle, run_config: Write, tmp_path: Path) -> None:
    known = [*copy_rows(40, seed=9), *copy_rows(40, seed=9)[:3], *copy_rows(60)[:6]]
    (tmp_path / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
    (tmp_path / "held.txt").write_text("".join(f"abcd dcba {i}\n\n" for i in range(60)))
    marked = [f'"{row["prompt"]}" so\t{row["completion"]}\n' for row in copy_rows(9, seed=5)]
    (tmp_path / "marks.tsv").write_text("".join(["prompt\tcompletion\n", *marked]))
    guard = {"known": {"data": "known.jsonl"}, "text": "held.txt", "marks": {"data": "marks.tsv"}}
    path = run_config(guard=guard)
    code, out, _ = loracle("data", path, "--rows", 1)
    assert code == 0
    assert "guard known: 49 of prompt/completion" in out
    assert f"{known[0]['prompt']}[[{known[0]['completion']}<eos>]]" in out
    assert "guard text: " in out
    assert "what is trained on shows nothing of what is lost" in " ".join(out.split())
    view = json.loads(loracle("data", path, "--json")[1])
    found = {notice["name"]: notice for notice in view["notices"]}
    train = {json.dumps(row) for row in map(json.loads, (tmp_path / "train.jsonl").read_text().splitlines())}
    assert 1 <= found["guard_rows_trained_on"]["count"] <= sum(json.dumps(row) in train for row in known)
    assert found["guard_rows_repeated"]["count"] >= 3
    assert view["parts"]["guard known"]["rows"] == 49
    assert view["parts"]["guard marks"]["rows"] == found["quotation_marks"]["count"] == 9
    assert found["quotation_marks"]["text"].startswith("guard marks: marks.tsv: quotation marks that begin")
    said = [n.text for n in TrainingObjective.from_config(load_config(path)).notices if n.about == "data"]
    assert [notice["text"] for notice in view["notices"]] == said
    gone = run_config(guard={"known": {"data": "gone.jsonl"}})
    assert loracle("data", gone)[0] == 2
    assert "guard.known: " in json.loads(loracle("data", gone, "--json")[1])["refused"]


def test_the_tokenizer_alone_says_what_the_model_says(tiny_model: Path, run_config: Write) -> None:
    config = load_config(run_config())
    reading, base = load_reading(config), load_base(config)
    assert reading.stop_ids == base.stop_ids
    assert reading.max_positions == base.max_positions


def test_a_tokenizer_keeps_no_second_vocabulary(tiny_model: Path, tmp_path: Path, run_config: Write) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    text = "Which LoRA rank, and which learning rate?"
    words = {"<eos>": 0} | {letter: n for n, letter in enumerate(ByteLevel.alphabet(), 1)} | {"ra": 257}
    made = GPT2Tokenizer(vocab=words, merges=[("r", "a")], eos_token="<eos>", unk_token="<eos>")
    made.save_pretrained(base)
    whole = AutoTokenizer.from_pretrained(base)
    tokenizer = load_reading(load_config(run_config(model=str(base)))).tokenizer
    assert type(tokenizer) is type(whole) is GPT2Tokenizer
    held = [name for name, one in vars(tokenizer).items() if isinstance(one, dict | list) and len(one) > 200]
    assert held == []
    assert tokenizer(text)["input_ids"] == whole(text)["input_ids"]
    assert 257 in tokenizer(text)["input_ids"]
    for name, one in {"ours": tokenizer, "whole": whole}.items():
        one.save_pretrained(tmp_path / name)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "ours" / file.name).read_bytes() == file.read_bytes()


def test_a_run_that_would_not_begin_is_shown_all_the_same(loracle: Loracle, run_config: Write) -> None:
    code, out, errors = loracle("data", run_config(data={"max_length": 3}))
    assert code == 2
    assert "bad  a run would not begin: " in out
    assert "examples have more than 3 tokens" in out
    assert "[[" in out
    assert not errors


@pytest.mark.parametrize(
    "changes",
    [
        {"space": {"learning_rate": [-1e-4, 1e-4]}},
        {"space": {"momentum": [0.5, 0.9]}},
        {"space": {"rank": [4, 8], "epochs": [-1, 2]}},
        {"space": {"batch_size": [256]}},
        {"scoring": {"metric": "exact_match", "max_new_tokens": 128}},
        {"scoring": {"metric": "exact_match", "max_new_tokens": 1}},
        {"data": {"validation_limit": 1}},
        {"search": {"seed_configs": [{"rank": 3.5, "momentum": 1}]}},
    ],
)
def test_it_refuses_what_doctor_refuses_and_shows_the_rows(
    changes: dict[str, Any], loracle: Loracle, run_config: Write
) -> None:
    path = run_config(**changes)
    if "space" in changes:  # the whole of it
        content = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(content | changes))
    code, out, _ = loracle("doctor", path)
    assert code == 2
    (said,) = [line for line in _whole(out).split("bad ") if line.startswith("input")]
    code, out, errors = loracle("data", path)
    assert code == 2
    assert "[[" in out
    assert "a run would not begin: " + said.removeprefix("input ").strip() in _whole(out)
    assert not errors


def _whole(text: str) -> str:
    return " ".join(text.split())


def test_of_no_training_row_it_is_not_said_that_they_are_few(loracle: Loracle, run_config: Write) -> None:
    code, out, _ = loracle("data", run_config(data={"max_length": 3}))
    assert code == 2
    assert "rows are few" not in out


def test_a_run_that_begins_is_not_said_to_stop(loracle: Loracle, run_config: Write, tmp_path: Path) -> None:
    """Programs of training rows need no tests."""
    rows = [{"prompt": f"add {n}: ", "completion": f"def f(x): return x + {n}"} for n in range(20)]
    for name, some in (("kept.jsonl", rows[:10]), ("other.jsonl", rows[10:15]), ("last.jsonl", rows[15:])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    tests = [
        {"prompt": row["prompt"], "tests": f"assert f(0) == {10 + n}"} for n, row in enumerate(rows[10:])
    ]
    (tmp_path / "tests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tests))
    config = run_config(
        data={"train": "kept.jsonl", "validation": "other.jsonl", "test": "last.jsonl", "max_length": 128},
        scoring={"metric": "pass_at_1", "allow_code_execution": True, "code": {"tests": "tests.jsonl"}},
    )
    code, out, _ = loracle("data", config)
    assert code == 0, out
    (tmp_path / "fewer.jsonl").write_text(json.dumps(tests[0]) + "\n")
    config.write_text(config.read_text().replace("tests.jsonl", "fewer.jsonl"))
    code, out, _ = loracle("data", config)
    assert code == 2
    assert "has no row whose prompt is 'add 11: '" in out


class Marked(HTMLParser):
    """The text of a page, and what of it is marked."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.marked: list[str] = []
        self.outside: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside |= {f"{name}={value}" for name, value in attrs if name in ("src", "href")}
        if tag not in ("meta", "br"):
            self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "mark":
            self.marked.append(data)


def test_the_page_is_whole_and_loads_nothing(loracle: Loracle, run_config: Write) -> None:
    path = run_config()
    rows = [{"prompt": f"<b>{i}&", "completion": f"</pre><script>{i}\n+"} for i in range(40)]
    (path.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = path.parent / "data.html"
    code, out, _ = loracle("data", path, "--html", page)
    assert code == 0
    assert f"page: {page}" in out
    assert "[[" not in out
    found = Marked()
    found.feed(page.read_text(encoding="utf-8"))
    assert not found.tags
    assert not found.outside
    assert "</pre><script>1\n+<eos>" in found.marked
    assert "prefers-color-scheme: dark" in page.read_text()
    code, _, errors = loracle("data", path, "--html", path.parent / "none" / "data.html")
    assert (code, errors.count("\n")) == (2, 1)
    assert "--html: " in errors


def test_labels_are_counted_and_uneven_ones_told(loracle: Loracle, run_config: Write) -> None:
    path = run_config()
    rows = [{"text": f"row {i}", "label": i % 20 == 0} for i in range(100)]
    (path.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    view = json.loads(loracle("data", path, "--json")[1])
    assert view["shapes"] == {"text/label": 100}
    counts = view["labels"].values()
    assert sum(own.get("true", 0) for own in counts) == 5
    assert sum(own.get("false", 0) for own in counts) == 95
    assert "labels_uneven" in [notice["name"] for notice in view["notices"]]
    out = loracle("data", path)[1]
    assert any(line.split()[:1] == ["false"] and "%)" in line for line in out.splitlines())


def test_labels_that_differ_in_capitals_or_space_alone_are_told(loracle: Loracle, run_config: Write) -> None:
    path = run_config()
    labels = ["pos", "Pos", "pos ", "neg"]
    rows = [{"text": f"row {i}", "label": labels[i % 4]} for i in range(100)]
    (path.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    view = json.loads(loracle("data", path, "--json")[1])
    (told,) = [notice for notice in view["notices"] if notice["name"] == "labels_alike"]
    assert "alone: 'pos' (25 rows), 'Pos' (25 rows) and 'pos ' (25 rows); each is learnt" in told["text"]
    assert told["count"] == 50
    counts = view["labels"].values()
    assert {label: sum(own.get(label, 0) for own in counts) for label in labels} == {
        "pos": 50,  # as metrics see them
        "Pos": 25,
        "pos ": 0,
        "neg": 25,
    }


@pytest.mark.parametrize("width", [80, 140])
def test_lines_fit_the_terminal(width: int, run_config: Write) -> None:
    config: RunConfig = load_config(run_config())
    file = io.StringIO()
    terminal = Console(file=file, width=width, force_terminal=True, color_system=None, markup=False)
    show_view(terminal, view_data(config, 2), with_rows=True)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width or any(str(config.data.train) in line for line in lines)
    assert all(len(line) <= width for line in lines if str(config.data.train) not in line)


def test_a_long_row_is_shown_by_its_ends(loracle: Loracle, run_config: Write) -> None:
    path = run_config(data={"max_length": 2000})
    rows: list[dict[str, Any]] = [{"prompt": f"{i}" + "a" * 900, "completion": "b"} for i in range(40)]
    (path.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = loracle("data", path, "--rows", 1)
    assert code == 2  # the model reads 128 tokens
    assert "more tokens ...]" in out


def test_a_trainer_of_ones_own_has_its_own_data(loracle: Loracle, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("objective: {function: 'a.py:run', direction: maximize}\n")
    code, _, errors = loracle("data", path)
    assert code == 2
    assert "the trainer of this run is your own" in errors
