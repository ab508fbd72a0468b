from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Loracle, copy_rows
from small_tokenizers import CHARACTERS, CHATML, byte_level

from loracle.config.loading import load_config
from loracle.config.metrics import metric_of
from loracle.config.settings import DataConfig, RunConfig
from loracle.errors import DataError
from loracle.records.notices import Notice
from loracle.run.tune import tune
from loracle.training.dataset.notices import about_references, about_sizes, about_tokens
from loracle.training.dataset.shapes import as_example
from loracle.training.dataset.splits import load_splits, overlap
from loracle.training.dataset.tokens import encode
from loracle.training.objective import TrainingObjective

Write = Callable[[str, list[dict[str, Any]]], Path]
Count = tuple[int | None, str]


def by_name(notices: tuple[Notice, ...]) -> dict[str, Notice]:
    assert all(notice.about == "data" and "\n" not in notice.text for notice in notices)
    assert len({notice.name for notice in notices}) == len(notices)
    return {notice.name: notice for notice in notices}


@pytest.fixture
def objective(tiny_model: Path, write_rows: Write) -> Callable[..., TrainingObjective]:
    """An objective on rows, told how to read and score them."""

    def make(rows: list[dict[str, Any]], **changes: Any) -> TrainingObjective:
        data = {"train": write_rows("t.jsonl", rows)} | changes.pop("data", {})
        content = {
            "model": str(tiny_model),
            "data": data,
            "device": "cpu",
            "search": {"trials": 9},
            **changes,
        }
        return TrainingObjective.from_config(RunConfig.model_validate(content))

    return make


# -- what is left out -------------------------------------------------------------------------------


def test_rows_left_out_for_their_length_are_told_by_split(
    objective: Callable[..., TrainingObjective], write_rows: Write
) -> None:
    def rows(letter: str, short: int, long: int) -> list[dict[str, str]]:
        lengths = [10 + i for i in range(short)] + [70 + i for i in range(long)]
        return [{"prompt": letter * length, "completion": "b"} for length in lengths]

    files = {
        "validation": write_rows("v.jsonl", rows("v", 12, 5)),
        "test": write_rows("s.jsonl", rows("s", 9, 0)),
    }
    made = objective(rows("t", 30, 8), data=files | {"max_length": 60})
    found = by_name(made.notices)["rows_too_long"]
    assert found.count == 13
    assert found.text == (
        "8 of 38 train, 5 of 17 validation and 0 of 9 test rows have more than 60 tokens and are left out; "
        "raise data.max_length, or shorten them"
    )
    assert (made.n_train, made.dropped) == (30, {"train": 8, "validation": 5, "test": 0})


def test_where_the_model_reads_no_more_a_longer_limit_is_no_remedy(
    objective: Callable[..., TrainingObjective],
) -> None:
    rows = [{"prompt": c * length, "completion": "b"} for c in CHARACTERS[:40] for length in (9, 9)][::2]
    rows[0]["prompt"] = "a" * 200  # the tiny model reads 128 tokens
    found = by_name(objective(rows, data={"max_length": 512}).notices)["rows_too_long"]
    assert found.count == 1
    assert "rows have more than 128 tokens" in found.text
    assert "choose a model that reads more" in found.text


def test_validation_rows_beyond_the_limit_are_told(objective: Callable[..., TrainingObjective]) -> None:
    data = {"validation_fraction": 0.3, "validation_limit": 5}
    found = by_name(objective(copy_rows(60), data=data).notices)["validation_limited"]
    assert found.count == 13
    assert found.text == "trials are scored on 5 of 18 validation rows (data.validation_limit)"


def test_a_split_of_which_one_row_is_short_enough_is_refused(
    objective: Callable[..., TrainingObjective], write_rows: Write
) -> None:
    validation = write_rows("v.jsonl", [{"prompt": "v" * n, "completion": "b"} for n in (5, 90)])
    with pytest.raises(DataError, match=r"validation split has one example: 1 of 2 have more than 60 tokens"):
        objective(copy_rows(60), data={"validation": validation, "max_length": 60})


