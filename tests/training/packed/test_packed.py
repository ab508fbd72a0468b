"""Configs that are trained together learn what each learns alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import KINDS, save_kind
from conftest import copy_rows
from places import ROOT

from loracle.config.settings import RunConfig
from loracle.config.training.plan import plan_training
from loracle.config.training.settings import TrainingConfig
from loracle.records.trial import FailureKind
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.loop import Step, TrainingFailed, train_adapter
from loracle.training.model.base_model import Base, load_base
from loracle.training.model.batching import observed
from loracle.training.model.checksum import weights_fingerprint
from loracle.training.packed.conditions import why_alone
from loracle.training.packed.linear import NotPacked
from loracle.training.packed.loop import PackedResult, lent, train_packed
from loracle.training.packed.width import measured_width

CLOSE = 1e-5  # a part of what is compared, in float32
MIXED = [
    {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 4, "learning_rate": 2e-3},
    {"rank": 2, "alpha": 16, "dropout": 0.1, "batch_size": 4, "learning_rate": 5e-4},
    {"rank": 8, "alpha": 4, "dropout": 0.3, "batch_size": 8, "learning_rate": 1e-3},
    {"rank": 1, "alpha": 1, "dropout": 0.05, "batch_size": 6, "learning_rate": 4e-3},
]
CONFIG = MIXED[0]
EXPLODING = {"rank": 4, "alpha": 8, "dropout": 0.1, "batch_size": 4, "learning_rate": 1e30}
SETTINGS = TrainingConfig(max_steps=20, weight_decay=0.01)


def data_of(base: Base) -> Encoded:
    """Examples of different lengths."""
    rows = [row for length in (2, 4, 6) for row in copy_rows(15, length)]
    examples = [Example(f"t:{i}", **row) for i, row in enumerate(rows)]
    return encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)


def load(kind: str, folder: Path, dtype: str = "float32") -> Base:
    save_kind(next(one for one in KINDS if one.type == kind), folder)
    data = {"train": folder / "none.jsonl"}
    config = {"model": str(folder), "data": data, "device": "cpu", "dtype": dtype}
    base = load_base(RunConfig.model_validate(config))
    return observed(base, data_of(base).tokens, writes=False)


def alone(base: Base, data: Encoded, config: dict[str, Any], settings: TrainingConfig) -> Any:
    """Steps, and the adapter's tensors by name."""
    with train_adapter(base, data, config, settings, seed=3) as trained:
        return trained.steps, weights(trained.model)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def distance(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """Of two adapters, as a part of the second."""
    assert some.keys() == others.keys()
    apart = sum(float((some[name] - others[name]).square().sum()) for name in some)
    return float((apart / sum(float(tensor.square().sum()) for tensor in others.values())) ** 0.5)


@pytest.fixture(params=["llama", "gpt_neox"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Base:
    return load(request.param, tmp_path / "model")


def test_configs_trained_together_learn_what_each_learns_alone(other: Base) -> None:
    data = data_of(other)
    told: dict[int, list[Step]] = {}
    results = train_packed(
        other,
        data,
        MIXED,
        SETTINGS,
        seed=3,
        progress=lambda i, step: told.setdefault(i, []).append(step),
    )
    for i, (config, result) in enumerate(zip(MIXED, results, strict=True)):
        steps, adapter = alone(other, data, config, SETTINGS)
        with lent(other, result) as trained:
            assert distance(weights(trained.model), adapter) < CLOSE
        assert trained.steps == tuple(told[i])
        assert len(trained.steps) == len(steps) == 20
        for mine, own in zip(trained.steps, steps, strict=True):
            assert (mine.number, mine.total, mine.tokens) == (own.number, own.total, own.tokens)
            assert mine.learning_rate == own.learning_rate
            assert mine.loss == pytest.approx(own.loss, rel=CLOSE)
            assert mine.gradient_norm == pytest.approx(own.gradient_norm, rel=10 * CLOSE)
    assert weights_fingerprint(other.model) == other.fingerprint


def test_a_limit_on_the_micro_batch_and_rank_stabilised_scales_change_nothing(base: Base) -> None:
    data = data_of(base)
    settings = TrainingConfig(max_steps=6, micro_batch=3, variant="rslora", targets=["q_proj", "down_proj"])
    for config, result in zip(MIXED, train_packed(base, data, MIXED, settings, seed=3), strict=True):
        steps, adapter = alone(base, data, config, settings)
        with lent(base, result) as trained:
            assert distance(weights(trained.model), adapter) < CLOSE
        assert [s.loss for s in trained.steps] == pytest.approx([s.loss for s in steps], rel=CLOSE)


def test_in_bfloat16_losses_are_the_same_to_its_rounding(tmp_path: Path) -> None:
    base = load("llama", tmp_path / "model", "bfloat16")
    data, settings = data_of(base), TrainingConfig(max_steps=6)
    for config, result in zip(MIXED, train_packed(base, data, MIXED, settings, seed=3), strict=True):
        steps, _ = alone(base, data, config, settings)
        assert [s.loss for s in result.steps] == pytest.approx([s.loss for s in steps], rel=1e-2)


def test_one_that_diverges_leaves_the_others_the_same_to_the_bit(base: Base) -> None:
    data = data_of(base)
    healthy = {**EXPLODING, "learning_rate": 1e-3}

    def train(third: dict[str, Any]) -> list[PackedResult]:
        return train_packed(base, data, [*MIXED[:2], third, MIXED[2]], SETTINGS, seed=3)

    quiet, loud = train(healthy), train(EXPLODING)
    for i in (0, 1, 3):
        assert loud[i].failure is None
        assert loud[i].steps == quiet[i].steps
        for name, pair in quiet[i].state.items():
            assert all(map(torch.equal, loud[i].state[name], pair))
    with pytest.raises(TrainingFailed) as expected:
        alone(base, data, EXPLODING, SETTINGS)
    with pytest.raises(TrainingFailed) as caught, lent(base, loud[2]):
        pass
    assert caught.value.failure == expected.value.failure
    assert caught.value.failure.kind == FailureKind.DIVERGED
    assert len(loud[2].steps) < 20


def test_trainings_of_different_lengths_end_when_they_would_alone(base: Base) -> None:
    data, settings = data_of(base), TrainingConfig()
    configs = [{**MIXED[1], "batch_size": size} for size in (7, 16)]
    results = train_packed(base, data, configs, settings, seed=3)
    assert [len(result.steps) for result in results] == [7, 3]
    for config, result in zip(configs, results, strict=True):
        steps, _ = alone(base, data, config, settings)
        assert [s.loss for s in result.steps] == pytest.approx([s.loss for s in steps], rel=CLOSE)
        assert result.tokens == steps[-1].tokens


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"variant": "dora"}, "variant dora; only lora and rslora train together"),
        ({"optimizer": "sgd"}, "optimizer sgd; only adamw"),
        ({"lora_plus_ratio": 4}, "rates of their own"),
        ({"early_stopping": 3}, "early_stopping"),
        ({"modules_to_save": ["norm"]}, "trained whole"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing"),
    ],
)
def test_what_has_to_be_trained_alone_is_told_in_words(
    base: Base, settings: dict[str, Any], said: str
) -> None:
    plan = plan_training(MIXED[0], TrainingConfig(**settings), 40)
    assert said in str(why_alone(base, plan))
    with pytest.raises(NotPacked, match=said):
        train_packed(base, data_of(base), MIXED, TrainingConfig(**settings), seed=0)
    assert why_alone(base, plan_training(MIXED[0], TrainingConfig(), 40)) is None


