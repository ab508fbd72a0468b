from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loracle.errors import ModelError
from loracle.training.model.adapter import restored
from loracle.training.model.base_model import Base
from loracle.training.model.checksum import weights_checksum, weights_fingerprint

KINDS = {
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float64: torch.int64,
    torch.int8: torch.int8,
}


def module_of(*tensors: torch.Tensor) -> torch.nn.Module:
    module = torch.nn.Module()
    for number, tensor in enumerate(tensors):
        module.register_buffer(f"b{number}", tensor)
    return module


@pytest.mark.parametrize("checksum", [weights_fingerprint, weights_checksum])
@given(data=st.data())
def test_every_bit_counts(checksum: object, data: st.DataObject) -> None:
    assert callable(checksum)
    dtype = data.draw(st.sampled_from(list(KINDS)))
    n = data.draw(st.sampled_from([1, 3, 16, 15_001, 100_003]))  # below, at and beyond what is summed at once
    whole = torch.arange(n + 1).remainder(97).to(dtype)
    module = module_of(whole[data.draw(st.integers(0, 1)) :][:n], torch.zeros(0), torch.ones(2, 2))
    before = checksum(module)
    bits = module.get_buffer("b0").view(KINDS[dtype])
    width = 8 * bits.element_size()
    bits[data.draw(st.integers(0, n - 1))] ^= 1 << data.draw(st.integers(0, width - 2))
    assert checksum(module) != before


@pytest.mark.parametrize("checksum", [weights_fingerprint, weights_checksum])
def test_order_counts_and_place_in_memory_does_not(checksum: object) -> None:
    assert callable(checksum)
    some = torch.randn(15, generator=torch.Generator().manual_seed(0))
    found = checksum(module_of(some))
    assert checksum(module_of(some.flip(0))) != found
    moved = torch.cat([torch.zeros(1), some])[1:]  # its words begin within those of eight bytes
    assert checksum(module_of(moved)) == found
    assert checksum(module_of(some, some.clone())) != found


def test_the_fingerprint_is_what_runs_have_recorded() -> None:
    """Word by word in whole numbers of any size, for a tensor longer than what is summed at once."""
    values = torch.randn(70_001, generator=torch.Generator().manual_seed(0))
    words = values.view(torch.int32).tolist()
    total = sum(word * (2 * (place * 0x9E3779B97F4A7) + 1) for place, word in enumerate(words))
    signed = (total + 2**63) % 2**64 - 2**63
    expected = hashlib.sha256(f"b0:(70001,):torch.float32:{signed};".encode()).hexdigest()[:32]
    assert weights_fingerprint(module_of(values)) == expected


def test_complex_and_truth_values_count() -> None:
    for tensor in (torch.zeros(9, dtype=torch.complex64), torch.zeros(9, dtype=torch.bool)):
        module = module_of(tensor)
        before = weights_fingerprint(module), weights_checksum(module)
        tensor[8] = 1
        assert weights_fingerprint(module) != before[0]
        assert weights_checksum(module) != before[1]


def test_a_training_that_changes_one_weight_of_the_base_is_an_error(base: Base) -> None:
    parameter = next(base.model.parameters())
    before = parameter.detach().clone()
    try:
        with pytest.raises(ModelError, match="changed during a training"), restored(base):
            parameter.data.view(torch.int32).view(-1)[7] ^= 1
    finally:
        parameter.data.copy_(before)
    with restored(base):
        pass
