from __future__ import annotations

import pytest
import torch

from loracle.config.device import pick_device, pick_dtype
from loracle.errors import ConfigError


def test_auto_takes_the_fastest_device_there_is() -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device("auto").type == best
    assert pick_device("cpu") == torch.device("cpu")


ELSEWHERE = ["cuda:99", "xpu:99", "hpu", "vulkan", "meta"] + ["mps"] * (not torch.backends.mps.is_available())


@pytest.mark.parametrize(
    ("name", "said"),
    [*((name, "cannot be used here") for name in ELSEWHERE), ("npus", "is none that PyTorch knows")],
)
def test_devices_that_are_not_there_are_refused_in_one_line(name: str, said: str) -> None:
    """With what there is, and without torch's list of its backends."""
    with pytest.raises(
        ConfigError, match=rf"device: '{name}' {said}.*; there is cpu.*; set device: auto$"
    ) as e:
        pick_device(name)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 220


def test_dtypes() -> None:
    cpu = torch.device("cpu")
    assert pick_dtype("auto", cpu) == torch.float32
    assert pick_dtype("float32", cpu) == torch.float32
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16
