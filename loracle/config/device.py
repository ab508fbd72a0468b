"""Where models live and in which precision: the words of a config file as torch's own, for both halves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loracle.errors import ConfigError

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """The torch device of that name; `auto` takes the current CUDA device, then MPS, then the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:  # which of them matters where there are several
            return torch.empty(1, device=device).device
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device: {name!r} cannot be used here ({reason}); set device: auto") from None
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`float32`, `bfloat16` or `float16`; `auto` takes bfloat16 on a CUDA device that has it."""
    import torch

    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    found: torch.dtype = getattr(torch, name)
    return found
