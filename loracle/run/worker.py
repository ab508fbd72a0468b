"""The program that a worker runs: `python -P worker.py FD`, with the driver on the socket FD.

And the one place that makes an objective of a run's config.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loracle.config.settings import RunConfig
    from loracle.records.objective import Objective

PROGRAM = Path(__file__)


def load_objective(config: RunConfig, tokenizer: Any | None = None) -> Objective:
    """The objective that a run's config names: the built-in trainer, or one of the user's own.

    `tokenizer` is the config's, where it is loaded already.

    Raises:
        LoracleError: see `TrainingObjective.from_config` and `ExternalObjective.from_config`.
    """
    from loracle.run.search import reads_in_worker

    objective = _objective(config, tokenizer)
    if reads_in_worker(config):
        from loracle.run.reading import ReadingObjective

        return ReadingObjective(objective, config)
    return objective


def load_in_worker(config: RunConfig) -> Objective:
    """As `load_objective`, with less memory, in a process that nobody else imports anything in."""
    if config.objective is not None:
        return load_objective(config)
    from loracle.training.memory.start import begin

    return load_objective(config, begin(config))


def _objective(config: RunConfig, tokenizer: Any | None) -> Objective:
    if config.objective is not None:
        from loracle.own_trainer.objective import ExternalObjective

        return ExternalObjective.from_config(config)
    from loracle.training.objective import TrainingObjective

    return TrainingObjective.from_config(config, tokenizer, with_peers=True)


def _take_package_of_driver() -> None:
    """Imports the package that this file is in, wherever it lies, and whatever else is installed."""
    folder = Path(__file__).parent.parent
    found = importlib.util.spec_from_file_location(
        "loracle", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert found is not None
    assert found.loader is not None
    package = importlib.util.module_from_spec(found)
    sys.modules["loracle"] = package
    found.loader.exec_module(package)


if __name__ in ("__main__", "__mp_main__"):  # a worker, or another process of its trials
    _take_package_of_driver()
if __name__ == "__main__":
    from loracle.execution.worker import serve
    from loracle.run.worker import load_in_worker as load

    serve(int(sys.argv[1]), load)