def test_a_model_of_other_modules_is_told_and_left_as_it_was(tmp_path: Path) -> None:
    base = load("gpt2", tmp_path / "model")
    with pytest.raises(NotPacked, match="Conv1D, not a linear module"):
        train_packed(base, data_of(base), MIXED, SETTINGS, seed=0)
    assert weights_fingerprint(base.model) == base.fingerprint
    assert alone(base, data_of(base), MIXED[0], TrainingConfig(max_steps=1))


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["lm_head"], "lm_head is the output layer"),
        (["embed_tokens"], "embed_tokens is Embedding"),
    ],
)
def test_adapters_of_other_places_are_told(base: Base, targets: list[str], said: str) -> None:
    with pytest.raises(NotPacked, match=said):
        train_packed(base, data_of(base), [CONFIG] * 2, TrainingConfig(targets=targets), seed=0)


def test_configs_that_adapt_different_modules_are_told(base: Base) -> None:
    configs = [CONFIG | {"targets": targets} for targets in ("q_proj", "q_proj,v_proj")]
    with pytest.raises(NotPacked, match="different modules"):
        train_packed(base, data_of(base), configs, SETTINGS, seed=0)


def test_the_width_is_the_one_of_those_measured_that_gains_most(base: Base) -> None:
    width = measured_width(base, data_of(base), CONFIG, TrainingConfig(), widths=(2, 4))
    assert width.reason is None
    assert set(width.gains) in ({2}, {2, 4})
    assert width.configs == 1 or width.gains[width.configs] == max(width.gains.values())
    assert weights_fingerprint(base.model) == base.fingerprint


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"variant": "dora"}, "variant dora"), ({"targets": ["lm_head"]}, "output layer")],
)
def test_where_configs_have_to_be_trained_alone_the_width_is_one_and_says_why(
    base: Base, settings: dict[str, Any], reason: str
) -> None:
    width = measured_width(base, data_of(base), CONFIG, TrainingConfig(**settings))
    assert width.configs == 1
    assert reason in str(width.reason)


def test_the_page_shows_what_works(base: Base) -> None:
    """The lines of Python in docs/packed.md, and its table as it was measured."""
    page = (ROOT / "docs" / "packed.md").read_text(encoding="utf-8")
    program = page.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {"base": base, "encoded": data_of(base)}
    names |= {"configs": MIXED, "settings": TrainingConfig()}
    exec(compile(program, "packed.md", "exec"), names)
    assert len(names["trained"].steps) > 1
    content = json.loads((ROOT / "benchmarks" / "results" / "packed_width.json").read_text(encoding="utf-8"))
    for row in content["rows"]:
        gains = [f"{gain:.2f}" for gain in row["gain"].values()]
        assert f"| {row['model']}, batch {row['batch']} | {' | '.join(gains)} |" in page
        assert row["automatic"]["gain"] >= 0.97
        assert all(
            apart <= (CLOSE if row["model"] == "demo" else 2 * CLOSE) for apart in row["difference"].values()
        )