def test_fields_that_are_not_read_are_told(write_rows: Write) -> None:
    rows = [
        {**row, "id": i, "\u202esource": "web", **({"lang": "de"} if i < 3 else {})}
        for i, row in enumerate(copy_rows(40))
    ]
    rows[0] |= {"note": None, "tags": []}  # nothing to read
    found = by_name(load_splits(DataConfig(train=write_rows("t.jsonl", rows)), 0).notices)
    assert found["fields_not_read"].count == 40
    assert found["fields_not_read"].text == (
        "fields that are not read: id (40 rows), \\u202esource (40 rows) and lang (3 rows)"
    )


def test_fields_and_turns_that_a_chat_template_leaves_out_are_told(tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "a", "name": "eve"}, {"role": "assistant", "content": "b"}]
    parts = {"train": [as_example({"messages": chat}, "a:1")] * 3, "test": []}
    remarks = {"train": encode(parts["train"], tokenizer, 50).remarks}
    (found,) = about_tokens(remarks, parts)
    assert (found.name, found.count) == ("turn_fields_not_read", 3)
    assert found.text == "fields of turns that the chat template leaves out: name (3 turns)"


def test_turns_that_are_not_learnt_are_told(base: Any, objective: Callable[..., TrainingObjective]) -> None:
    template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}"
        "{% else %}<assistant>{% if loop.last %}?{% endif %}{{ m['content'] }}<eos>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    roles = ("user", "assistant", "user", "assistant")
    rows = [{"messages": [{"role": role, "content": c * 3} for role in roles]} for c in CHARACTERS[:20]]
    plain = objective(rows)
    assert "turns_not_learnt" not in by_name(plain.notices)
    plain.base.tokenizer.chat_template = template
    found = by_name(TrainingObjective(plain.config, plain.splits, plain.base).notices)["turns_not_learnt"]
    assert found.count == 20
    assert found.text.startswith(
        "20 turns of the assistant in 16 of 16 train, 2 of 2 validation and 2 of 2 test rows are read and not"
    )


def test_references_that_go_on_behind_a_stop_token_are_told(
    objective: Callable[..., TrainingObjective],
) -> None:
    rows = [{"prompt": f"{c}=", "completion": f"{c}<eos>more"} for c in CHARACTERS[:40]]
    scoring = {"metric": "exact_match", "max_new_tokens": 8}
    found = by_name(objective(rows, scoring=scoring).notices)["references_go_on"]
    assert found.count == 8
    assert found.text.startswith("4 of 4 validation and 4 of 4 test references go on behind a stop token")
    assert "references_go_on" not in by_name(objective(rows, scoring={"metric": "loss"}).notices)
    assert not list(about_references({"test": 0}, {"test": []}))


def test_characters_that_the_tokenizer_does_not_know_are_told(
    objective: Callable[..., TrainingObjective],
) -> None:
    rows = copy_rows(60)
    for row in rows[:7]:
        row["prompt"] += "\u00e9"
    assert by_name(objective(rows).notices)["characters_unknown"].count == 7


def test_dates_that_a_chat_template_writes_are_told() -> None:
    """Those of Llama 3.2 and Mistral do: what a run trains on would change at midnight."""
    dated = copy.deepcopy(byte_level())
    day = "{{ date_string or strftime_now('%d %b %Y') }}"
    dated.chat_template = f"<|im_start|>{day}\n{CHATML}"
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    fixed = {"messages": chat, "chat_template_kwargs": {"date_string": "26 Jul 2024"}}
    parts = {"train": [as_example(row, "a:1") for row in ({"messages": chat}, fixed)]}
    (found,) = about_tokens({"train": encode(parts["train"], dated, 100).remarks}, parts)
    assert (found.name, found.count) == ("prompts_dated", 1)
    assert "writes the date of today into 1 of 2 train rows" in found.text


