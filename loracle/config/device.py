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
    except RuntimeError:
        raise ConfigError(f"device: {name!r} is none that PyTorch knows; {_there()}") from None
    try:
        device = torch.empty(1, device=device).device  # which cuda matters where there are several
        torch.zeros(1, device=device).item()  # of some, such as meta, nothing can be read
    except Exception as error:  # of a kind that depends on the device
        raise ConfigError(f"device: {name!r} cannot be used here{_why(error)}; {_there()}") from None
    return device


def _why(error: Exception) -> str:
    """torch's reason in brackets, unless it speaks of its own operators alone."""
    reason = str(error).split("\n")[0].split(". ")[0].rstrip(".")
    return "" if not reason or "Could not run 'aten::" in reason else f" ({reason})"


def _there() -> str:
    """What this PyTorch can use of this machine, in words, and what to do."""
    import torch

    kinds = [kind for kind in ("cuda", "mps", "xpu") if getattr(torch, kind).is_available()]
    return f"there is {' and '.join(['cpu', *kinds])} for PyTorch {torch.__version__}; set device: auto"


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`float32`, `bfloat16` or `float16`; `auto` takes bfloat16 on a CUDA device that has it."""
    import torch

    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    found: torch.dtype = getattr(torch, name)
    return found
