"""Loracle finds good LoRA hyperparameters for your model and data in about 30 short trainings.

Names load on first use, so `import loracle` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that editors and type checkers know the names too
    from loracle.errors import LoracleError as LoracleError
    from loracle.optimizer import Optimizer as Optimizer
    from loracle.sampler import LoracleSampler as LoracleSampler
    from loracle.space import Knob as Knob
    from loracle.space import SearchSpace as SearchSpace
    from loracle.space import default_space as default_space
    from loracle.space import paper_space as paper_space
    from loracle.trial import Failure as Failure
    from loracle.trial import FailureKind as FailureKind
    from loracle.trial import History as History
    from loracle.trial import Outcome as Outcome
    from loracle.trial import Trial as Trial

__version__ = "0.1.0"

_HOME = {
    "Failure": "trial",
    "FailureKind": "trial",
    "FixedFeatures": "features",
    "History": "trial",
    "Knob": "space",
    "LoracleError": "errors",
    "LoracleSampler": "sampler",
    "Optimizer": "optimizer",
    "Outcome": "trial",
    "PRESETS": "optimizer",
    "Preset": "optimizer",
    "RunConfig": "config",
    "SearchSpace": "space",
    "Trial": "trial",
    "build_features": "features",
    "default_space": "space",
    "load_config": "config",
    "load_language_model": "language",
    "load_prompt": "prompt",
    "paper_space": "space",
    "propose": "optimizer",
    "tune": "tune",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"loracle.{_HOME[name]}"), name)
    raise AttributeError(f"module 'loracle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
