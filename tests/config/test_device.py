from __future__ import annotations

import pytest
import torch

from loracle.config.device import pick_device, pick_dtype
from loracle.errors import ConfigError


def test_auto_takes_the_fastest_device_there_is() -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device("auto").type == best
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["nonsense", "cuda:99"])
def test_unknown_devices_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"device: '{name}' cannot be used here .*; set device: auto") as e:
        pick_device(name)
    assert "\n" not in str(e.value)


def test_dtypes() -> None:
    cpu = torch.device("cpu")
    assert pick_dtype("auto", cpu) == torch.float32
    assert pick_dtype("float32", cpu) == torch.float32
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16
