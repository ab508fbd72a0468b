"""Global random states, kept where foreign code draws from them or seeds them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Afterwards Python's, NumPy's and torch's global generators are as they were, on all devices."""
    python, numpy = random.getstate(), np.random.get_state()
    torch_state = torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)
        if devices:
            torch.cuda.set_rng_state_all(devices)
