"""Losses without logits are those of the model's own logits, and so are their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from memory import allocated_peak
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from loracle.config.settings import TrainingConfig
from loracle.config.training.plan import plan_training
from loracle.training.model.adapter import adapted
from loracle.training.model.base_model import Base, Batch
from loracle.training.model.checksum import weights_checksum, weights_fingerprint
from loracle.training.model.dropout import Masks, key_dropout, training_mode
from loracle.training.model.output.blocks import losses_in_blocks
from loracle.training.model.output.layer import OutputLayer, observed_output
from loracle.training.model.output.loss import add_gradient, counted_losses, positions_at_once

CPU = torch.device("cpu")
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 4}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 96}
SHAPE |= {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}


# -- blocks of words --------------------------------------------------------------------------------


def whole(hidden: Tensor, layer: nn.Linear, output: OutputLayer, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and the gradient of their sum, by autograd in float64."""
    leaf = hidden.double().requires_grad_()
    logits = output.scale * nn.functional.linear(
        leaf, layer.weight.double(), None if layer.bias is None else layer.bias.double()
    )
    if output.cap is not None:
        logits = output.cap * torch.tanh(logits / output.cap)
    losses = cross_entropy(logits, targets, reduction="none")
    losses.sum().backward()
    assert leaf.grad is not None
    return losses.detach().float(), leaf.grad.float()


