from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import copy_rows, save_tiny_model
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from loracle.config.settings import RunConfig, TrainingConfig
from loracle.errors import ModelError
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.loop import train_adapter
from loracle.training.model.adapter import save_adapter
from loracle.training.model.base_model import Base, load_base
from loracle.training.model.checksum import weights_checksum, weights_fingerprint
from loracle.training.model.dropout import (
    ExampleDropout,
    Masks,
    about_own_dropout,
    key_dropout,
    own_dropout,
    token_keys,
    training_mode,
)

CPU = torch.device("cpu")
CONFIG = {"rank": 4, "alpha": 8, "batch_size": 8, "learning_rate": 3e-3}
SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 96}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """One layer: every test here trains several times."""
    folder = save_tiny_model(tmp_path_factory.mktemp("small") / "m", num_hidden_layers=1)
    config = {"model": str(folder), "data": {"train": "none.jsonl"}, "device": "cpu"}
    return load_base(RunConfig.model_validate(config))


@pytest.fixture(scope="module")
def encoded(base: Base) -> Encoded:
    """Examples of different lengths, so that micro-batches differ in padding too."""
    rows = copy_rows(24, 6)
    return encode([Example(f"t:{i}", **row) for i, row in enumerate(rows)], base.tokenizer, 64)


def make_base(kind: str, **shape: Any) -> Base:
    """A random model of that architecture with the settings it has by default, its dropout among them."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(shape or SHAPE)))
    model.eval().requires_grad_(False)
    sums = weights_fingerprint(model), weights_checksum(model)
    return Base(kind, model, None, CPU, model.dtype, *sums, (1,), 0, 128, False)


def losses_of(base: Base, data: Encoded, dropout: float, micro_batch: int, **settings: Any) -> list[float]:
    training = TrainingConfig(micro_batch=micro_batch, epochs=20 / 3, **settings)
    with train_adapter(base, data, CONFIG | {"dropout": dropout}, training, seed=0) as trained:
        assert len(trained.steps) == 20
        return [step.loss for step in trained.steps]


def mask(
    seed: int,
    step: int,
    examples: list[int],
    width: int,
    module: str = "a",
    features: int = 64,
    p: float = 0.3,
) -> torch.Tensor:
    """Which features are dropped, (b, width, features)."""
    masks = Masks(seed, CPU)
    dropout = ExampleDropout(p, module, features, masks)
    with masks.of(step, examples, width):
        return dropout(torch.ones(len(examples), width, features)) == 0


# -- micro-batches never change the result ----------------------------------------------------------


@pytest.mark.parametrize(("dropout", "checkpointing"), [(0.05, False), (0.3, False), (0.3, True)])
@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
def test_losses_are_the_same_for_every_micro_batch(
    base: Base, encoded: Encoded, variant: str, dropout: float, checkpointing: bool
) -> None:
    settings = {"variant": variant, "gradient_checkpointing": checkpointing}
    whole = losses_of(base, encoded, dropout, 8, **settings)
    assert whole[-1] < whole[0]
    for micro_batch in (1, 3):
        assert losses_of(base, encoded, dropout, micro_batch, **settings) == pytest.approx(whole, rel=1e-5)


def test_recomputed_activations_have_the_same_masks(base: Base, encoded: Encoded) -> None:
    plain = losses_of(base, encoded, 0.3, 8)
    assert losses_of(base, encoded, 0.3, 8, gradient_checkpointing=True) == pytest.approx(plain, rel=1e-5)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["gpt2", "opt", "falcon"])
def test_dropout_of_the_base_model_itself_is_off(encoded: Encoded, kind: str, checkpointing: bool) -> None:
    """GPT-2 has it in modules, OPT in functions with a layer's numbers, Falcon with those of its settings."""
    shape = SHAPE | ({"ffn_dim": 64, "word_embed_proj_dim": 32} if kind == "opt" else {})
    shape |= {"hidden_dropout": 0.1} if kind == "falcon" else {}
    own = make_base(kind, **shape)
    before = own_dropout(own.model)
    assert before
    whole = losses_of(own, encoded, 0.05, 8, gradient_checkpointing=checkpointing)
    one = losses_of(own, encoded, 0.05, 1, gradient_checkpointing=checkpointing)
    assert one == pytest.approx(whole, rel=1e-5)
    assert own_dropout(own.model) == before
    (notice,) = about_own_dropout(own.model)
    assert all(f"{name} {value:g}" in notice.text for name, value in before.items())
    assert not any(module.training for module in own.model.modules())


