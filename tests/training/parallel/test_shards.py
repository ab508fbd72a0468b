"""The layers of a base model, divided between processes: what each holds, and for which models it works."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from architectures import KINDS, Kind, save_kind
from conftest import copy_rows, save_tiny_model
from transformers import LlamaForCausalLM

from loracle.config.settings import RunConfig, TrainingConfig
from loracle.errors import ModelError
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.loop import train_adapter
from loracle.training.model.adapter import restored
from loracle.training.model.base_model import Base, counted_logits, load_base
from loracle.training.model.batching import observed
from loracle.training.model.probe import probe
from loracle.training.model.saved_adapter import two_sequences
from loracle.training.parallel.group import Group
from loracle.training.parallel.peers import Peers
from loracle.training.parallel.shards import ShardedLayers

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.1, "batch_size": 4, "learning_rate": 1e-2}
N_LAYERS = 12


def loaded(folder: Path, *, divided: bool) -> Base:
    """A model whose layers are in one memory by turns, though a single process holds all parts of them."""

    def divide(model: Any, device: torch.device) -> ShardedLayers:
        layers = ShardedLayers(model, device, Group())
        layers.check()
        return layers

    config = RunConfig.model_validate({"model": str(folder), "data": {"train": "none"}, "device": "cpu"})
    return load_base(config, divide if divided else None)


def examples(base: Base) -> Encoded:
    rows = [Example(f"t:{i}", **row) for i, row in enumerate(copy_rows(8, 8))]
    return encode(rows, base.tokenizer, 64, stop_ids=base.stop_ids)


def trained(base: Base, settings: TrainingConfig) -> tuple[list[float], dict[str, torch.Tensor]]:
    encoded = examples(base)
    found = probe(base, settings, encoded.tokens, dropout=0.1, writes=False)
    with train_adapter(found.base, encoded, CONFIG, found.settings, seed=0) as done:
        weights = {n: p.detach().clone() for n, p in done.model.named_parameters() if p.requires_grad}
        return [step.loss for step in done.steps], weights


# -- which models ------------------------------------------------------------------------------------


def check(kind: Kind, folder: Path, settings: TrainingConfig) -> None:
    """Losses and adapters are those of the whole model, to the bit."""
    save_kind(kind, folder)
    whole, divided = (loaded(folder, divided=one) for one in (False, True))
    assert divided.fingerprint == whole.fingerprint
    losses, weights = trained(divided, settings)
    expected, others = trained(whole, settings)
    assert losses == expected
    assert all(torch.equal(weights[name], tensor) for name, tensor in others.items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text", "mixtral", "mamba", "falcon_h1"])
def test_a_divided_model_trains_as_the_whole_one(name: str, tmp_path: Path) -> None:
    check(next(kind for kind in KINDS if kind.type == name), tmp_path, TrainingConfig())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [pytest.param(k, id=k.type) for k in KINDS if not k.refused])
def test_more_kinds_of_models_can_be_divided(kind: Kind, tmp_path: Path) -> None:
    check(kind, tmp_path, TrainingConfig())


@pytest.mark.filterwarnings("ignore")
def test_weights_of_experts_and_modules_of_a_layer_are_trained_as_in_the_whole_model(tmp_path: Path) -> None:
    experts = next(kind for kind in KINDS if kind.type == "mixtral")
    more = {"targets": ["q_proj", "experts.down_proj"], "modules_to_save": ["input_layernorm", "lm_head"]}
    plain = Kind(experts.type, experts.what, sizes=experts.sizes)
    save_kind(plain, tmp_path)
    results = []
    for divided in (False, True):
        base = loaded(tmp_path, divided=divided)
        encoded = examples(base)
        settings = TrainingConfig.model_validate(more)
        with train_adapter(base, encoded, CONFIG | {"dropout": 0.0}, settings, seed=0) as done:
            results.append([step.loss for step in done.steps])
    assert results[0] == results[1]


class Borrows(LlamaForCausalLM):  # type: ignore[misc]
    """A model in which the first layer's weights are used behind the last one."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        found = super().forward(*arguments, **named)
        found.logits = found.logits * (1 + self.model.layers[0].mlp.up_proj.weight.mean())
        return found