def test_a_run_tells_of_its_data_where_the_user_looks(run_config: Callable[..., Path]) -> None:
    path = run_config(search={"trials": 1})
    rows = [*copy_rows(60), *({"prompt": f"{i} " + "a" * 30, "completion": "b"} for i in range(9))]
    (path.parent / "train.jsonl").write_text("".join(json.dumps(row | {"id": 1}) + "\n" for row in rows))
    events: list[Any] = []
    result = tune(load_config(path), events.append)
    told = {notice.name: notice.count for notice in result.notices}
    assert (told["rows_too_long"], told["fields_not_read"]) == (9, 69)
    report = (path.parent / "run" / "report.md").read_text()
    assert "rows have more than 32 tokens and are left out" in report
    assert "fields that are not read: id" in report


# -- what is shared ---------------------------------------------------------------------------------


def test_rows_shared_with_train_are_told_with_counts(write_rows: Write) -> None:
    rows = copy_rows(60, 5)
    config = DataConfig(
        train=write_rows("t.jsonl", rows),
        validation=write_rows("v.jsonl", rows[10:30]),
        test=write_rows("s.jsonl", [{"prompt": f"new{i}", "completion": "x"} for i in range(20)]),
    )
    found = by_name(load_splits(config, 0).notices)
    assert found["rows_shared"].count == 20
    assert found["rows_shared"].text.startswith(
        "validation shares rows with train: 20 of its 20 stand in both;"
    )
    assert "prompts_shared" not in found


def test_the_verdict_tells_of_test_rows_that_were_trained_on(
    run_config: Callable[..., Path], write_rows: Write, loracle: Loracle
) -> None:
    rows = copy_rows(60, 5)
    own = [{"prompt": f"s{i}", "completion": "x"} for i in range(5)]
    asked = [rows[7] | {"completion": "z"}, rows[8] | {"completion": "z"}]
    chosen = {"prompt": "v1", "completion": "z"}
    long = {"prompt": "l" * 40, "completion": "x"}  # left out of both, so it is neither trained on nor scored
    write_rows("test.jsonl", [*rows[:4], *asked, chosen, *own, long])
    write_rows("validation.jsonl", [{"prompt": f"v{i}", "completion": "x"} for i in range(6)])
    path = run_config(search={"trials": 1}, data={"test": "test.jsonl", "validation": "validation.jsonl"})
    write_rows("train.jsonl", [*rows, long])
    told = (
        "Of the 12 test items, 4 were also trained on, 2 ask what a training row asks, 1 is in validation, "
        "whole or by prompt, where the settings were chosen"
    )
    code, out, _ = loracle("tune", path, "--json")
    assert code == 0
    assert told in json.loads(out)["verdict"]
    assert json.loads(out)["difference"]["items_trained_on"] == 6
    assert told in (path.parent / "run" / "report.md").read_text()
    assert told in (path.parent / "run" / "best" / "README.md").read_text()
    assert told in " ".join(loracle("tune", path)[1].split())


def test_prompts_shared_are_told_apart_from_rows(write_rows: Write) -> None:
    rows = copy_rows(60, 5)
    others = [{**row, "completion": "another"} for row in rows[:6]]
    new = [{"prompt": f"new{i}", "completion": "x"} for i in range(10)]
    config = DataConfig(
        train=write_rows("t.jsonl", rows),
        validation=write_rows("v.jsonl", [*rows[6:10], *others, *new]),
        test=write_rows("s.jsonl", [*new[:3], *({"prompt": f"s{i}", "completion": "x"} for i in range(5))]),
    )
    notices = load_splits(config, 0).notices
    counts = [(notice.name, notice.count, notice.text.partition(" shares ")[0]) for notice in notices]
    assert counts == [
        ("rows_shared", 4, "validation"),
        ("prompts_shared", 6, "validation"),
        ("rows_shared", 3, "test"),
    ]
    assert "6 more of its 20 rows ask what a row of train asks" in notices[1].text
    assert notices[2].text.startswith("test shares rows with validation: 3 of its 8")


