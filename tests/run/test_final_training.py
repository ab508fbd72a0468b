"""The end of a run: what is trained, what is said of it, and what `best/` then holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM, PeftConfig
from transformers import AutoTokenizer

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig
from loracle.export import export
from loracle.records.events import Event, PhaseStarted
from loracle.run.tune import Result, tune

ADAPTER = "adapter_model.safetensors"


def knobs(**changes: Any) -> dict[str, Any]:
    """A space of one value a knob, changed where asked."""
    values = {"rank": [4], "alpha_ratio": [4], "dropout": [0.0], "batch_size": [4], "learning_rate": [1e-2]}
    found = {name: {"values": value} for name, value in (values | changes).items()}
    return {"base": "empty", "knobs": found}


STANDARD = {"rank": 4, "alpha": 16, "dropout": 0.0, "batch_size": 4, "learning_rate": 1e-2}


def run(config: RunConfig) -> tuple[Result, list[str]]:
    """A whole run, and which final trainings there were."""
    events: list[Event] = []
    result = tune(config, events.append)
    texts = [event.text for event in events if isinstance(event, PhaseStarted) and event.number is not None]
    return result, texts


@pytest.fixture
def worse(run_config: Callable[..., Path]) -> RunConfig:
    """A run whose space holds nothing as good as the standard settings."""
    space = knobs(learning_rate=[1e-6, 2e-6, 4e-6])
    data = {"test_fraction": 0.3, "proxy": 1.0}
    path = run_config(space=space, data=data, standard=STANDARD, search={"trials": 2})
    return load_config(path)


def test_best_holds_the_standard_settings_where_they_are_better(worse: RunConfig) -> None:
    result, _ = run(worse)
    folder, best = worse.output, worse.output / "best"
    assert result.comparison.standing == "worse"
    report = (folder / "report.md").read_text()
    assert "The winner is worse than the standard settings" in report
    assert "`best/` holds the standard settings" in report
    assert "better by -" not in report
    assert "relative gain" not in report
    of_standard = (folder / "final" / "standard" / "adapter" / ADAPTER).read_bytes()
    assert (best / ADAPTER).read_bytes() == of_standard
    assert (folder / "final" / "winner" / "adapter" / ADAPTER).read_bytes() != of_standard
    assert yaml.safe_load((best / "recipe.yaml").read_text())["training"]["learning_rate"] == 1e-2
    assert "did better than what the search found" in (best / "README.md").read_text()


@pytest.mark.parametrize(
    ("batches", "standard_batch"),
    [([4], 4), ([48], 1000)],
    ids=["equal", "twins: a batch of all 48 examples"],
)
def test_a_winner_that_is_the_standard_is_trained_once(
    run_config: Callable[..., Path], batches: list[int], standard_batch: int
) -> None:
    path = run_config(
        space=knobs(batch_size=batches),
        standard=STANDARD | {"batch_size": standard_batch},
        data={"proxy": 1.0},
        search={"trials": 1},
    )
    config = load_config(path)
    result, trained = run(config)
    assert trained == ["training the winner on all 48 examples"]
    assert result.comparison.standing == "same"
    assert result.comparison.standard_outcome == result.comparison.winner_outcome
    assert "The winner is the standard settings" in (config.output / "report.md").read_text()
    assert (config.output / "best" / ADAPTER).exists()


def test_best_is_complete_and_reads_as_the_hub_reads_it(
    run_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = load_config(run_config(search={"trials": 1}))
    result, trained = run(config)
    assert len(trained) == 2
    best = config.output / "best"
    assert result.best == best
    conversation = [{"role": "user", "content": "hi"}]
    tokenizer = AutoTokenizer.from_pretrained(best)
    wanted = AutoTokenizer.from_pretrained(config.model).apply_chat_template(conversation, tokenize=False)
    assert tokenizer.apply_chat_template(conversation, tokenize=False) == wanted
    card = ModelCard.load(best / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert "base_model" not in card.data.to_dict()  # a folder is nothing that the hub knows
    (score,) = card.data.eval_results or []
    assert score.metric_type == "loss"
    _, used = result.comparison.sides[result.comparison.best]
    assert score.metric_value == pytest.approx(-(used.value or 0))
    for part in (
        "train.jsonl",
        "95 % interval",
        "rank",
        "learning_rate",
        "adamw_torch_fused",
        "cosine",
        "seed: 3; loss: mean over the tokens that count",
        "torch",
        "AutoPeftModelForCausalLM",
    ):
        assert part in card.text
    assert "[More Information Needed]" not in card.text
    assert Path(PeftConfig.from_pretrained(best).base_model_name_or_path).is_dir()
    exported = export(config.output, tmp_path / "elsewhere", "peft")
    assert {path.name for path in exported.files} >= {"README.md", "recipe.yaml", "tokenizer.json", ADAPTER}
    AutoPeftModelForCausalLM.from_pretrained(tmp_path / "elsewhere")


def test_a_base_model_of_the_hub_is_named_in_the_card() -> None:
    from loracle.records.sizes import Sizes
    from loracle.records.trial import Outcome
    from loracle.report.model_card import model_card
    from loracle.report.recipe import recipe
    from loracle.report.verdict import Comparison

    config = RunConfig.model_validate({"model": "org/base", "data": {"train": "a `b`[x].jsonl"}})
    winner = {"rank": 8, "alpha": 16, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-4}
    found = Comparison(winner, STANDARD, Outcome(-1.0), Outcome(-1.2), 0.2, 0.1, 0.3, 50, 50)
    sizes = Sizes(100, 50, 20, 20, 50)
    card = ModelCard(model_card(config, found, sizes, recipe(config, winner, 100)))
    assert card.data.base_model == "org/base"
    assert "a relative gain of 17 %" in card.text


def test_files_of_the_user_in_best_stay(worse: RunConfig) -> None:
    run(worse)
    mine = worse.output / "best" / "notes.txt"
    mine.write_text("mine")
    again, trained = run(worse)
    assert trained == []
    assert mine.read_text() == "mine"
    assert again.comparison.standing == "worse"


def test_an_adapter_of_a_final_training_that_is_gone_is_made_again(worse: RunConfig) -> None:
    run(worse)
    adapter = worse.output / "final" / "standard" / "adapter" / ADAPTER
    before = adapter.read_bytes()
    adapter.unlink()
    _, trained = run(worse)
    assert trained == ["training the standard settings on all 36 examples"]
    assert adapter.read_bytes() == before


def test_all_trials_equal_is_no_find(run_config: Callable[..., Path]) -> None:
    path = run_config(
        space=knobs(learning_rate=[1e-6, 2e-6, 4e-6]),
        scoring={"metric": "exact_match", "max_new_tokens": 8},
        search={"trials": 2},
    )
    config = load_config(path)
    run(config)
    report = (config.output / "report.md").read_text()
    assert (
        "The search learnt nothing: both trials that succeeded scored the same (exact match 0.0 %)" in report
    )
    assert "test loss" in report


def test_an_own_trainer_whose_standard_did_better_gets_its_settings(tmp_path: Path) -> None:
    """In the search the larger rate is better, on all data the smaller one."""
    (tmp_path / "mine.py").write_text(
        "def train(config, *, phase):\n"
        "    rate = config['learning_rate']\n"
        "    return rate if phase == 'search' else 1 - rate\n"
    )
    content = {
        "objective": {"function": "mine.py:train", "direction": "maximize"},
        "space": {"base": "empty", "knobs": {"learning_rate": {"values": [0.1, 0.2, 0.4]}}},
        "standard": {"learning_rate": 0.1},
        "search": {"trials": 3},
        "execution": {"workers": 0},
    }
    path = tmp_path / "loracle.yaml"
    path.write_text(yaml.safe_dump(content))
    config = load_config(path)
    result, _ = run(config)
    assert result.comparison.winner == {"learning_rate": 0.4}
    assert result.best == config.output / "best.yaml"
    assert yaml.safe_load(result.best.read_text())["settings"] == {"learning_rate": 0.1}
    report = (config.output / "report.md").read_text()
    assert "The winner is worse than the standard settings: a value of 0.6 against 0.9" in report
    assert "`best.yaml` holds the standard settings" in report
