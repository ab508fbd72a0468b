"""Several examples in one row: the same blocks as TRL's, the same training as without, and equal counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from architectures import KINDS, save_kind
from conftest import Loracle, copy_rows
from datasets import Dataset
from trl import SFTConfig, pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from loracle.config.loading import load_config
from loracle.config.settings import TrainingConfig
from loracle.records.codec import from_plain, to_plain
from loracle.records.sizes import Sizes
from loracle.report.findings.search_cost import search_cost
from loracle.training.dataset.blocks import best_fit, in_blocks, unpacked
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.loop import train_adapter
from loracle.training.model.base_model import Base, collate
from loracle.training.model.batching import observed
from loracle.training.objective import TrainingObjective
from loracle.training.validation_loss import Watched

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.2, "batch_size": 40, "learning_rate": 1e-2}
MOST = 40  # tokens of a block


@pytest.fixture(scope="module")
def encoded(base: Base) -> Encoded:
    examples = [Example(f"t:{i}", **row) for i, row in enumerate(copy_rows(40, 6))]
    return encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)


@pytest.fixture(scope="module")
def packing(base: Base, encoded: Encoded) -> Base:
    return observed(base, encoded.tokens, writes=False, packs=True)


def rows_of_tokens(encoded: Encoded) -> list[list[int]]:
    return [encoded.tokens[a:b].tolist() for a, b in zip(encoded.starts, encoded.ends, strict=True)]


# -- blocks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "most"), [(1, 3), (7, 4), (300, 64), (1000, 512)])
def test_blocks_are_those_of_trl(n: int, most: int) -> None:
    lengths = np.random.default_rng(n).integers(1, most + 1, n)
    ours = best_fit(lengths, most)
    rows = Dataset.from_dict({"input_ids": [[i] * int(length) for i, length in enumerate(lengths)]})
    theirs = pack_dataset(rows, most, "bfd")["input_ids"]
    assert [list(dict.fromkeys(row)) for row in theirs] == ours
    assert sorted(i for block in ours for i in block) == list(range(n))
    assert max(int(lengths[block].sum()) for block in ours) <= most


def test_tokens_positions_and_loss_are_those_of_trl(packing: Base, encoded: Encoded) -> None:
    """Ours are cut before the last token, which predicts nothing."""
    learnt = replace(encoded, tokens=np.where(encoded.counted, encoded.tokens, -100))
    rows = {"input_ids": rows_of_tokens(encoded), "labels": rows_of_tokens(learnt)}
    theirs = list(pack_dataset(Dataset.from_dict(rows), MOST, "bfd"))
    blocks = in_blocks(encoded, MOST)
    assert len(theirs) == len(blocks) < len(encoded)
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    for i, row in enumerate(theirs):
        whole = collator([row])  # each alone, for it joins the rows of a batch
        ours = collate(blocks, [i], packing)
        assert torch.equal(whole["input_ids"][:, :-1], ours.inputs)
        assert torch.equal(whole["position_ids"][:, :-1], ours.more["position_ids"])
        labels = whole["labels"][0, 1:]
        assert torch.equal(labels != -100, ours.keep[0])
        assert torch.equal(labels[labels != -100], ours.targets)


def test_blocks_give_their_examples_back(encoded: Encoded) -> None:
    blocks = in_blocks(encoded, MOST)
    assert blocks.n_examples == 40
    some = blocks.select([3, 0])
    found = unpacked(some)
    assert len(found) == some.n_examples == len(set(found.positions.tolist()))
    assert some.lengths.sum() == found.lengths.sum()
    assert some.counts.sum() == found.counts.sum()
    again = encoded.select(found.positions)
    assert rows_of_tokens(found) == rows_of_tokens(again)
    assert np.array_equal(found.counts, again.counts)
    assert unpacked(encoded) is encoded


# -- training -----------------------------------------------------------------------------------------


def trained(base: Base, data: Encoded, config: dict[str, Any], **settings: Any) -> tuple[Any, list[float]]:
    with train_adapter(base, data, config, TrainingConfig(**settings), seed=0) as found:
        weights = {n: p.detach().clone() for n, p in found.model.named_parameters() if p.requires_grad}
        return weights, [step.loss for step in found.steps]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_checkpointing": True},
        {"variant": "dora"},
        {"targets": ["q_proj", "lm_head"]},
    ],
)
def test_packing_changes_nothing_in_a_training(
    packing: Base, encoded: Encoded, settings: dict[str, Any]
) -> None:
    """Three steps on all examples, with dropout: masks belong to examples, wherever they stand."""
    alone, losses = trained(packing, encoded, CONFIG, epochs=3, micro_batch=8, **settings)
    for micro_batch in (1, 3):
        blocks = in_blocks(encoded, MOST)
        weights, own = trained(packing, blocks, CONFIG, epochs=3, micro_batch=micro_batch, **settings)
        assert len(own) == 3
        assert np.allclose(own, losses, rtol=1e-5)
        for name, tensor in alone.items():
            assert (weights[name] - tensor).norm() / tensor.norm() < 1e-5, name


def test_rows_that_share_no_pass_train_the_same(packing: Base, encoded: Encoded) -> None:
    """As where attention keeps the examples of one row apart and no more, so that blocks are read singly."""
    blocks = in_blocks(encoded, MOST)
    whole, losses = trained(packing, blocks, CONFIG, micro_batch=8)
    weights, own = trained(replace(packing, packing="single"), blocks, CONFIG, micro_batch=8)
    assert np.allclose(own, losses, rtol=1e-5)
    for name, tensor in whole.items():
        assert (weights[name] - tensor).norm() / tensor.norm() < 1e-5, name


def test_a_batch_has_so_many_blocks_and_counts_their_tokens(packing: Base, encoded: Encoded) -> None:
    blocks = in_blocks(encoded, MOST)
    n = len(blocks)
    with train_adapter(
        packing, blocks, CONFIG | {"batch_size": 4}, TrainingConfig(epochs=2), seed=0
    ) as found:
        assert len(found.steps) == -(-2 * n // 4)
        assert found.tokens == 2 * int(encoded.lengths.sum())


def test_a_start_from_data_sees_examples_and_no_blocks(packing: Base, encoded: Encoded) -> None:
    blocks = in_blocks(encoded, MOST)
    rows = unpacked(blocks)
    found = [
        trained(packing, data, CONFIG | {"learning_rate": 1e-12}, variant="eva", max_steps=1, epochs=None)[0]
        for data in (blocks, rows)
    ]
    for name, tensor in found[1].items():
        assert (found[0][name] - tensor).norm() <= 1e-5 * tensor.norm(), name


# -- runs ---------------------------------------------------------------------------------------------

PACKED = {"packing": True, "max_length": 48}


def space_of(*batches: int) -> dict[str, Any]:
    knobs = {"rank": [4], "alpha_ratio": [2], "batch_size": list(batches), "learning_rate": [1e-3, 1e-2]}
    return {"knobs": {name: {"values": values} for name, values in knobs.items()}}


@pytest.fixture
def objective(run_config: Callable[..., Path]) -> TrainingObjective:
    return TrainingObjective.from_config(load_config(run_config(data=PACKED)))


def test_steps_tokens_batches_and_curves_go_by_blocks(objective: TrainingObjective, tmp_path: Path) -> None:
    sizes = objective.sizes
    assert sizes.blocks is not None
    whole, trial = sizes.blocks
    assert trial < sizes.proxy
    assert trial < whole < sizes.train
    config = {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 4, "learning_rate": 1e-2}
    (tmp_path / "t").mkdir()
    outcome = objective.run(config, seed=1, folder=tmp_path / "t")
    assert outcome.metrics["n_examples"] == sizes.proxy
    assert outcome.metrics["n_blocks"] == trial
    assert outcome.metrics["steps"] == -(-trial // 4)
    found = search_cost([outcome])
    assert found is not None
    assert found.trainings == pytest.approx(sizes.expected, rel=0.1)
    assert outcome.curve is not None
    assert outcome.curve.tokens[-1] == outcome.metrics["tokens"]
    final = objective.final(config, seed=1, folder=tmp_path / "f")
    assert final.metrics["steps"] == -(-whole // 4)
    assert final.metrics["n_blocks"] == whole
    assert final.metrics["tokens"] == final.metrics["full_training_tokens"]
    log = (tmp_path / "f" / "log.txt").read_text()
    assert f"n_examples={sizes.train}" in log.splitlines()[0]
    assert sizes.trials(0.5).endswith(f"packed into {trial} of {whole} blocks; it was scored on 6 of 6 "
                                      "validation examples")  # fmt: skip
    longest = objective.memory.sizes.longest
    assert 40 <= longest < 48  # a block, less its last token


def test_trials_of_a_run_have_the_same_blocks_whatever_their_seed(base: Base, encoded: Encoded) -> None:
    again = encoded.select(np.arange(40))
    one, other = in_blocks(encoded, MOST), in_blocks(again, MOST)
    assert rows_of_tokens(one) == rows_of_tokens(other)


def test_a_run_packs_from_doctor_to_its_recipe(
    run_config: Callable[..., Path], said: Callable[..., str], tmp_path: Path
) -> None:
    path = run_config(data=PACKED, space=space_of(2, 4, 64), search={"trials": 1})
    told = said("doctor", path)
    found = re.search(
        r"48 training examples in (\d+) blocks of at most 48 tokens, .* a trial has (\d+)", told
    )
    assert found, told
    whole, trial = map(int, found.groups())
    assert f"(64) are more than the {trial} blocks of a trial" in told
    assert f"1 at {trial}, {-(-trial // 2)} at 2)" in told  # optimizer steps of a trial, by the batch
    assert found[0] in said("data", path)
    said("tune", path)
    recipe = yaml.safe_load((tmp_path / "run" / "best" / "recipe.yaml").read_text())
    packed = {"packing": True, "packing_strategy": "bfd"}
    assert recipe["sft"] == {"max_length": 48, "completion_only_loss": True} | packed
    trained = recipe["trained"]
    assert (trained["examples"], trained["blocks"]) == (48, whole)
    assert trained["steps"] == -(-whole // trained["effective_batch"])
    SFTConfig(output_dir=str(tmp_path / "o"), use_cpu=True, bf16=False, **recipe["sft"])
    assert f"packed into {trial} of {whole} blocks" in (tmp_path / "run" / "report.md").read_text()


def test_a_smallest_batch_above_the_blocks_of_a_trial_is_refused(
    run_config: Callable[..., Path], loracle: Loracle
) -> None:
    path = run_config(data=PACKED, space=space_of(20))
    for command in ("doctor", "data"):
        code, out, errors = loracle(command, path)
        assert code == 2
        assert "only 7 blocks of training examples; add smaller ones" in out + errors


def test_a_model_that_does_not_keep_examples_apart_is_refused(
    run_config: Callable[..., Path], loracle: Loracle, tmp_path: Path
) -> None:
    kind = next(kind for kind in KINDS if kind.type == "mamba")
    path = run_config(model=str(save_kind(kind, tmp_path / "mamba")), data=PACKED)
    for command in ("doctor", "tune"):
        code, out, errors = loracle(command, path)
        assert code == 2
        assert "(MambaForCausalLM) does not keep the examples of a row apart" in out + errors
    assert not (tmp_path / "run" / "trials").exists()


def test_sizes_of_runs_that_were_begun_before_are_read() -> None:
    before = to_plain(Sizes(10, 5, 4, 3, 2))
    del before["blocks"]
    found = from_plain(Sizes, before)
    assert (found.rows, found.trial_rows) == (10, 5)
    assert from_plain(Sizes, to_plain(replace(found, blocks=(4, 2)))).rows == 4


def test_early_stopping_and_its_costs_go_on_with_blocks(packing: Base, encoded: Encoded) -> None:
    watched = Watched(encoded.select(np.arange(8)), 4)
    stopping = {"evaluations": 3, "patience": 3}
    losses: list[tuple[int, float]] = []
    with train_adapter(
        packing,
        in_blocks(encoded, MOST),
        CONFIG | {"batch_size": 4},
        TrainingConfig.model_validate({"epochs": 2, "early_stopping": stopping}),
        seed=0,
        watched=watched,
        measured=lambda step, loss: losses.append((step, loss)),
    ) as found:
        assert found.kept_step in dict(losses)
        assert losses[-1][0] == len(found.steps)
