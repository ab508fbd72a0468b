"""A run with several objectives, from its config to what is shown of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Loracle

from loracle.config.loading import load_config, parse_config
from loracle.config.metrics.settings import ScoringConfig
from loracle.errors import ConfigError
from loracle.loaded_run import load_run


def test_a_run_ends_with_its_pareto_set_and_scores_of_all(
    run_config: Callable[..., Path], loracle: Loracle
) -> None:
    path = run_config(scoring={"metric": ["token_f1", "loss"], "max_new_tokens": 8})
    code, out, _ = loracle("tune", path, "--json")
    assert code == 0
    content = json.loads(out)
    front = content["pareto_set"]
    assert front
    assert all(set(one["scores"]) == {"token_f1", "loss"} for one in front)
    for one in front:  # none is better by one and as good by the other
        assert not any(
            other["scores"]["token_f1"] >= one["scores"]["token_f1"]
            and other["scores"]["loss"] <= one["scores"]["loss"]
            and other["scores"] != one["scores"]
            for other in front
        )
    assert [one["metric"] for one in content["by_objective"]] == ["token_f1", "loss"]
    assert json.loads(loracle("verdict", path, "--json")[1])["pareto_set"] == front
    assert {"test_loss", "loss_low", "loss_high", "low", "high"} <= set(content["winner"]["metrics"])
    assert [n["count"] for n in content["notices"] if n["name"] == "pareto_set"] == [len(front)]
    config = load_config(path)
    assert load_config(config.output / "config.yaml").objectives == ("token_f1", "loss")
    assert "## Pareto set" in (config.output / "report.md").read_text()
    code, out, _ = loracle("show", config.output)
    assert code == 0
    assert "Pareto set" in out
    shown = json.loads(loracle("show", config.output, "--json")[1])
    assert [one["trial"] for one in shown["pareto_set"]] == [one["trial"] for one in front]
    code, out, _ = loracle("tune", path)  # nothing is trained again
    assert "Pareto set: " in out
    assert "By loss " in out or content["standing"] == "same"
    run = load_run(config.output)
    assert run.pareto_set.index.tolist() == [one["trial"] for one in front]
    pareto = run.findings.pareto
    assert pareto is not None
    assert {one.number for one in pareto.trials if one.on_front} == {one["trial"] for one in front}
    page = (config.output / "report.html").read_text(encoding="utf-8")
    assert 'id="pareto-0"' in page
    assert "several objectives" in loracle("explain", config.output)[2]


def test_a_list_of_one_is_its_name_and_nothing_is_named_twice() -> None:
    assert ScoringConfig.model_validate({"metric": ["bleu"]}) == ScoringConfig(metric="bleu")
    two = ScoringConfig.model_validate({"metric": ["loss", {"bleu": 0.5, "chrf": 0.5}]})
    assert two.metric == "loss"
    assert two.all_metrics[:2] == ["loss", "0.5*bleu + 0.5*chrf"]
    assert ScoringConfig.model_validate(two.model_dump()) == two
    for metric, said in (
        ([], "names at least one"),
        (["loss", "bleu", "loss"], "the objective loss is named twice"),
        (["loss", "lose"], "there is no such metric"),
    ):
        with pytest.raises(ValueError, match=said):
            ScoringConfig.model_validate({"metric": metric})


def test_a_trainer_of_one_s_own_has_one_objective() -> None:
    own = (
        "space: {base: empty, knobs: {rank: [8, 16]}}\n"
        "objective: {command: 'train {rank}', direction: minimize}\nscoring: {metric: [loss, bleu]}\n"
    )
    with pytest.raises(ConfigError, match="a trainer of your own gives one number"):
        parse_config(own)
