"""The effective batch is split exactly, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loracle.errors import StudyError
from loracle.export.winner.split import split_batch


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 64))
def test_the_product_is_the_batch(share: int, devices: int, largest: int) -> None:
    split = split_batch(share * devices, devices, largest=largest)
    assert split.devices * split.micro * split.accumulation == share * devices
    assert split.micro <= largest


@pytest.mark.parametrize(
    ("devices", "micro", "said"),
    [(5, None, "numbers that divide it: 1, 2, 3, 4, 6, 12"), (2, 4, "does not divide the 6 .* 1, 2, 3, 6")],
)
def test_what_does_not_divide_is_refused_with_what_does(devices: int, micro: int | None, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        split_batch(12, devices, largest=8, micro=micro)


def test_a_micro_batch_that_is_asked_for_is_kept() -> None:
    assert str(split_batch(12, 2, largest=1, micro=3)) == (
        "effective batch 12 = 2 devices x micro-batch 3 x accumulation 2"
    )
