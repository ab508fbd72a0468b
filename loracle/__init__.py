"""Loracle finds good LoRA hyperparameters for your model and data in about 30 short trainings.

Names load on first use, so `import loracle` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Knob": "space",
    "SearchSpace": "space",
    "default_space": "space",
    "paper_space": "space",
    "LoracleError": "errors",
    "Failure": "trial",
    "FailureKind": "trial",
    "History": "trial",
    "Outcome": "trial",
    "Trial": "trial",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"loracle.{_HOME[name]}"), name)
    raise AttributeError(f"module 'loracle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