def test_chats_share_a_prompt_where_all_before_the_answer_is_equal(write_rows: Write) -> None:
    def chat(question: str, answer: str, **extra: Any) -> dict[str, Any]:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"messages": turns, **extra}

    tools = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    config = DataConfig(
        train=write_rows("t.jsonl", [chat(f"q{i}", "a") for i in range(20)]),
        validation=write_rows("v.jsonl", [chat("q0", "other"), chat("q1 ", "a"), chat("q2", "a", **tools)]),
        test=write_rows("s.jsonl", [chat("z", "a"), chat("y", "a")]),
    )
    (found,) = load_splits(config, 0).notices
    assert (found.name, found.count) == ("prompts_shared", 1)


def test_a_test_chat_that_begins_a_training_chat_asks_what_is_learnt_there(write_rows: Write) -> None:
    def chat(*says: str, **last: Any) -> dict[str, Any]:
        roles = ["user", "assistant"] * (len(says) // 2)
        turns = [{"role": role, "content": text} for role, text in zip(roles, says, strict=True)]
        return {"messages": turns, **last}

    long = [chat(f"q{i}", f"a{i}", f"more{i}", f"b{i}") for i in range(12)]
    long[3]["messages"][1]["weight"] = 0  # read there, and not learnt
    begun = [
        chat(f"q{i}", f"a{i}") for i in range(5)
    ]  # the beginnings of five of them, one of which is not learnt
    other = [chat("q7", "a7", "another question", "x"), chat("new", "x")]
    config = DataConfig(
        train=write_rows("t.jsonl", long),
        validation=write_rows("v.jsonl", [chat(f"v{i}", "x") for i in range(4)]),
        test=write_rows("s.jsonl", [*begun, *other]),
    )
    splits = load_splits(config, 0)
    assert [(found.name, found.count) for found in splits.notices] == [("prompts_shared", 4)]
    found = overlap(splits.train, splits.validation, splits.test)
    assert (found.items, found.rows, found.prompts, found.chosen) == (7, 0, 4, 0)
    last = config.model_copy(update={"loss_on": "completion"})
    assert load_splits(last, 0).notices == ()  # the last turn alone is learnt there


def test_prompts_that_are_alike_but_for_capitals_spaces_and_marks_are_counted(write_rows: Write) -> None:
    def rows(*prompts: str) -> list[dict[str, str]]:
        return [{"prompt": prompt, "completion": str(i)} for i, prompt in enumerate(prompts)]

    config = DataConfig(
        train=write_rows(
            "t.jsonl", rows("What is 2-1?", "Say “hello”, now.", "a.b", "It is 3.5", "same", "A b")
        ),
        validation=write_rows(
            "v.jsonl",
            rows("what is  2-1", "SAY hello now!", "What is 2+1?", "a b", "it is 35", "same", "A B"),
        ),
        test=write_rows("s.jsonl", rows("one", "two")),
    )
    found = by_name(load_splits(config, 0).notices)
    assert found["prompts_shared"].count == 1
    assert found["prompts_alike"].count == 2
    said = "validation has prompts much like those of train: 2 of its 7 rows differ from one in capitals"
    assert found["prompts_alike"].text.startswith(said)


def test_rows_that_repeat_are_told(write_rows: Write) -> None:
    rows = [{"prompt": f"p{i}", "completion": "x"} for i in range(30)]
    config = DataConfig(
        train=write_rows("t.jsonl", [*rows, *rows[:5], rows[0]]),
        validation=write_rows("v.jsonl", [{"text": "a"}, {"text": "b"}]).with_name("w.jsonl"),
        test=write_rows("s.jsonl", [{"prompt": "z", "completion": "x"}] * 3),
    )
    write_rows("w.jsonl", [{"prompt": f"v{i}", "completion": "x"} for i in range(4)])
    found = by_name(load_splits(config, 0).notices)["rows_repeated"]
    assert found.count == 8
    assert found.text.startswith("6 of 36 train and 2 of 3 test rows are copies of others in their split")


def test_clean_data_of_some_size_are_told_nothing(objective: Callable[..., TrainingObjective]) -> None:
    fractions = {"validation_fraction": 0.25, "test_fraction": 0.25}
    assert objective(copy_rows(500, 5), data=fractions).notices == ()
    # By default five trials fit into one full training, which is told where it leaves them less.
    found = by_name(objective(copy_rows(500, 5), data=fractions, search={}).notices)
    assert found.keys() == {"trial_limited", "few_validation_rows"}


def test_what_a_small_trial_costs_is_told_as_it_is(objective: Callable[..., TrainingObjective]) -> None:
    fractions = {"validation_fraction": 0.25, "test_fraction": 0.25}
    few = objective(copy_rows(60), data=fractions, search={})  # of 30 it cannot have fewer than 16
    cost = few.sizes.expected
    assert cost is not None
    assert cost > 0.4
    text = by_name(few.notices)["trial_limited"].text
    assert f"which cost about {cost:.3g} full trainings (data.trial_cost 0.2; fewer rows would say" in text
    assert f"which cost about {cost:.3g} full trainings in tokens" in few.sizes.trials(0.1)
    # Where it has all of them, nothing is limited, and nothing makes it larger.
    all_of_them = objective(copy_rows(30), data=fractions, search={})
    assert (all_of_them.n_proxy, all_of_them.sizes.trial_cost) == (all_of_them.n_train, None)
    assert "trial_limited" not in by_name(all_of_them.notices)


# -- small splits -----------------------------------------------------------------------------------


def test_small_splits_are_told_with_what_they_can_show(objective: Callable[..., TrainingObjective]) -> None:
    found = by_name(objective(copy_rows(60)).notices)
    assert {name: found[name].count for name in found} == {
        "few_training_rows": 48,
        "few_validation_rows": 6,
        "few_test_rows": 6,
    }


@pytest.mark.parametrize(
    ("metric", "n", "least"),
    [
        ("exact_match", 25, "40 percentage points"),  # 2 / sqrt(25)
        ("choice_accuracy", 3, "100 percentage points"),
        ("loss", 8, "1 standard deviations of a row's difference in loss"),  # sqrt(8 / 8)
        ("loss", 50, "0.4 standard deviations of a row's difference in loss"),
        ("token_f1", 25, "40 percentage points"),
        ("bleu", 50, "0.4 standard deviations of a row's difference in BLEU"),
        ("judge", 50, "0.4 standard deviations of a row's difference in judge"),
        ("minimize mine.py:word_errors", 50, "0.4 standard deviations of a row's difference in word errors"),
        ("lm_eval:arc_easy:acc", 50, "0.4 standard deviations of a row's difference in loss"),
    ],
)
def test_what_so_few_rows_can_show(metric: str, n: int, least: str) -> None:
    (found,) = about_sizes(100, {"validation": n, "test": 100}, metric_of(metric))
    assert found.text == (
        f"{n} validation rows are few: a difference between two settings of less than {least} would most "
        "likely not show"
    )


def test_a_split_of_one_row_is_refused(tiny_model: Path, write_rows: Write) -> None:
    ten = write_rows("t.jsonl", copy_rows(10, 5))
    with pytest.raises(
        DataError, match=r"the test split has one example: 0.1 of 10 examples; raise data.test"
    ):
        load_splits(DataConfig(train=ten), 0)
    one = write_rows("v.jsonl", [{"prompt": "v", "completion": "x"}])
    with pytest.raises(DataError, match=r"the validation split has one example: .*v.jsonl; 2 are the least"):
        load_splits(DataConfig(train=ten, validation=one, test_fraction=0.3), 0)
    limited = DataConfig(train=write_rows("u.jsonl", copy_rows(60)), validation_limit=1)
    with pytest.raises(DataError, match=r"validation split has one example: data.validation_limit is 1"):
        TrainingObjective.from_config(RunConfig(model=str(tiny_model), data=limited, device="cpu"))
    with pytest.raises(DataError, match=r"the train split has one example"):
        load_splits(DataConfig(train=one, validation=ten, test=write_rows("s.jsonl", copy_rows(5, 2))), 0)
