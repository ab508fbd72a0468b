"""In which numbers a base model computes, and how its weights are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import copy_rows, save_tiny_model

from loracle.config.loading import parse_config
from loracle.config.settings import RunConfig, TrainingConfig
from loracle.errors import ConfigError
from loracle.report.recipe import recipe
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import encode
from loracle.training.loop import train_adapter
from loracle.training.memory.counting import count_footprint
from loracle.training.model import base_model
from loracle.training.model.base_model import Base, load_base
from loracle.training.model.probe import probe
from loracle.training.model.saved_adapter import SavedAdapter

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}
WINNER = {"rank": 8, "alpha": 16, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-4}
MINIMAL = "model: some/model\ndata: {train: train.jsonl}\n"
Said = Callable[..., str]


def load(model: Path, **changes: Any) -> Base:
    content = {"model": str(model), "data": {"train": "t"}, "device": "cpu"} | changes
    return load_base(RunConfig.model_validate(content))


def losses_of(base: Base, folder: Path | None = None, **settings: Any) -> list[float]:
    examples = [Example(f"t:{i}", **row) for i, row in enumerate(copy_rows(40, 6))]
    encoded = encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)
    saved = None if folder is None else SavedAdapter(base, encoded.tokens, folder)
    training = TrainingConfig.model_validate(settings)
    with train_adapter(base, encoded, CONFIG, training, seed=0) as trained:
        if saved is not None:
            saved.write(trained.model, trained.start)
        losses = [step.loss for step in trained.steps]
    if saved is not None:
        saved.finish()
    return losses


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_trains_like_float32_up_to_its_digits(
    tiny_model: Path, tmp_path: Path, dtype: str, base: Base
) -> None:
    own = load(tiny_model, dtype=dtype)
    losses = losses_of(own, tmp_path / "adapter", epochs=3)
    assert own.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert np.allclose(losses, losses_of(base, epochs=3), rtol=0.03)
    assert losses[-1] < 0.85 * losses[0]


def test_names_of_precisions_have_short_forms() -> None:
    for short, name in (("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")):
        assert parse_config(f"{MINIMAL}dtype: {short}").dtype == name
    assert parse_config(f"{MINIMAL}quantization: 4").quantization == "4bit"


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantised_weights_train_and_come_back(
    tmp_path: Path, bits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By bitsandbytes on a CPU, which a run refuses: the same code as on a GPU up to its kernels."""
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    monkeypatch.setattr(
        modules, "has_avx512bf16", lambda: False
    )  # on CPUs that have it, weights are repacked
    monkeypatch.setattr(base_model, "QUANTIZED_ON", ("cuda", "cpu"))
    folder = save_tiny_model(tmp_path / "m", hidden_size=64, intermediate_size=128)
    own = load(folder, quantization=bits, dtype="bfloat16")
    found = probe(own, TrainingConfig(), torch.arange(3, 60).numpy(), dropout=0.1, writes=True)
    assert len(found.adapted) == 14
    losses = losses_of(own, tmp_path / "adapter", epochs=2)
    assert losses[-1] < losses[0]
    whole = load(folder, dtype="bfloat16")
    assert abs(losses[0] - losses_of(whole)[0]) < 0.1 * losses[0]
    assert count_footprint(own, TrainingConfig()).widest == count_footprint(whole, TrainingConfig()).widest


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_quantised_weights_need_a_gpu(run_config: Callable[..., Path], said: Said) -> None:
    path = run_config(quantization="4bit", execution={"workers": 1})
    assert "quantization: 4bit needs a CUDA device, and trials run on cpu" in said("tune", path, refused=True)


@pytest.mark.parametrize("variant", ["pissa", "pissa_fast", "olora"])
def test_starts_made_of_weights_are_refused_with_quantised_ones(variant: str) -> None:
    with pytest.raises(ConfigError, match=f"config:4: training: variant {variant} begins with a part of the"):
        parse_config(f"{MINIMAL}quantization: 4bit\ntraining: {{variant: {variant}}}")


def test_attention_is_what_transformers_takes(tiny_model: Path) -> None:
    own = load(tiny_model, attention="eager")
    assert own.model.config._attn_implementation == "eager"
    with pytest.raises(ConfigError, match="attention: no_such_attention cannot be had for") as caught:
        load(tiny_model, attention="no_such_attention")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "kernels-community/flash-attn2"])
def test_attention_of_gpus_is_refused_without_one(
    run_config: Callable[..., Path], said: Said, name: str
) -> None:
    path = run_config(attention=name, execution={"workers": 1})
    assert f"attention: {name} needs a GPU of CUDA's kind, and trials" in said("tune", path, refused=True)


def test_the_recipe_says_how_the_base_was_loaded() -> None:
    text = f"{MINIMAL}quantization: 4bit\nattention: sdpa\ndtype: bf16"
    told = recipe(parse_config(text), WINNER, 100)["model"]
    assert told["attn_implementation"] == "sdpa"
    assert told["quantization_config"]["load_in_4bit"]
    assert "model" not in recipe(parse_config(MINIMAL), WINNER, 100)
