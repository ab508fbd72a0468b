"""Whatever trains can be saved, is read back by plain PEFT on a fresh model, and gives the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import copy_rows
from peft import PeftModel
from transformers import AutoModelForCausalLM

from loracle.config.settings import TrainingConfig
from loracle.config.training.optimizers import OPTIMIZERS
from loracle.config.training.variants import VARIANTS
from loracle.errors import ConfigError
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.loop import train_adapter
from loracle.training.model.base_model import Base
from loracle.training.model.checksum import weights_fingerprint
from loracle.training.model.saved_adapter import SavedAdapter

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.1, "batch_size": 8, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def encoded(base: Base) -> Encoded:
    examples = [Example(f"t:{i}", **row) for i, row in enumerate(copy_rows(40, 6))]
    return encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)


@pytest.mark.filterwarnings(
    "ignore:Model has `tie_word_embeddings=True`:UserWarning"
)  # `saved_apart` says it
@pytest.mark.parametrize(
    "settings",
    [
        *({"variant": name} for name in VARIANTS),
        *({"optimizer": name} for name in OPTIMIZERS),
        {"lora_plus_ratio": 8},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"], "variant": "pissa"},
        {"targets": ["mlp.up_proj"], "variant": "eva", "optimizer": "lora_fa"},
        {"early_stopping": 1, "variant": "olora"},
    ],
    ids=str,
)
def test_plain_peft_reads_what_was_trained(
    base: Base, encoded: Encoded, tiny_model: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    pytest.importorskip(OPTIMIZERS[settings.get("optimizer", "adamw")].package or "torch")
    before = weights_fingerprint(base.model)
    ids = torch.from_numpy(encoded.tokens[:12].astype(np.int64))[None]
    saved = SavedAdapter(base, encoded.tokens, tmp_path / "adapter")
    training = TrainingConfig.model_validate({"epochs": 2} | settings)
    with torch.inference_mode():
        untrained = base.model(input_ids=ids).logits
    with train_adapter(base, encoded, CONFIG, training, seed=0) as trained:
        losses = [step.loss for step in trained.steps]
        with torch.inference_mode():
            expected = base.model(input_ids=ids).logits
        saved.write(trained.model, trained.start)
    saved.finish()
    assert losses[-1] < losses[0]
    assert weights_fingerprint(base.model) == before
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / "adapter")
    with torch.inference_mode():
        found = plain(input_ids=ids).logits
    moved = (expected - untrained).abs().max()
    assert moved > 1e-4
    assert (found - expected).abs().max() <= 1e-3 * moved + 1e-5


def test_a_start_from_few_tokens_ends_and_one_that_cannot_be_is_refused(base: Base) -> None:
    """PEFT goes on for ever where each batch has fewer tokens than twice the rank."""
    few = encode([Example("t:0", **copy_rows(1, 6)[0])], base.tokenizer, 64, stop_ids=base.stop_ids)
    tokens = int(few.lengths.sum()) - 1
    settings = TrainingConfig(variant="eva", epochs=1)

    def trained(rank: int, rows: Encoded) -> None:
        with train_adapter(base, rows, CONFIG | {"rank": rank}, settings, seed=0) as found:
            assert found.steps

    trained(tokens // 2 + 1, few)
    with pytest.raises(ConfigError, match=f"as many tokens: the training data of a trial have {tokens};"):
        trained(tokens + 1, few)


def test_a_rank_above_a_modules_width_starts_from_as_many_directions_as_there_are(
    base: Base, encoded: Encoded
) -> None:
    rank = base.model.config.hidden_size + 1
    settings = TrainingConfig(variant="eva", epochs=1)
    with train_adapter(base, encoded, CONFIG | {"rank": rank}, settings, seed=0) as found:
        assert found.model.peft_config["default"].rank_pattern
        assert all(0 < len(p) < rank for n, p in found.model.named_parameters() if "lora_A" in n)
