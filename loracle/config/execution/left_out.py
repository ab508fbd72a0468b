"""Packages that libraries import wherever they find them, kept out of processes that do not need them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

QUANTIZER = "bitsandbytes"  # 46 MB, with torch's compiler, and a second of processor time


@contextmanager
def left_out(*packages: str) -> Iterator[None]:
    """In this block these packages are as if they were not installed; those that are imported stay."""
    modules: dict[str, Any] = sys.modules
    absent = [name for name in packages if name not in modules]
    modules.update(dict.fromkeys(absent))  # None is Python's own sign for what cannot be imported
    try:
        yield
    finally:
        for name in absent:
            modules.pop(name, None)
