from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save_tiny_model
from memory import allocated_peak, make_data

from loracle.config.settings import RunConfig, TrainingConfig
from loracle.config.training.plan import plan_training
from loracle.config.training.variants import VARIANTS, Variant
from loracle.training.dataset.blocks import in_blocks
from loracle.training.loop import train_adapter
from loracle.training.memory.counting import count_footprint
from loracle.training.memory.equations import Sizes, scoring_growth, training_growth, training_tensors
from loracle.training.model.adapter import adapted
from loracle.training.model.base_model import Base, load_base
from loracle.training.model.checksum import weights_fingerprint

SIZES = Sizes(32, np.array([4, 8, 12, 15]), 20.0)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Wide enough for activations to outweigh the small change."""
    folder = save_tiny_model(
        tmp_path_factory.mktemp("wide") / "m", hidden_size=128, intermediate_size=384, vocab_size=9000
    )
    config = {"model": str(folder), "data": {"train": "none.jsonl"}, "device": "cpu"}
    return load_base(RunConfig.model_validate(config))


@pytest.mark.parametrize(
    ("rank", "micro_batch", "dropout", "settings", "tolerance"),
    [
        (8, 4, 0.0, {}, 0.05),
        (64, 4, 0.1, {}, 0.05),
        (8, 4, 0.1, {}, 0.05),
        (8, 4, 0.0, {"variant": "dora"}, 0.1),
        (8, 4, 0.0, {"variant": "pissa"}, 0.1),
        (8, 4, 0.0, {"targets": ["q_proj", "v_proj"]}, 0.1),
        (8, 4, 0.1, {"gradient_checkpointing": True}, 0.3),
    ],
)
def test_peaks_are_predicted(
    wide: Base, rank: int, micro_batch: int, dropout: float, settings: dict[str, Any], tolerance: float
) -> None:
    """Against the sum of all that the allocator gave out: what a GPU would count."""
    training = TrainingConfig(**settings, micro_batch=micro_batch)
    data = make_data(2 * micro_batch, 96, 24)
    config = {"rank": rank, "alpha": rank, "dropout": dropout, "learning_rate": 1e-4}

    def train() -> None:
        knobs = config | {"batch_size": 2 * micro_batch, "epochs": 2}
        with train_adapter(wide, data, knobs, training, seed=0):
            pass

    footprint = count_footprint(wide, training)
    predicted = float(training_tensors(footprint, Sizes.of(data), rank, micro_batch, dropout))
    assert allocated_peak(train) == pytest.approx(predicted, rel=tolerance)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_peaks_of_packed_rows_are_predicted(wide: Base, dropout: float) -> None:
    """Rows of four examples, with the mask that keeps them apart."""
    training, data = TrainingConfig(micro_batch=4), in_blocks(make_data(32, 24, 6), 96)
    assert len(data) == 8
    base = replace(wide, packing="padded")
    config = {"rank": 8, "alpha": 8, "dropout": dropout, "learning_rate": 1e-4, "batch_size": 8, "epochs": 2}

    def train() -> None:
        with train_adapter(base, data, config, training, seed=0):
            pass

    predicted = float(training_tensors(count_footprint(base, training), Sizes.of(data), 8, 4, dropout))
    assert allocated_peak(train) == pytest.approx(predicted, rel=0.05)


def test_the_adapter_is_counted_exactly(base: Base) -> None:
    for settings in (TrainingConfig(), TrainingConfig(variant="dora", targets=["up_proj"])):
        footprint = count_footprint(base, settings)
        for rank in (1, 7):
            knobs = {"rank": rank, "alpha": 1, "batch_size": 1, "learning_rate": 1e-3}
            with adapted(base, plan_training(knobs, settings, 1)) as model:
                count = sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert footprint.per_rank * rank + footprint.fixed == count


def test_what_a_new_variant_copies_is_counted(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "halved", Variant(weight_copies=0.5))
    whole, half = (count_footprint(base, TrainingConfig(variant=name)).copied for name in ("pissa", "halved"))
    assert whole == 2 * half > 0
    assert count_footprint(base, TrainingConfig()).copied == 0


def test_counting_leaves_model_and_random_numbers_alone(base: Base) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = count_footprint(base, TrainingConfig())
    assert torch.equal(torch.rand(2), expected)
    assert weights_fingerprint(base.model) == base.fingerprint
    assert not base.model.training
    assert np.array_equal(first.saved, count_footprint(base, TrainingConfig()).saved)


def test_memory_grows_with_everything_that_is_larger(base: Base) -> None:
    footprint = count_footprint(base, TrainingConfig())
    ranks, batches = np.array([[1], [8], [64]]), np.array([1, 2, 4])
    plain = training_growth(footprint, SIZES, ranks, batches, 0.0)
    assert plain.shape == (3, 3)
    assert (np.diff(plain, axis=0) > 0).all()
    assert (np.diff(plain, axis=1) > 0).all()
    assert (training_growth(footprint, SIZES, ranks, batches, 0.1) > plain).all()
    longer = Sizes(64, SIZES.counted, 40.0)
    assert (training_growth(footprint, longer, ranks, batches, 0.0) > plain).all()
    less = count_footprint(base, TrainingConfig(gradient_checkpointing=True))
    tensors = training_tensors(footprint, SIZES, ranks, batches, 0.0)
    assert (training_tensors(less, SIZES, ranks, batches, 0.0) < tensors).all()
    scored = [scoring_growth(footprint, SIZES, 8, batch, 0) for batch in (1, 2, 4)]
    assert scored == sorted(scored)
    assert scoring_growth(footprint, SIZES, 8, 4, 1000) > scored[-1]


def test_positions_in_the_loss_are_those_of_the_longest_answers() -> None:
    data = make_data(3, 10, 4)
    sizes = Sizes.of(data)
    assert sizes.longest == 9
    assert sizes.in_loss([1, 2, 3, 9]).tolist() == [4, 8, 12, 12]
