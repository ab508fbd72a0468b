"""Two processes that share every batch, on the CPU: they train what one does, and fail in step."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import copy_rows

from loracle.config.metrics.settings import ScoringConfig
from loracle.config.settings import RunConfig, TrainingConfig
from loracle.config.training.optimizers import OPTIMIZERS
from loracle.config.training.variants import VARIANTS
from loracle.errors import ConfigError
from loracle.records.trial import FailureKind, Outcome
from loracle.records.trial_files import read_items
from loracle.training.dataset.blocks import in_blocks
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.loop import Step, TrainingFailed, train_adapter
from loracle.training.memory.counting import build_memory_model
from loracle.training.model.base_model import Base
from loracle.training.model.batching import observed
from loracle.training.parallel.group import ALONE, Group
from loracle.training.parallel.peers import Peers
from loracle.training.scoring import prepare
from loracle.training.trial import TrialPlan, run_trial
from loracle.training.validation_loss import Watched

# Three examples cannot be divided by two, and the last batch is of one alone.
CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.2, "batch_size": 3, "learning_rate": 1e-2}
CHOICES = [row["completion"] for row in copy_rows(10, 8)]
EXAMPLES = [Example(f"t:{i}", **row) for i, row in enumerate(copy_rows(10, 8))]

# In a process of their own (`make slow`): where another process of a group dies, so does the one that tests.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoded(base: Base) -> Encoded:
    """Ten examples of two to eight letters."""
    return encode(EXAMPLES, base.tokenizer, 64, stop_ids=base.stop_ids)


class Two(NamedTuple):
    """Two processes, and the base model as the first of them has it."""

    group: Group
    base: Base


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "divided"])
def two(tiny_model: Path, request: pytest.FixtureRequest) -> Iterator[Two]:
    """Each with a base model of its own, and with a part of one."""
    config = RunConfig.model_validate(
        {
            "model": str(tiny_model),
            "data": {"train": "none.jsonl"},
            "device": "cpu",
            "execution": {"processes_per_trial": 2, "shard_model": request.param},
        }
    )
    peers = Peers(config)
    base, group = peers.load_base(config)
    yield Two(group, base)
    group.close()


def trained_by(
    group: Group,
    base: Base,
    encoded: Encoded,
    config: dict[str, Any],
    watched: Watched | None = None,
    **settings: Any,
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of all steps, and the adapter."""
    given = TrainingConfig.model_validate({"epochs": 2, **settings})
    with train_adapter(base, encoded, config, given, seed=3, watched=watched, group=group) as trained:
        weights = {n: p.detach().clone() for n, p in trained.model.named_parameters() if p.requires_grad}
        return [step.loss for step in trained.steps], weights


def assert_like_one(two: Two, base: Base, encoded: Encoded, *arguments: Any, **settings: Any) -> None:
    losses, weights = trained_by(two.group, two.base, encoded, *arguments, **settings)
    expected, alone = trained_by(ALONE, base, encoded, *arguments, **settings)
    assert len(losses) == len(expected)
    assert np.allclose(losses, expected, rtol=1e-5, atol=0)
    assert weights.keys() == alone.keys()
    for name, tensor in alone.items():
        assert (weights[name] - tensor).norm() <= 1e-4 * tensor.norm(), name