def test_an_example_that_comes_again_has_another_mask(base: Base, encoded: Encoded) -> None:
    """One example, so every difference between steps is the mask's; nothing is learnt at this rate."""
    config = {"rank": 4, "alpha": 64, "batch_size": 1, "learning_rate": 1e-30, "dropout": 0.3}
    training = TrainingConfig(epochs=6, variant="pissa")
    with train_adapter(base, encoded.select([3]), config, training, seed=0) as trained:
        losses = [step.loss for step in trained.steps]
    assert len(set(losses)) == 6


# -- masks ------------------------------------------------------------------------------------------


@given(
    examples=st.lists(st.integers(0, 2**62), min_size=1, max_size=6, unique=True),
    width=st.integers(1, 9),
    wider=st.integers(0, 5),
    step=st.integers(0, 10**6),
    features=st.integers(1, 33),
)
def test_a_mask_depends_on_its_example_alone(
    examples: list[int], width: int, wider: int, step: int, features: int
) -> None:
    """Not on company, order, or padding."""
    together = mask(5, step, examples[::-1], width + wider, features=features)
    for row, example in enumerate(examples[::-1]):
        alone = mask(5, step, [example], width, features=features)
        assert torch.equal(together[row, :width], alone[0])


def test_the_gradient_has_the_mask_of_the_value() -> None:
    masks = Masks(0, CPU)
    dropout = ExampleDropout(0.3, "a", 10, masks)
    x = torch.ones(4, 7, 10, requires_grad=True)
    with masks.of(0, range(4), 7):
        y = dropout(x)
        y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    kept = y[y != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / 0.7), rtol=1e-4)


def test_flattened_inputs_and_half_precision_have_the_same_masks() -> None:
    masks = Masks(0, CPU)
    dropout = ExampleDropout(0.3, "a", 10, masks)
    with masks.of(0, [3, 1], 5):
        whole = dropout(torch.ones(2, 5, 10))
        assert torch.equal(dropout(torch.ones(10, 10)).view(2, 5, 10), whole)
        assert torch.equal(dropout(torch.ones(2, 5, 10, dtype=torch.bfloat16)) == 0, whole == 0)


@pytest.mark.parametrize("p", [0.01, 0.05, 0.3, 0.5])
def test_masks_are_as_good_as_independent_coins(p: float) -> None:
    """Means, and correlations between everything that a mask depends on, in units of their standard errors.

    The seeds are fixed, so these are facts about the generator and not chances.
    """
    deviation = np.sqrt(p * (1 - p))

    def coins(seed: int, step: int, examples: range, module: str = "a") -> torch.Tensor:
        dropped = mask(seed, step, list(examples), 32, module, features=256, p=p)
        return (dropped.double() - p) / deviation

    one = coins(0, 0, range(40))  # (40, 32, 256)
    n = one.numel()
    assert abs(one.mean()) * np.sqrt(n) < 4
    for axes in (
        (0, 1),
        (0, 2),
        (1, 2),
        (0,),
        (1,),
        (2,),
    ):  # by feature, position, example, and pairs of these
        means = one.mean(axes)
        scores = means * np.sqrt(n / means.numel())
        assert abs(scores.var() - 1) < 6 * np.sqrt((2 + 1 / (p * n / means.numel())) / means.numel())
    others = {
        "step": coins(0, 1, range(40)),
        "seed": coins(1, 0, range(40)),
        "example": coins(0, 0, range(40, 80)),
        "module": coins(0, 0, range(40), "b"),
        "next position": one.roll(1, 1),
        "next feature": one.roll(1, 2),
        "other half of a word": one.view(40, 32, 128, 2).flip(3).reshape(one.shape),
        "next word": one.roll(2, 2),
    }
    for name, other in others.items():
        score = float((one * other).mean()) * np.sqrt(n)
        assert abs(score) < 4, name
    # Four corners of rectangles: what a word made by xor alone would fail.
    rows = one.view(-1, 256)
    corners = rows * rows.roll(17, 0) * rows.roll(6, 1) * (rows.roll(17, 0).roll(6, 1))
    assert abs(float(corners.mean())) * np.sqrt(n) < 4


