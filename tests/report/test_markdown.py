from __future__ import annotations

from loracle.config.settings import RunConfig
from loracle.records.notices import Notice
from loracle.records.sizes import Sizes
from loracle.records.space import default_space
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.report.markdown import report_text
from loracle.report.verdict import Comparison

SPACE = default_space()
CONFIG = RunConfig.model_validate({"model": "org/base", "data": {"train": "train.jsonl"}})
NAN = Failure(FailureKind.DIVERGED, "loss is NaN")
HISTORY = History(
    (Trial(0, 40, Outcome(0.25, seconds=2.0)), Trial(1, 900, Outcome(None, failure=NAN)), Trial(2, 77))
)
SIZES = Sizes(train=800, proxy=200, validation=120, scored=100, test=60, dropped={"train": 48, "test": 4})


def comparison(winner: Outcome, standard: Outcome) -> Comparison:
    return Comparison(SPACE.config(1234), SPACE.config(40), winner, standard, 0.3, 0.2, 0.4, 60, 30)


def test_says_what_was_found_and_how() -> None:
    found = comparison(Outcome(0.9, {"low": 0.85, "high": 0.93}), Outcome(0.6, {"low": 0.5, "high": 0.7}))
    config = CONFIG.model_copy(
        update={"scoring": CONFIG.scoring.model_copy(update={"metric": "exact_match"})}
    )
    text = report_text(config, SPACE, HISTORY, found, "all 2 trials are done")
    assert "relative gain of 50 %" in text
    assert "better by 30 points (95 % interval 20 to 40)" in text
    assert "- Failed trials: 1 diverged. Trial 1: loss is NaN (`trials/0001/`)" in text
    assert "all 2 trials are done" in text
    assert "| 2 |" in text
    assert "running" in text


def test_says_what_is_known_about_memory() -> None:
    found = comparison(Outcome(-0.9), Outcome(-1.0))
    memory = ["predicted peaks 1.20 GiB", "12 of 72 candidates are left out"]
    text = report_text(CONFIG, SPACE, HISTORY, found, "done", memory=memory)
    assert "\n- Predicted peaks 1.20 GiB.\n- 12 of 72 candidates are left out.\n" in text


def test_says_how_much_was_really_trained_and_scored_on() -> None:
    found = comparison(Outcome(-0.9), Outcome(-1.0))
    text = report_text(CONFIG, SPACE, HISTORY, found, "done", sizes=SIZES)
    assert "trained on 200 of 800 training examples (25 %), as data.proxy_minimum asks for" in text
    assert "data.proxy alone would be 10 %" in text
    assert "scored on 100 of 120 validation examples (data.validation_limit)" in text
    assert "trained on 800 of 848 training examples and scored once on 60 of 64 test examples" in text
    assert "all training" not in text


def test_says_all_where_it_is_all() -> None:
    sizes = Sizes(train=4000, proxy=400, validation=120, scored=120, test=60, dropped={"train": 0})
    text = report_text(CONFIG, SPACE, HISTORY, comparison(Outcome(-0.9), Outcome(-1.0)), "done", sizes=sizes)
    assert "trained on 400 of 4,000 training examples (10 %);" in text
    assert "scored on 120 of 120 validation examples." in text
    assert "trained on all 4,000 training examples and scored once on 60 test examples." in text


def test_notices_stand_above_the_table() -> None:
    notices = [Notice("data", "prompts_shared", "3 prompts are in train and test", 3)]
    text = report_text(CONFIG, SPACE, HISTORY, comparison(Outcome(-0.9), Outcome(-1.0)), "", notices=notices)
    assert text.index("- data: 3 prompts are in train and test.") < text.index("| rank |")


def test_foreign_names_are_text_and_nothing_else() -> None:
    config = CONFIG.model_copy(update={"model": "/models/[x](http://a) <b> |*v1*|"})
    notices = [Notice("model", "odd", "module [a](b) | <script> \\x1b")]
    text = report_text(config, SPACE, HISTORY, comparison(Outcome(-0.9), Outcome(-1.0)), "", notices=notices)
    title = text.splitlines()[0]
    assert title == "# LoRA search: a) \\<b\\> \\|\\*v1\\*\\|"  # the last part of the path
    assert "module \\[a\\](b) \\| \\<script\\>" in text


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    text = report_text(CONFIG, SPACE, HISTORY, comparison(Outcome(-0.9), Outcome(-1.0)), "")
    for table in text.split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1
