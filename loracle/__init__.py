"""Loracle finds good LoRA hyperparameters for your model and data for less than a training costs.

Names load on first use, so `import loracle` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that editors and type checkers know the names too
    from loracle.errors import LoracleError as LoracleError
    from loracle.records.space import Knob as Knob
    from loracle.records.space import SearchSpace as SearchSpace
    from loracle.records.space import UserBeliefs as UserBeliefs
    from loracle.records.space import default_space as default_space
    from loracle.records.space import paper_space as paper_space
    from loracle.records.trial import Failure as Failure
    from loracle.records.trial import FailureKind as FailureKind
    from loracle.records.trial import History as History
    from loracle.records.trial import Outcome as Outcome
    from loracle.records.trial import Trial as Trial
    from loracle.search.optimizer import Optimizer as Optimizer
    from loracle.search.optuna_sampler.pruner import LoraclePruner as LoraclePruner
    from loracle.search.optuna_sampler.sampler import LoracleSampler as LoracleSampler

__version__ = "0.1.0"

_HOME = {
    "Failure": "records.trial",
    "FailureKind": "records.trial",
    "FixedFeatures": "language.features",
    "History": "records.trial",
    "Knob": "records.space",
    "LoracleError": "errors",
    "LoraclePruner": "search.optuna_sampler.pruner",
    "LoracleSampler": "search.optuna_sampler.sampler",
    "Optimizer": "search.optimizer",
    "Outcome": "records.trial",
    "PRESETS": "search.presets",
    "Preset": "search.presets",
    "RunConfig": "config.settings",
    "SearchSpace": "records.space",
    "Trial": "records.trial",
    "UserBeliefs": "records.space",
    "build_features": "language.features",
    "default_space": "records.space",
    "load_config": "config.loading",
    "load_language_model": "language.reader",
    "load_prompt": "language.prompt",
    "load_run": "loaded_run",
    "paper_space": "records.space",
    "propose": "search.propose",
    "suggest": "search.suggestion",
    "tune": "run.tune",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"loracle.{_HOME[name]}"), name)
    raise AttributeError(f"module 'loracle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