def test_keys_differ_wherever_anything_differs() -> None:
    keys = [
        token_keys(seed, step, range(50), 20).ravel() for seed in (0, 1, -1, 2**40) for step in (0, 1, 2**31)
    ]
    every = np.concatenate(keys)
    assert len(np.unique(every)) == len(every)


# -- on a model -------------------------------------------------------------------------------------


def test_the_adapter_is_saved_and_merged_as_ever(base: Base, encoded: Encoded, tmp_path: Path) -> None:
    config = CONFIG | {"dropout": 0.3}
    with train_adapter(base, encoded, config, TrainingConfig(epochs=4), seed=0) as trained:
        names = [name for name in trained.model.state_dict() if "dropout" in name]
        (tmp_path / "adapter").mkdir()
        save_adapter(trained.model, trained.start, tmp_path / "adapter")
        inputs = torch.tensor([[7, 8, 9, 10]])
        expected = trained.model(input_ids=inputs).logits
        assert torch.equal(trained.model(input_ids=inputs).logits, expected)  # nothing is dropped now
    assert names == []
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["lora_dropout"] == 0.3
    plain = AutoModelForCausalLM.from_pretrained(base.name)
    merged = PeftModel.from_pretrained(plain, tmp_path / "adapter").merge_and_unload()
    assert torch.allclose(merged(input_ids=inputs).logits, expected, atol=1e-5)


class Routed(nn.Module):
    """Gives a module some tokens of the batch alone, as routers of experts do."""

    def __init__(self) -> None:
        super().__init__()
        self.expert = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = x[..., 0] > 0
        x[chosen] = self.expert(x[chosen])
        return x


def test_tokens_that_cannot_be_told_apart_are_refused() -> None:
    model = get_peft_model(Routed(), LoraConfig(target_modules=["expert"], lora_dropout=0.1))
    masks = Masks(0, CPU)
    key_dropout(model, masks, kept_logits=False)
    x = torch.cat([torch.ones(2, 2, 8), -torch.ones(2, 3, 8)], dim=1)
    with (
        pytest.raises(ModelError, match=r"expert sees an input of shape \(4, 8\) for 2 x 5 tokens.*targets"),
        training_mode(model),
        masks.of(0, [0, 1], 5),
    ):
        model(x)


def test_a_convolution_is_refused_by_name() -> None:
    model = get_peft_model(
        nn.Sequential(nn.Conv1d(8, 8, 3)), LoraConfig(target_modules=["0"], lora_dropout=0.1)
    )
    with pytest.raises(ModelError, match=r"dropout: .*0 is a Conv1d"):
        key_dropout(model, Masks(0, CPU), kept_logits=False)


def test_an_output_layer_that_sees_counted_positions_alone(encoded: Encoded) -> None:
    own = replace(make_base("llama", **SHAPE, intermediate_size=64), masked_logits=True)
    settings = {"targets": ["lm_head", "q_proj"]}
    whole = losses_of(own, encoded, 0.3, 8, **settings)
    assert losses_of(own, encoded, 0.3, 1, **settings) == pytest.approx(whole, rel=1e-5)


def test_settings_of_heads_that_are_not_there_are_no_dropout() -> None:
    """GPT-NeoX has `classifier_dropout` 0.1 by default, for a classifier."""
    neox = make_base("gpt_neox", **SHAPE, intermediate_size=64)
    assert neox.model.config.classifier_dropout > 0
    assert list(about_own_dropout(neox.model)) == []
