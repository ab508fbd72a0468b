from __future__ import annotations

from pathlib import Path

import pytest

from loracle.config import RunConfig
from loracle.report import (
    Comparison,
    comparison_json,
    history_rows,
    paired,
    recipe,
    relative_gain,
    report_text,
    show_config,
    show_score,
    show_test,
    show_value,
    verdict,
    write_figure,
)
from loracle.space import default_space
from loracle.trial import Failure, FailureKind, History, Outcome, Trial

SPACE = default_space()
CONFIG = RunConfig.model_validate({"model": "org/base", "data": {"train": "train.jsonl"}})
NAN = Failure(FailureKind.DIVERGED, "loss is NaN")
HISTORY = History(
    (Trial(0, 40, Outcome(0.25, seconds=2.0)), Trial(1, 900, Outcome(None, failure=NAN)), Trial(2, 77))
)


def comparison(winner: Outcome, standard: Outcome) -> Comparison:
    return Comparison(SPACE.config(1234), SPACE.config(40), winner, standard, 0.3, 0.2, 0.4)


@pytest.mark.parametrize(
    ("value", "text"),
    [(2e-4, "2e-4"), (1.5e-5, "1.5e-5"), (0.05, "0.05"), (16, "16"), (0, "0"), (0.5, "0.5"), (1e6, "1e6")],
)
def test_values_read_as_people_write_them(value: float, text: str) -> None:
    assert show_value(value) == text
    assert float(text) == value


def test_configs_show_alpha_in_the_place_of_its_ratio() -> None:
    text = show_config(SPACE.config(1234))
    assert text.startswith("rank ")
    assert "alpha_ratio" not in text
    assert text.index("alpha") < text.index("dropout")


def test_scores_and_gains_by_metric() -> None:
    assert show_score(0.913, "exact_match") == "91.3 %"
    assert show_score(-1.25, "loss") == "1.2500"
    assert relative_gain(0.9, 0.6, "exact_match") == pytest.approx(0.5)
    assert relative_gain(-0.9, -1.2, "loss") == pytest.approx(0.25)
    assert relative_gain(0.5, 0.0, "exact_match") is None
    loss = Outcome(-1.2, {"low": -1.3, "high": -1.1})
    assert show_test(loss, "loss") == "1.2000 (1.1000 to 1.3000)"
    assert show_test(Outcome(0.5, {"low": 0.4, "high": 0.6}), "exact_match") == "50.0 % (40.0 to 60.0)"
    assert show_test(Outcome(None, failure=NAN), "loss") == "diverged"


def test_report_says_what_was_found_and_how() -> None:
    found = comparison(Outcome(0.9, {"low": 0.85, "high": 0.93}), Outcome(0.6, {"low": 0.5, "high": 0.7}))
    config = CONFIG.model_copy(
        update={"scoring": CONFIG.scoring.model_copy(update={"metric": "exact_match"})}
    )
    text = report_text(config, SPACE, HISTORY, found, "all 2 trials are done")
    assert "90.0 %" in verdict(found, "exact_match")
    assert "relative gain of 50 %" in text
    assert "better by 30 points (95 % interval 20 to 40)" in text
    assert "1 diverged" in text
    assert "all 2 trials are done" in text
    assert "| 2 |" in text
    assert "running" in text


def test_report_says_what_is_known_about_memory() -> None:
    found = comparison(Outcome(-0.9), Outcome(-1.0))
    memory = ["predicted peaks 1.20 GiB", "12 of 72 candidates are left out"]
    text = report_text(CONFIG, SPACE, HISTORY, found, "done", memory)
    assert "\n- Predicted peaks 1.20 GiB.\n- 12 of 72 candidates are left out.\n" in text


def test_failed_finals_are_named_and_not_compared() -> None:
    failed = Comparison(SPACE.config(1), SPACE.config(2), Outcome(None, failure=NAN), Outcome(0.5))
    assert paired(failed, "loss") == ""
    assert "gain" not in verdict(failed, "loss")
    assert comparison_json(failed)["winner"]["failure"] == "diverged"


def test_rows_for_tables() -> None:
    rows = history_rows(SPACE, HISTORY, "exact_match")
    assert [row["score"] for row in rows] == ["25.0 %", "diverged", "running"]


def test_recipe_keeps_the_effective_batch_and_knobs_override_settings() -> None:
    winner = {"rank": 8, "alpha_ratio": 2, "alpha": 16, "batch_size": 20, "learning_rate": 1e-4, "epochs": 2}
    found = recipe(CONFIG, winner)
    sizes = found["training"]
    assert sizes["per_device_train_batch_size"] * sizes["gradient_accumulation_steps"] == 20
    assert sizes["num_train_epochs"] == 2
    assert found["lora"] | {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0} == found["lora"]


def test_recipe_states_the_micro_batch_that_was_used() -> None:
    winner = {"rank": 8, "alpha": 16, "batch_size": 32, "learning_rate": 1e-4}
    assert recipe(CONFIG, winner)["training"]["per_device_train_batch_size"] == 8
    assert recipe(CONFIG, winner, 2)["training"]["gradient_accumulation_steps"] == 16


@pytest.mark.parametrize("history", [HISTORY, History((Trial(0, 900, Outcome(None, failure=NAN)),))])
def test_figure_is_drawn_with_and_without_successes(tmp_path: Path, history: History) -> None:
    for metric in ("loss", "exact_match"):
        write_figure(tmp_path / f"{metric}.png", SPACE, history, metric)
        assert (tmp_path / f"{metric}.png").read_bytes().startswith(b"\x89PNG")
