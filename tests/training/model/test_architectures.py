"""Every kind of model: adapted, trained, detached, read back, merged and written by; or refused in a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import KINDS, SHARED, Kind, save_kind, table
from conftest import copy_rows
from peft import AutoPeftModelForCausalLM
from places import ROOT

from loracle.config.metrics.settings import ScoringConfig
from loracle.config.settings import RunConfig, TrainingConfig
from loracle.config.training.plan import plan_training
from loracle.errors import LoracleError
from loracle.training.dataset.blocks import in_blocks
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.generation import generate
from loracle.training.loop import EffectiveBatch, accumulate, train_adapter
from loracle.training.model.adapter import adapted, layers_of, restored
from loracle.training.model.base_model import Base, load_base
from loracle.training.model.batching import observed
from loracle.training.model.dropout import Masks, key_dropout, training_mode
from loracle.training.model.probe import Probed, probe
from loracle.training.model.saved_adapter import SavedAdapter, two_sequences

# PEFT's, about what its own files say; the values are compared here.
pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.1, "batch_size": 8, "learning_rate": 1e-2}


@pytest.mark.parametrize("kind", [pytest.param(k, id=k.type) for k in KINDS if k.fast])
def test_every_kind_of_model_works_or_is_refused_in_one_line(kind: Kind, tmp_path: Path) -> None:
    check(kind, tmp_path)


@pytest.mark.parametrize("name", ["llama", "mixtral", "rwkv", "bert"])
def test_the_probe_says_the_same_in_bfloat16(name: str, tmp_path: Path) -> None:
    kind = next(kind for kind in KINDS if kind.type == name)
    model, data = str(save_kind(kind, tmp_path / "m")), {"train": "none"}
    config = {"model": model, "data": data, "device": "cpu", "dtype": "bfloat16"}
    base = load_base(RunConfig.model_validate(config))
    if kind.refused:
        with pytest.raises(LoracleError, match=kind.refused):
            probed(base)
    else:
        assert tuple(notice.name for notice in probed(base)[0].notices) == kind.notices


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(k, id=k.type) for k in KINDS if not k.fast])
def test_more_kinds_of_models_work_or_are_refused_in_one_line(kind: Kind, tmp_path: Path) -> None:
    check(kind, tmp_path)


def test_the_table_of_the_documentation_is_this_one() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert table() in page
    assert len(KINDS) >= 40


def check(kind: Kind, folder: Path) -> None:
    save_kind(kind, folder / "model")
    data = {"train": folder / "none.jsonl"}
    config = {"model": str(folder / "model"), "data": data, "device": "cpu", "dtype": "float32"}
    if kind.refused:
        with pytest.raises(LoracleError, match=kind.refused) as caught:
            probed(load_base(RunConfig.model_validate(config)))
        assert "\n" not in str(caught.value)
        return
    base = load_base(RunConfig.model_validate(config))
    before = list(identities(base.model))
    weights = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    found, encoded = probed(base)
    assert tuple(notice.name for notice in found.notices) == kind.notices
    assert list(identities(base.model)) == before

    micro_batches_agree(found, encoded)
    packing_agrees_or_is_refused(kind, found, encoded)
    with restored(found.base):  # recurrent models keep states
        written = [generate(found.base, encoded, of_size(size))[0] for size in (8, 1)]
    assert written[0] == written[1]

    batch = two_sequences(found.base, encoded.tokens)
    saved = SavedAdapter(found.base, encoded.tokens, folder / "best")
    with train_adapter(found.base, encoded, CONFIG, found.settings, seed=0) as trained:
        with torch.inference_mode():
            logits = trained.model(input_ids=batch.inputs, use_cache=False).logits
            untrained = base_logits(trained.model, batch.inputs)
        saved.write(trained.model, trained.start)
    saved.finish()
    assert list(identities(base.model)) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in base.model.state_dict().items())

    read = AutoPeftModelForCausalLM.from_pretrained(str(folder / "best")).eval()  # the line of the README
    with torch.inference_mode():
        again = read(input_ids=batch.inputs, use_cache=False).logits
        if SHARED not in kind.notices:  # PEFT would merge each adapter into all places
            merged = read.merge_and_unload()(input_ids=batch.inputs, use_cache=False).logits
    effect = float((logits - untrained).abs().max())
    assert effect > 1e-2
    torch.testing.assert_close(again, logits, rtol=0, atol=1e-4 * effect + 1e-5)
    if SHARED not in kind.notices:
        torch.testing.assert_close(merged, logits, rtol=0, atol=1e-3 * effect + 1e-5)


def of_size(batch_size: int) -> ScoringConfig:
    return ScoringConfig(metric="exact_match", max_new_tokens=4, batch_size=batch_size)


def base_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with model.disable_adapter():
        return model(input_ids=ids, use_cache=False).logits


def probed(base: Base) -> tuple[Probed, Encoded]:
    rows = copy_rows(8, 6)
    examples = [Example(f"t:{i}", **row) for i, row in enumerate(rows)]
    encoded = encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)
    return probe(base, TrainingConfig(), encoded.tokens, dropout=0.1, writes=True), encoded


def micro_batches_agree(found: Probed, encoded: Encoded) -> None:
    gradients_agree(found, found.base, [(encoded, 8), (encoded, 3), (encoded, 1)])


def packing_agrees_or_is_refused(kind: Kind, found: Probed, encoded: Encoded) -> None:
    """Blocks of two to three examples, with dropout, against the same examples one by one."""
    with restored(found.base):
        if not kind.packs:
            with pytest.raises(
                LoracleError, match=r"data\.packing: .* does not keep the examples of"
            ) as caught:
                observed(found.base, encoded.tokens, writes=False, packs=True)
            assert "\n" not in str(caught.value)
            return
        base = observed(found.base, encoded.tokens, writes=False, packs=True)
    blocks = in_blocks(encoded, 2 * int(encoded.lengths.max()))
    assert len(blocks) < len(encoded)
    gradients_agree(found, base, [(encoded, 8), (blocks, 8), (blocks, 1)])


def gradients_agree(found: Probed, base: Base, ways: list[tuple[Encoded, int]]) -> None:
    """The gradient of all adapter weights, at a point where none of them is zero by construction."""
    with adapted(base, plan_training(CONFIG, found.settings, 8)) as model:
        torch.manual_seed(1)
        with torch.no_grad():
            for layer in layers_of(model):
                for parameter in layer.trained():
                    parameter.add_(0.05 * torch.randn_like(parameter))
        masks = Masks(0, base.device)
        key_dropout(base.model, masks, kept_logits=base.counted_alone)
        gradients = []
        for data, micro_batch in ways:
            with training_mode(model):
                n = len(data)
                whole = EffectiveBatch(0, np.arange(n), data.positions, int(data.counts.sum()))
                accumulate(base, data, whole, masks, micro_batch, ())
            parameters = [p for p in model.parameters() if p.requires_grad]
            gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
            model.zero_grad(set_to_none=True)
    assert float(gradients[0].norm()) > 0
    for own in gradients[1:]:
        assert float((own - gradients[0]).norm() / gradients[0].norm()) < 1e-5


def identities(model: torch.nn.Module) -> Iterator[tuple[str, object]]:
    """All that makes up a model, by name and identity: modules, their classes, parameters, buffers, hooks."""
    for name, module in model.named_modules(remove_duplicate=False):
        yield name, (id(module), type(module))
        for attribute, value in sorted(vars(module).items()):
            if isinstance(value, dict):
                yield f"{name}.{attribute}", [(key, id(inside)) for key, inside in value.items()]
            else:
                yield f"{name}.{attribute}", id(value)
    for name, parameter in model.named_parameters():
        yield name, (parameter.data_ptr(), parameter.requires_grad)
