"""Words for what is trained, found among the modules of real models."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import KINDS, Kind, tiny_config
from conftest import save_tiny_model
from transformers import AutoModelForCausalLM

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig, TrainingConfig
from loracle.errors import ConfigError
from loracle.report.recipe import recipe
from loracle.training.model.base_model import Base, load_base
from loracle.training.model.probe import probe
from loracle.training.model.targets import linear_modules, resolved_targets

Said = Callable[..., str]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ("attention", ATTENTION),
        ("mlp", MLP),
        (["mlp", "attention"], [*MLP, *ATTENTION]),
        ("q_proj", ["q_proj"]),
        (["q_proj", "mlp"], ["q_proj", *MLP]),
        (r".*\.(q|v)_proj", ["q_proj", "v_proj"]),
        (r"model\.layers\.1\..*_proj", [f"model.layers.1.self_attn.{name}" for name in ATTENTION]),
        (["all-linear", "lm_head"], [*ATTENTION, *MLP, "lm_head"]),
        ("all-linear", "all-linear"),
    ],
)
def test_groups_and_patterns_become_names(base: Base, targets: Any, found: Any) -> None:
    settings = resolved_targets(base, TrainingConfig(targets=targets))
    if "layers" in str(targets):
        assert list(settings.targets)[:4] == found
        assert len(settings.targets) == 7
    else:
        assert settings.targets == found


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"targets": "q_porj"}, "training.targets: the model has no module 'q_porj'; did you mean 'q_proj'?"),
        ({"targets": "attenion"}, "did you mean 'attention'?"),
        ({"targets": "q_proj["}, "the model has no module 'q_proj['; did you mean 'q_proj'?"),
        ({"targets": r".*\.wq"}, "the model has no module"),
        ({"targets": ["q_proj", "zzz"]}, "the model has no module 'zzz'; it has 0, 1, "),
        (
            {"modules_to_save": ["lm_haed"]},
            "training.modules_to_save: the model has no module 'lm_haed'; did",
        ),
    ],
)
def test_what_stands_for_nothing_is_refused_with_close_names(
    base: Base, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved_targets(base, TrainingConfig(**settings))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.fast and not kind.refused], ids=str)
def test_groups_are_found_in_models_of_other_names(kind: Kind, base: Base) -> None:
    """Each linear module is of one group; those of state spaces and convolutions are of none."""
    model = AutoModelForCausalLM.from_config(tiny_config(kind))
    other = replace(base, model=model, name=kind.type)
    found: dict[str, set[str]] = {}
    for group in ("attention", "mlp"):
        try:
            targets = resolved_targets(other, TrainingConfig(targets=group)).targets
        except ConfigError:
            targets = []
        linear = linear_modules(model)
        found[group] = {n for n in linear if any(f".{n}".endswith(f".{target}") for target in targets)}
    assert not found["attention"] & found["mlp"]
    rest = set(linear_modules(model)) - found["attention"] - found["mlp"]
    assert all(re.search("mamba|mixer|conv|temporal_block|per_layer|vision", name) for name in rest), rest


def test_the_recipe_has_names_that_peft_takes() -> None:
    data = {"model": "m", "data": {"train": "t"}, "training": {"targets": "attention"}}
    winner = {"rank": 8, "alpha": 16, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-4}
    run = RunConfig.model_validate(data)
    lora = recipe(run, winner, 100, modules=["v_proj", "q_proj"])["lora"]
    assert lora["target_modules"] == ["q_proj", "v_proj"]
    saved = RunConfig.model_validate(data | {"training": {"modules_to_save": ["lm_head"]}})
    assert recipe(saved, winner, 100)["lora"]["modules_to_save"] == ["lm_head"]


def test_doctor_shows_what_is_adapted(run_config: Callable[..., Path], said: Said) -> None:
    out = said("doctor", run_config(training={"targets": "mlp", "modules_to_save": ["lm_head"]}))
    assert "6 modules get an adapter: model.layers.*.mlp.gate_proj (2), model.layers.*.mlp.up_proj (2)" in out
    assert "trained whole: lm_head" in out
    assert "lm_head, model.embed_tokens shares its weights with another" not in out
    assert "lm_head shares its weights with another module of the model" in out
    path = run_config(training={"targets": "q_porj"})
    assert "did you mean 'q_proj'?" in said("tune", path, refused=True)
    assert load_config(path).training.targets == ["q_porj"]


def test_modules_trained_whole_are_float32_copies(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m", tie_word_embeddings=False)
    config = {"model": str(folder), "data": {"train": "t"}, "device": "cpu", "dtype": "bfloat16"}
    base = load_base(RunConfig.model_validate(config))
    settings = TrainingConfig(modules_to_save=["lm_head"])
    tokens = torch.arange(3, 60).numpy()
    found = probe(base, settings, tokens, dropout=0.0, writes=True)
    assert found.notices == ()
    assert len(found.adapted) == len(linear_modules(base.model))
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in base.model.state_dict().items())
