from __future__ import annotations

import math
import weakref
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import copy_rows
from peft import get_peft_model
from places import PACKAGE

from loracle.config.settings import RunConfig, TrainingConfig
from loracle.config.training.plan import plan_training
from loracle.config.training.variants import VARIANTS, Variant
from loracle.errors import ModelError
from loracle.records.trial import FailureKind
from loracle.training import loop as training
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.loop import (
    Step,
    TrainingFailed,
    train_adapter,
)
from loracle.training.model import adapter
from loracle.training.model.base_model import Base, load_base
from loracle.training.model.checksum import weights_fingerprint

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def encoded(base: Base) -> Encoded:
    rows = copy_rows(40, 6)
    examples = [Example(f"t:{i}", **row) for i, row in enumerate(rows)]
    return encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)


def adapter_of(base: Base, data: Encoded, config: dict[str, Any], seed: int = 0, **settings: Any) -> Any:
    """Trains and returns (adapter tensors by name, losses)."""
    with train_adapter(base, data, config, TrainingConfig(**settings), seed=seed) as trained:
        weights = {n: p.detach().clone() for n, p in trained.model.named_parameters() if p.requires_grad}
        return weights, [step.loss for step in trained.steps]


def run_config(model: object, **changes: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"model": str(model), "data": {"train": "none.jsonl"}, "device": "cpu"} | changes
    )


# -- invariants -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["lora", "pissa"])
def test_micro_batches_do_not_change_the_result(base: Base, encoded: Encoded, variant: str) -> None:
    results = [adapter_of(base, encoded, CONFIG, micro_batch=m, variant=variant) for m in (8, 3, 1)]
    whole, losses = results[0]
    assert len(losses) == 5
    for weights, own_losses in results[1:]:
        assert np.allclose(losses, own_losses, rtol=1e-5)
        for name, tensor in whole.items():
            error = (weights[name] - tensor).norm() / tensor.norm()
            assert error < 1e-5, f"{name}: relative error {error:.2g}"


def test_the_loss_is_per_token_of_the_effective_batch(base: Base, encoded: Encoded) -> None:
    config = CONFIG | {"batch_size": 40}
    _, losses = adapter_of(base, encoded, config, micro_batch=7)
    total, count = 0.0, 0
    with torch.inference_mode():
        for i in range(len(encoded)):
            tokens = torch.from_numpy(encoded.tokens[encoded.starts[i] : encoded.ends[i]]).long()
            counted = encoded.counted[encoded.starts[i] : encoded.ends[i]]
            logits = base.model(input_ids=tokens[None, :-1]).logits[0]
            every = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
            total += float(every[torch.from_numpy(counted[1:])].sum())
            count += int(counted.sum())
    assert losses == pytest.approx([total / count], rel=1e-5)


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
def test_base_is_bit_identical_after_a_training(base: Base, encoded: Encoded, variant: str) -> None:
    before = {name: p.clone() for name, p in base.model.state_dict().items()}
    types = [(name, type(module)) for name, module in base.model.named_modules()]
    _, losses = adapter_of(base, encoded, CONFIG, variant=variant, gradient_checkpointing=True)
    assert losses[-1] < losses[0]
    after = base.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [(name, type(module)) for name, module in base.model.named_modules()] == types
    assert not hasattr(base.model, "peft_config")
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())


def test_a_training_depends_on_its_seed_alone(base: Base, encoded: Encoded) -> None:
    config = CONFIG | {"dropout": 0.3}
    first, losses = adapter_of(base, encoded, config)
    torch.manual_seed(123)
    adapter_of(base, encoded, CONFIG | {"rank": 16}, seed=5, variant="pissa")
    again, same_losses = adapter_of(base, encoded, config)
    assert losses == same_losses
    assert all(torch.equal(first[name], again[name]) for name in first)
    _, other = adapter_of(base, encoded, config, seed=1)
    assert other != losses


