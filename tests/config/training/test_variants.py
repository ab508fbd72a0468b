from __future__ import annotations

import pytest
from places import PACKAGE

from loracle.config.loading import parse_config
from loracle.config.settings import RunConfig, TrainingConfig
from loracle.config.training.plan import plan_training
from loracle.config.training.variants import VARIANTS, Variant, tried_with
from loracle.errors import ConfigError
from loracle.report.recipe import recipe

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}


@pytest.fixture
def gaussian(monkeypatch: pytest.MonkeyPatch) -> str:
    """A variant that is in no release: one row."""
    row = Variant({"init_lora_weights": "gaussian"}, weight_copies=0.5, learning_rate_shift=2.0)
    monkeypatch.setitem(VARIANTS, "gaussian", row)
    return "gaussian"


def test_a_variant_is_one_row(gaussian: str) -> None:
    settings = TrainingConfig(variant=gaussian)
    assert plan_training(CONFIG, settings, 10).learning_rate == 2 * CONFIG["learning_rate"]
    run = RunConfig.model_validate({"model": "m", "data": {"train": "none"}, "training": settings})
    found = recipe(run, CONFIG, 10)
    assert found["lora"]["init_lora_weights"] == "gaussian"
    assert found["training"]["learning_rate"] == 2 * CONFIG["learning_rate"]
    assert tried_with(gaussian) == gaussian


def test_a_variant_that_is_not_there_is_refused_with_those_that_are() -> None:
    text = "model: m\ndata: {train: t.jsonl}\ntraining: {variant: LoRA}\n"
    said = "config:3: training.variant: input should be 'lora', 'rslora', 'dora', 'pissa', "
    said += "'pissa_fast', 'olora' or 'eva'; got 'LoRA'"
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert str(caught.value) == said
    for value in (3, None, ["lora"]):
        with pytest.raises(ValueError, match="input should be"):
            TrainingConfig.model_validate({"variant": value})


def test_the_file_that_init_writes_lists_all() -> None:
    template = (PACKAGE / "config" / "template.yaml").read_text(encoding="utf-8")
    assert f"# {' | '.join(VARIANTS)}\n" in template