def test_a_model_that_uses_a_layers_weights_elsewhere_is_refused(tmp_path: Path) -> None:
    model = Borrows.from_pretrained(save_tiny_model(tmp_path, num_hidden_layers=3)).requires_grad_(False)
    layers = ShardedLayers(model.eval(), torch.device("cpu"), Group())
    with pytest.raises(ModelError, match="uses weights of a layer outside of that layer"):
        layers.check()


def test_a_model_without_a_list_of_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no list of layers with weights of their own; leave shard_model"):
        loaded(save_tiny_model(tmp_path, num_hidden_layers=1), divided=True)


def test_what_is_written_into_a_layer_is_gone_after_a_training(tmp_path: Path) -> None:
    base = loaded(save_tiny_model(tmp_path), divided=True)
    batch = two_sequences(base, examples(base).tokens)
    before = counted_logits(base, batch)
    with restored(base):
        base.model.model.layers[1].mlp.up_proj.weight.data.add_(1.0)  # it is the layer that was needed last
    assert torch.equal(counted_logits(base, batch), before)
    with pytest.raises(ModelError, match="changed during a training"), restored(base):
        base.model.model.norm.weight.data.add_(1.0)


# -- what each of two processes holds ----------------------------------------------------------------


class Two(NamedTuple):
    """Two processes that share a model of many layers, and that model as the first of them has it."""

    group: Group
    base: Base
    before: int  # bytes of tensors that were there


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "deep"
    return save_tiny_model(folder, num_hidden_layers=N_LAYERS, hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def two(deep_model: Path) -> Iterator[Two]:
    config = RunConfig.model_validate(
        {
            "model": str(deep_model),
            "data": {"train": "none.jsonl"},
            "device": "cpu",
            "execution": {"processes_per_trial": 2, "shard_model": True},
        }
    )
    before = tensor_bytes()
    base, group = Peers(config).load_base(config)
    yield Two(group, base, before)
    group.close()


def tensor_bytes(base: Base | None = None) -> int:
    """Bytes of the memory of all tensors that there are in this process."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu"]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.slow
def test_each_process_holds_half_of_the_layers(two: Two, deep_model: Path) -> None:
    here = tensor_bytes() - two.before
    whole = load_base(RunConfig.model_validate({"model": str(deep_model), "data": {"train": "none"}}))
    layers = sum(p.nbytes for p in whole.model.model.layers.parameters())
    rest = sum(p.nbytes for p in whole.model.parameters()) - layers
    encoded = examples(two.base)
    with train_adapter(two.base, encoded, CONFIG | {"rank": 1}, TrainingConfig(), seed=0, group=two.group):
        mine, there = two.group.at_once(lambda: 0, tensor_bytes, [()])
    assert mine == 0
    # Half of all layers, one layer in full, and little else: the adapter, and tables of positions.
    expected = layers / 2 + layers / N_LAYERS + rest
    for held in (here, there):
        assert expected <= held <= expected + layers / 10
    assert two.base.held_bytes == pytest.approx(expected, rel=0.02)
    assert two.base.held_bytes < 0.65 * two.base.layers.whole_bytes  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_first_process_reads_alone_what_it_has_to(two: Two, deep_model: Path) -> None:
    """Probes, memory and scores of the base model, while the other one has nothing to do but to help."""
    whole = observed(loaded(deep_model, divided=False), examples(two.base).tokens, writes=True, chooses=True)
    own = observed(two.base, examples(two.base).tokens, writes=True, chooses=True)
    flags = ("reading", "writing", "continuing", "output", "masked_logits", "fingerprint")
    assert [getattr(own, flag) for flag in flags] == [getattr(whole, flag) for flag in flags]
    found = probe(two.base, TrainingConfig(), examples(two.base).tokens, dropout=0.1, writes=True)
    assert len(found.adapted) == 7 * N_LAYERS
    losses, _ = trained(whole, TrainingConfig())
    with train_adapter(
        two.base, examples(two.base), CONFIG, TrainingConfig(), seed=0, group=two.group
    ) as done:
        assert [step.loss for step in done.steps] == pytest.approx(losses, abs=1e-4)