def test_the_callers_random_state_is_left_alone(base: Base, encoded: Encoded) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    adapter_of(base, encoded, CONFIG)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_of_a_training_stays_in_memory(base: Base, encoded: Encoded) -> None:
    with train_adapter(base, encoded, CONFIG, TrainingConfig(), seed=0) as trained:
        alive = [weakref.ref(p) for p in trained.model.parameters() if p.requires_grad]
        assert len(alive) == 28
    del trained
    assert [ref() for ref in alive if ref() is not None] == []


def test_an_error_in_the_block_still_takes_the_adapter_off(base: Base, encoded: Encoded) -> None:
    def stop() -> None:
        with train_adapter(base, encoded, CONFIG, TrainingConfig(variant="pissa"), seed=0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert weights_fingerprint(base.model) == base.fingerprint


def test_a_half_attached_adapter_is_taken_off(
    base: Base, encoded: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attach_and_fail(*args: Any, **kwargs: Any) -> Any:
        get_peft_model(*args, **kwargs)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    names = [name for name, _ in base.model.named_modules()]
    monkeypatch.setattr(adapter, "get_peft_model", attach_and_fail)
    with pytest.raises(TrainingFailed) as caught:
        adapter_of(base, encoded, CONFIG)
    assert caught.value.failure.kind == FailureKind.OUT_OF_MEMORY
    assert "in attach_and_fail" in caught.value.failure.traceback_tail
    assert caught.value.__context__ is None  # the old traceback would keep tensors alive
    assert [name for name, _ in base.model.named_modules()] == names
    monkeypatch.undo()
    adapter_of(base, encoded, CONFIG)


def test_changed_base_weights_are_reported(tiny_model: Path, encoded: Encoded) -> None:
    own = load_base(run_config(tiny_model))

    def spoil() -> None:
        with train_adapter(own, encoded, CONFIG, TrainingConfig(), seed=0):
            own.model.model.norm.weight.data[3] += 1e-6

    with pytest.raises(ModelError, match=r"weights of .* changed during a training"):
        spoil()


# -- the loop ---------------------------------------------------------------------------------------


def test_training_learns_and_reports_steps(base: Base, encoded: Encoded) -> None:
    seen: list[Step] = []
    settings = TrainingConfig(epochs=6, micro_batch=8)
    config = CONFIG | {"dropout": 0.05, "rank": 16, "alpha": 32}
    with train_adapter(base, encoded, config, settings, seed=0, progress=seen.append) as trained:
        assert list(trained.steps) == seen
        assert trained.tokens == 6 * encoded.lengths.sum()
    assert [step.number for step in seen] == list(range(1, 31))
    assert seen[-1].loss < 0.75 * seen[0].loss


def test_alpha_may_be_given_as_a_ratio_and_fractional(base: Base, encoded: Encoded) -> None:
    ratio = {name: value for name, value in CONFIG.items() if name != "alpha"} | {"alpha_ratio": 2}
    assert adapter_of(base, encoded, ratio)[1] == adapter_of(base, encoded, CONFIG)[1]
    tiny = CONFIG | {"rank": 1, "alpha": 0.5}
    with train_adapter(base, encoded, tiny, TrainingConfig(), seed=0) as trained:
        assert trained.model.peft_config["default"].lora_alpha == 0.5


def test_a_new_variant_trains_as_its_row_says(
    base: Base, encoded: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "gaussian", Variant({"init_lora_weights": "gaussian"}))
    with train_adapter(base, encoded, CONFIG, TrainingConfig(variant="gaussian"), seed=0) as trained:
        assert trained.model.peft_config["default"].init_lora_weights == "gaussian"
        assert trained.start == {}
    row = Variant({"init_lora_weights": "pissa"}, start_from_weights=True)
    monkeypatch.setitem(VARIANTS, "own", row)
    with train_adapter(base, encoded, CONFIG, TrainingConfig(variant="own"), seed=0) as trained:
        assert trained.start


def test_knobs_override_settings(base: Base, encoded: Encoded) -> None:
    _, losses = adapter_of(base, encoded, CONFIG | {"epochs": 2}, epochs=1)
    assert len(losses) == 10


def test_targets_choose_the_layers(base: Base, encoded: Encoded) -> None:
    weights, _ = adapter_of(base, encoded, CONFIG, targets=["q_proj", "v_proj"])
    assert len(weights) == 8
    assert all("q_proj" in name or "v_proj" in name for name in weights)


def test_models_that_make_their_logits_themselves_train_alike(base: Base, encoded: Encoded) -> None:
    assert base.masked_logits
    assert base.output is not None
    expected = adapter_of(base, encoded, CONFIG)[1]
    for masked in (True, False):
        plain = replace(base, masked_logits=masked, output=None)
        assert adapter_of(plain, encoded, CONFIG)[1] == pytest.approx(expected, rel=1e-5)


def test_bfloat16_base_trains_a_float32_adapter(tiny_model: Path, encoded: Encoded) -> None:
    half = load_base(run_config(tiny_model, dtype="bfloat16"))
    assert next(half.model.parameters()).dtype == torch.bfloat16
    weights, losses = adapter_of(half, encoded, CONFIG)
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    assert losses[-1] < losses[0]


# -- failures ---------------------------------------------------------------------------------------


def test_an_exploding_training_stops_early() -> None:
    # A base that is good at its task has far to fall, whatever the rounding of this machine.
    base = load_base(run_config(PACKAGE / "demo" / "base"))
    words = sorted({"".join(word) for word in permutations("abcde")})[:64]
    rows = [Example(f"t:{i}", prompt=f"copy {word}=", completion=word) for i, word in enumerate(words)]
    encoded = encode(rows, base.tokenizer, 64, stop_ids=base.stop_ids)
    steps: list[Step] = []
    config = CONFIG | {"learning_rate": 0.3, "rank": 16, "alpha": 256, "batch_size": 32}
    settings = TrainingConfig(epochs=20, max_gradient_norm=1e9, warmup_fraction=0.0)
    with (
        pytest.raises(TrainingFailed, match=r"diverged at step \d+ of 40: the loss rose") as caught,
        train_adapter(base, encoded, config, settings, seed=0, progress=steps.append),
    ):
        pass
    assert caught.value.failure.kind == FailureKind.DIVERGED
    assert len(steps) < 20, [step.loss for step in steps]
    assert weights_fingerprint(base.model) == base.fingerprint


def test_a_loss_that_is_not_a_number_stops_at_once(base: Base, encoded: Encoded) -> None:
    config = CONFIG | {"alpha": 1e38, "learning_rate": 1e4}
    with (
        pytest.raises(TrainingFailed, match=r"diverged at step [12] of 5: the loss is"),
        train_adapter(base, encoded, config, TrainingConfig(), seed=0),
    ):
        pass


@pytest.mark.parametrize(
    ("losses", "batch", "diverges"),
    [
        ([2.0] * 30, 32, False),
        ([2.0, 9.0, 2.0, 2.0, 9.0, 2.0], 32, False),  # spikes
        ([2.0, 2.0, 7.0, 7.0, 7.0], 32, True),
        ([0.2] + [2.0] * 20, 2, False),  # a lucky first batch
        ([2.0] * 16 + [9.0] * 16, 2, True),
        ([2.0, 0.0], 32, False),  # a perfect batch
    ],
)
def test_divergence_is_judged_on_smoothed_losses(losses: list[float], batch: int, diverges: bool) -> None:
    plan = plan_training(CONFIG | {"batch_size": batch}, TrainingConfig(), 1000)
    steps = [Step(100 + i, 200, loss, 1e-3, 1.0) for i, loss in enumerate(losses)]
    try:
        for end in range(1, len(steps) + 1):
            training.check_divergence(steps[:end], plan)
    except TrainingFailed:
        assert diverges
    else:
        assert not diverges


def test_zero_loss_with_a_broken_gradient_is_divergence() -> None:
    plan = plan_training(CONFIG, TrainingConfig(), 1000)
    with pytest.raises(TrainingFailed, match="the loss is 0, the gradient norm nan"):
        training.check_divergence([Step(3, 10, 0.0, 1e-3, math.nan)], plan)