@pytest.mark.parametrize("output", [OutputLayer(), OutputLayer(0.5), OutputLayer(2.0, 5.0)], ids=str)
@pytest.mark.parametrize(("k", "vocabulary"), [(1, 7), (5, 16_384), (5, 40_000), (1100, 2500), (0, 50)])
def test_losses_in_blocks_are_those_of_all_logits(output: OutputLayer, k: int, vocabulary: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, vocabulary, bias=k != 5).requires_grad_(False)
    layer.weight.mul_(8)
    hidden, targets = torch.randn(k, 12), torch.randint(0, vocabulary, (k,))
    targets[:2] = torch.tensor([vocabulary - 1, 0])[:k]
    losses, gradient = whole(hidden, layer, output, targets)
    found = losses_in_blocks(hidden, layer, output, targets, gradient=True)
    assert found.greedy is None
    assert found.gradient is not None
    torch.testing.assert_close(found.losses, losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-4, atol=1e-4)
    again = losses_in_blocks(hidden, layer, output, targets, gradient=False)
    torch.testing.assert_close(again.losses, losses, rtol=1e-5, atol=1e-5)
    assert again.greedy is not None
    assert torch.equal(again.greedy, output.logits(layer(hidden)).argmax(dim=-1) == targets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_is_exact_where_the_target_is_nearly_certain(dtype: torch.dtype) -> None:
    """p - 1 as a difference would have no digit left."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 300, bias=False).requires_grad_(False)
    layer.weight.copy_(layer.weight / 50)
    layer.weight[7] = 4.0
    layer.to(dtype)
    hidden = torch.full((2, 8), 0.5).to(dtype)
    targets = torch.tensor([7, 7])
    losses, gradient = whole(hidden, layer, OutputLayer(), targets)
    assert float(losses[0]) < 1e-4
    found = losses_in_blocks(hidden, layer, OutputLayer(), targets, gradient=True)
    assert found.gradient is not None
    assert float((found.gradient - gradient).norm() / gradient.norm()) < (
        1e-5 if dtype == torch.float32 else 2e-2
    )


@pytest.mark.parametrize(("first", "second"), [(3, 9), (3, 20_000), (17_000, 20_000)])
def test_of_equally_likely_words_the_first_is_the_greedy_one(first: int, second: int) -> None:
    layer = nn.Linear(1, 20_001, bias=False).requires_grad_(False)
    layer.weight.zero_()
    layer.weight[[first, second]] = 1.0
    targets = torch.tensor([first, second, 0])
    found = losses_in_blocks(torch.ones(3, 1), layer, OutputLayer(), targets, gradient=False)
    assert found.greedy is not None
    assert found.greedy.tolist() == [True, False, False]


def test_memory_does_not_grow_with_positions_times_vocabulary() -> None:
    def peak(k: int, vocabulary: int, *, gradient: bool) -> int:
        layer = nn.Linear(8, vocabulary, bias=False).requires_grad_(False)
        hidden, targets = torch.randn(k, 8), torch.randint(0, vocabulary, (k,))
        output = OutputLayer(cap=30.0)
        return allocated_peak(
            lambda: losses_in_blocks(hidden, layer, output, targets, gradient=gradient) and None
        )

    for gradient in (True, False):
        small, long, large = (
            peak(k, vocabulary, gradient=gradient)
            for k, vocabulary in ((64, 20_000), (64, 200_000), (512, 200_000))
        )
        assert long < 1.01 * small
        assert large < 1.1 * small
        assert large < 0.1 * 4 * 512 * 200_000  # of the logits alone


# -- on models --------------------------------------------------------------------------------------


def make_base(kind: str, dtype: torch.dtype = torch.float32, **shape: Any) -> Base:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SHAPE | shape))
    return as_base(AutoModelForCausalLM.from_config(config, dtype=dtype))


def as_base(model: Any) -> Base:
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # so that caps cap
    model.eval().requires_grad_(False)
    sums, output = (weights_fingerprint(model), weights_checksum(model)), observed_output(model, CPU)
    return Base("m", model, None, CPU, model.dtype, *sums, (1,), 0, 128, False, output=output)


def make_batch(b: int, t: int, counted: float = 0.5) -> Batch:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randint(2, 96, (b, t), generator=random)
    keep = torch.rand((b, t), generator=random) < counted
    rows, columns = torch.nonzero(keep, as_tuple=True)
    targets = torch.randint(2, 96, (len(rows),), generator=random)
    return Batch(inputs, keep, targets, rows, columns + 1)


def gradient_of(base: Base, batch: Batch, targets: Any = "all-linear") -> tuple[Tensor, Tensor]:
    """Loss, and the gradient of all adapter weights at a point where none of them is zero by construction."""
    knobs = {"rank": 4, "alpha": 8, "dropout": 0.3, "batch_size": 8, "learning_rate": 1e-2}
    masks = Masks(0, CPU)
    plan = plan_training(knobs, TrainingConfig(targets=targets), 8)
    torch.manual_seed(1)
    with adapted(base, plan) as model:
        parameters = [p for p in model.parameters() if p.requires_grad]
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.05 * torch.randn_like(parameter))
        key_dropout(base.model, masks, kept_logits=base.counted_alone)
        with training_mode(model), masks.of(0, range(len(batch.inputs)), batch.inputs.shape[1], batch.keep):
            loss = add_gradient(base, batch, masks, 7)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return loss, torch.cat([part.flatten() for part in parts])


MODELS = {
    "llama": OutputLayer(),
    "gemma2": OutputLayer(1.0, 30.0),
    "cohere": OutputLayer(0.0625),
    "phi": OutputLayer(),  # a bias
    "gpt2": OutputLayer(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", list(MODELS))
def test_gradients_are_those_of_the_models_own_logits(kind: str, dtype: torch.dtype) -> None:
    base = make_base(kind, dtype)
    assert base.output == MODELS[kind]
    batch = make_batch(3, 9)
    loss, gradient = gradient_of(base, batch)
    own_loss, own_gradient = gradient_of(replace(base, output=None), batch)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert float(loss) == pytest.approx(float(own_loss), rel=tolerance)
    assert float((gradient - own_gradient).norm() / own_gradient.norm()) < tolerance
    with torch.inference_mode():
        losses, greedy = counted_losses(base, batch)
        own_losses, own_greedy = counted_losses(replace(base, output=None), batch)
    torch.testing.assert_close(losses, own_losses, rtol=tolerance, atol=tolerance)
    assert float((greedy == own_greedy).float().mean()) >= (1 if dtype == torch.float32 else 0.9)


@pytest.mark.parametrize("targets", [["lm_head"], ["lm_head", "q_proj"]])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere"])
def test_an_adapted_output_layer_is_called_on_some_positions_at_a_time(kind: str, targets: list[str]) -> None:
    words = 150_000
    base = make_base(kind, vocab_size=words, tie_word_embeddings=False)
    batch = make_batch(5, 40)
    assert len(batch.targets) > positions_at_once(words)
    loss, gradient = gradient_of(base, batch, targets)
    # Its dropout is keyed by the positions that it sees, so the model's own logits are made of these too.
    own_loss, own_gradient = gradient_of(replace(base, output=None, masked_logits=True), batch, targets)
    assert float(loss) == pytest.approx(float(own_loss), rel=1e-5)
    assert float((gradient - own_gradient).norm() / own_gradient.norm()) < 1e-5


def test_a_batch_without_a_counted_position_adds_nothing() -> None:
    base = make_base("llama")
    batch = make_batch(2, 5, counted=0.0)
    for targets in ("all-linear", ["lm_head", "q_proj"]):
        loss, gradient = gradient_of(base, batch, targets)
        assert float(loss) == 0
        assert not bool(gradient.any())
    with torch.inference_mode():
        assert [len(one) for one in counted_losses(base, batch)] == [0, 0]


class Shifted(LlamaForCausalLM):
    """Adds to each logit what belongs to its word."""

    def forward(self, *args: Any, **options: Any) -> Any:
        found = super().forward(*args, **options)
        return SimpleNamespace(logits=found.logits + torch.arange(found.logits.shape[-1]) / 10)


class Stepped(LlamaForCausalLM):
    """Makes logits whole numbers, through which no gradient goes as it should."""

    def forward(self, *args: Any, **options: Any) -> Any:
        found = super().forward(*args, **options)
        return SimpleNamespace(logits=found.logits + (found.logits.round() - found.logits).detach())


class Twice(LlamaForCausalLM):
    """Has a second use for its output layer."""

    def forward(self, *args: Any, **options: Any) -> Any:
        found = super().forward(*args, **options)
        return SimpleNamespace(logits=found.logits + self.lm_head(torch.ones(self.config.hidden_size)))


@pytest.mark.parametrize("make", [Shifted, Stepped, Twice])
def test_a_model_that_does_something_else_makes_its_logits_itself(make: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    base = as_base(make(LlamaConfig(**SHAPE)))
    assert base.output is None
    loss, gradient = gradient_of(base, make_batch(2, 6))
    assert np.isfinite(float(loss))
    assert bool(gradient.any())


def test_the_layer_is_left_as_it_was() -> None:
    base = make_base("gemma2")
    layer = base.model.get_output_embeddings()
    before = dict(vars(layer))
    batch = make_batch(2, 6)
    with torch.inference_mode():
        counted_losses(base, batch)
    assert dict(vars(layer)) == before
    assert base.model(input_ids=batch.inputs).logits.shape == (2, 6, 96)
