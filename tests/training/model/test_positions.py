from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import copy_rows
from small_tokenizers import make_tokenizer
from test_dropout import losses_of, make_base

from loracle.errors import ModelError
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.model.base_model import Base
from loracle.training.model.batching import check_blocks
from loracle.training.model.checksum import weights_fingerprint
from loracle.training.model.positions import alike, codes_restored, length_breaks

FIRST = 16  # tokens that the model was first trained on


@pytest.fixture(scope="module")
def phi() -> Base:
    """Phi-3 in small, with other frequencies for sequences of more than 16 tokens."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4}
    shape |= {"vocab_size": 96, "intermediate_size": 64, "max_position_embeddings": 128}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": FIRST}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return make_base("phi3", **shape, **ids, original_max_position_embeddings=FIRST, rope_parameters=rope)


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    """Sequences on both sides of the break."""
    rows = [Example(f"t:{i}", **row) for i, row in enumerate(copy_rows(24, 12))]
    data = encode(rows, make_tokenizer(), 64)
    assert data.lengths.min() < FIRST < data.lengths.max() - 1
    return data


def test_models_of_two_lengths_are_known(phi: Base) -> None:
    assert length_breaks(phi.model) == (FIRST,)
    assert length_breaks(make_base("gpt2", n_embd=32, n_layer=1, n_head=4, vocab_size=96).model) == ()


def test_only_sequences_on_one_side_of_a_break_share_a_batch() -> None:
    groups = alike(np.array([9, 17, 16, 40, 17]), (16, 30))
    assert [group.tolist() for group in groups] == [[3], [1, 4], [2, 0]]
    assert [group.tolist() for group in alike(np.array([3, 5, 4]), ())] == [[1, 2, 0]]


def test_the_micro_batch_does_not_decide_how_an_example_is_read(phi: Base, encoded: Encoded) -> None:
    whole = losses_of(phi, encoded, 0.05, 8)
    for micro_batch in (1, 3):
        assert losses_of(phi, encoded, 0.05, micro_batch) == pytest.approx(whole, rel=1e-5)


def test_blocks_stay_within_what_is_read_alike(phi: Base) -> None:
    """Which codes all examples of a row have is the longest one's matter."""
    check_blocks(phi, FIRST)
    with pytest.raises(ModelError, match=r"data.packing: .* set data.max_length to 16, or leave packing out"):
        check_blocks(phi, FIRST + 1)


def test_the_codes_that_were_used_last_do_not_stay(phi: Base) -> None:
    with codes_restored(phi.model), torch.inference_mode():
        phi.model(input_ids=torch.ones((1, FIRST + 4), dtype=torch.long))
        assert weights_fingerprint(phi.model) != phi.fingerprint
    assert weights_fingerprint(phi.model) == phi.fingerprint