@pytest.mark.parametrize("batch", [1, 2, 3, 10])
def test_two_processes_train_what_one_does(two: Two, base: Base, encoded: Encoded, batch: int) -> None:
    """With a batch of one, one of them has nothing to do in any step."""
    assert_like_one(two, base, encoded, CONFIG | {"batch_size": batch}, micro_batch=1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant(two: Two, base: Base, encoded: Encoded, variant: str) -> None:
    if two.base.layers is not None and VARIANTS[variant].reads_weights:
        pytest.skip("begins with whole weights, and is refused before")
    assert_like_one(two, base, encoded, CONFIG, variant=variant, epochs=1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(two: Two, base: Base, encoded: Encoded, optimizer: str) -> None:
    pytest.importorskip(OPTIMIZERS[optimizer].package or "torch")
    assert_like_one(two, base, encoded, CONFIG, optimizer=optimizer, epochs=1)


def test_rows_of_several_examples(two: Two, base: Base, encoded: Encoded) -> None:
    base, packing = (observed(one, encoded.tokens, writes=False, packs=True) for one in (base, two.base))
    two = two._replace(base=packing)
    assert_like_one(two, base, in_blocks(encoded, 64), CONFIG)


def test_recomputed_activations_and_whole_modules(two: Two, base: Base, encoded: Encoded) -> None:
    more = {"gradient_checkpointing": True, "modules_to_save": ["norm"], "lora_plus_ratio": 4}
    assert_like_one(two, base, encoded, CONFIG, **more)


def test_early_stopping_ends_both_at_the_same_step(two: Two, base: Base, encoded: Encoded) -> None:
    stopping = {"evaluations": 8, "patience": 1}
    config = CONFIG | {"learning_rate": 0.05}
    watched = Watched(encoded.select(np.arange(3)), 1)
    assert_like_one(two, base, encoded, config, watched, early_stopping=stopping, epochs=6)


@pytest.mark.parametrize(
    "scored",
    [
        {"metric": "exact_match", "metrics": ["token_f1"]},
        {"metric": "choice_accuracy", "metrics": ["exact_match"], "choices": CHOICES},
        {"metric": "bits_per_byte"},
    ],
)
def test_every_item_is_scored_as_by_one(
    two: Two, base: Base, encoded: Encoded, tmp_path: Path, scored: dict[str, Any]
) -> None:
    one = outcome_of(ALONE, base, encoded, encoded, tmp_path / "one", **scored)
    both = outcome_of(*two, encoded, encoded, tmp_path / "two", **scored)
    assert one.value == pytest.approx(both.value, rel=1e-5)
    items, expected = read_items(tmp_path / "two"), read_items(tmp_path / "one")
    assert [item.pop("loss") for item in items] == pytest.approx([e.pop("loss") for e in expected], rel=1e-5)
    assert items == expected
    assert [item["index"] for item in items] == list(range(10))


# -- failures ---------------------------------------------------------------------------------------


class NoMemory(Encoded):
    """Examples for which another process than the first has no memory, the first time that it reads them."""

    @property
    def lengths(self) -> Any:
        _once(type(self), MemoryError("an injected shortage"))
        return super().lengths


class NoMemoryToScore(NoMemory):
    """The same, once more."""


class Crash(Encoded):
    """Examples at which another process than the first crashes, once."""

    @property
    def lengths(self) -> Any:
        _once(type(self), ValueError("an injected crash"))
        return super().lengths


RAISED: set[type[Encoded]] = set()


def _once(kind: type[Encoded], error: Exception) -> None:
    if multiprocessing.parent_process() is not None and kind not in RAISED:
        RAISED.add(kind)
        raise error


def spoilt(encoded: Encoded, kind: type[Encoded]) -> Encoded:
    return kind(**{field.name: getattr(encoded, field.name) for field in fields(Encoded)})


def outcome_of(
    group: Group, base: Base, train: Encoded, asked: Encoded, folder: Path, **scored: Any
) -> Outcome:
    """A whole trial of four examples at a time, two of them in each process."""
    settings = TrainingConfig(epochs=4)
    scoring = ScoringConfig.model_validate({"metric": "loss", "max_new_tokens": 9, "batch_size": 4, **scored})
    plan = TrialPlan(
        base=base,
        training=settings,
        scoring=scoring,
        config=CONFIG | {"batch_size": 4},
        seed=0,
        folder=folder,
        split="validation",
        train=train,
        questions=prepare(EXAMPLES, asked, base, scoring, 64),
        memory=build_memory_model(base, settings, asked, processes=group.size),
        micro_batch=2,
        group=group,
    )
    return run_trial(plan, {})


def test_memory_that_runs_out_in_one_is_less_at_a_time_in_all(
    two: Two, base: Base, encoded: Encoded, tmp_path: Path
) -> None:
    alone = outcome_of(ALONE, base, encoded, encoded, tmp_path / "alone")
    outcome = outcome_of(*two, spoilt(encoded, NoMemory), encoded, tmp_path / "both")
    assert [outcome.metrics["attempts"], outcome.metrics["micro_batch"]] == [2, 1]
    assert outcome.value == pytest.approx(alone.value, rel=1e-5)
    kept = json.loads((tmp_path / "both" / "attempt-1.json").read_text())["failure"]
    assert kept["kind"] == "out_of_memory"
    assert kept["message"] == "out of memory in process 2 of 2: an injected shortage"


def test_memory_that_runs_out_while_another_scores_is_fewer_at_a_time(
    two: Two, base: Base, encoded: Encoded, tmp_path: Path
) -> None:
    outcome = outcome_of(*two, encoded, spoilt(encoded, NoMemoryToScore), tmp_path / "both")
    assert outcome.value == pytest.approx(
        outcome_of(ALONE, base, encoded, encoded, tmp_path / "alone").value, rel=1e-5
    )
    assert outcome.metrics.get("attempts") is None  # of the training


def test_a_crash_of_another_process_is_one_of_the_trial(
    two: Two, base: Base, encoded: Encoded, tmp_path: Path
) -> None:
    failure = outcome_of(*two, spoilt(encoded, Crash), encoded, tmp_path / "crash").failure
    assert failure is not None
    assert failure.kind is FailureKind.CRASHED
    assert "in process 2 of 2: an injected crash" in failure.message
    assert_like_one(two, base, encoded, CONFIG)  # and they go on in step


def test_what_fails_in_the_first_process_fails_in_all(two: Two, base: Base, encoded: Encoded) -> None:
    def stop(step: Step) -> None:
        raise OSError("no room for the log")

    with (
        pytest.raises(OSError, match="no room for the log"),
        train_adapter(two.base, encoded, CONFIG, TrainingConfig(), seed=0, progress=stop, group=two.group),
    ):
        pass
    with (
        pytest.raises(TrainingFailed, match="diverged at step 1 of"),
        train_adapter(
            two.base, encoded, CONFIG | {"alpha": 1e38}, TrainingConfig(epochs=2), seed=0, group=two.group
        ),
    ):
        pass
    with pytest.raises(ConfigError, match="needs as many tokens"):
        trained_by(*two, encoded, CONFIG | {"rank": 500}, variant="eva")
    assert_like_one(two, base, encoded, CONFIG)


def test_an_examples_share_is_dealt_by_length() -> None:
    lengths = np.array([3, 9, 4, 7, 1])
    assert [share.tolist() for share in Group(0, 2).shares(lengths)] == [[1, 2, 4], [3, 0]]
    assert [share.tolist() for share in Group(1, 3).shares(lengths[:2])] == [[1], [0], []]
    assert [share.tolist() for share in ALONE.shares(lengths)] == [[0, 1, 2, 3, 4]]
