"""Trackers as listeners of a search: TensorBoard, Weights & Biases, trackio, MLflow.

    with tracker("tensorboard", folder="logs") as listen:
        loracle.tune(config, listen)

Names are those of transformers' `report_to`. Each trial is a run of the tracker's own, with its config, its
losses and its score. A tracker is imported when it is asked for, and its own settings (`WANDB_MODE=offline`,
`MLFLOW_TRACKING_URI`, ...) are heeded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Protocol

from loracle.errors import ConfigError, suggest
from loracle.records.events import Event, Listener, Step, TrialFinished, TrialStarted
from loracle.records.failures import raised
from loracle.records.space import Config


class Run(Protocol):
    """One trial in a tracker."""

    def log(self, numbers: Mapping[str, float], step: int | None) -> None: ...

    def close(self, failure: str | None) -> None: ...


Opener = Callable[[str, Config, Path, str], Run]  # the trial's name, its config, a folder, a project


@contextmanager
def tracker(
    name: str, folder: str | Path = "runs", *, project: str = "loracle", also: Listener | None = None
) -> Iterator[Listener]:
    """A listener that keeps every trial in a tracker, for `tune` and `hf.search`.

    Args:
        name: `tensorboard`, `wandb`, `trackio` or `mlflow`.
        folder: where TensorBoard's files are written, a folder a trial; the others have places of their own.
        project: that the others file the trials under.
        also: another listener that is told of everything first, such as the display.

    Raises:
        ConfigError: no such tracker, or it is not installed.
    """
    open_run = opener(name)
    runs: dict[int, Run] = {}

    def listen(event: Event) -> None:
        if also is not None:
            also(event)
        if isinstance(event, TrialStarted):
            runs[event.number] = open_run(f"trial-{event.number:04d}", event.config, Path(folder), project)
        elif isinstance(event, Step) and event.loss is not None and event.number in runs:
            if math.isfinite(event.loss):
                runs[event.number].log({"training/loss": event.loss}, event.done)
        elif isinstance(event, TrialFinished) and event.trial.number in runs:
            _end(runs.pop(event.trial.number), event)

    try:
        yield listen
    finally:
        for run in runs.values():
            run.close("interrupted")


def opener(name: str) -> Opener:
    """What begins a run of a tracker. Raises ConfigError: no such tracker, or it is not installed."""
    if name not in TRACKERS:
        raise ConfigError(
            f"there is no tracker {name!r}{suggest(name, list(TRACKERS)).replace('it has', 'there are')}"
        )
    package, open_run = TRACKERS[name]
    try:
        import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"{name} is not installed: pip install {package.partition('.')[0]} ({error})"
        ) from None
    return open_run


@contextmanager
def tracked(
    names: Sequence[str], folder: Path, listen: Listener, tell: Callable[[str], None]
) -> Iterator[Listener]:
    """A listener, and trackers beside it. One that fails is told of once, and the search goes on without it.

    Args:
        names: of the trackers, as `report_to` has them.
        folder: of the run, where TensorBoard's files are written.
        listen: is told of everything first.
        tell: is given what went wrong, in one line.

    Raises:
        ConfigError: a tracker is not installed.
    """
    opened: dict[str, AbstractContextManager[Listener]] = {
        name: tracker(name, folder / name) for name in names
    }
    there = {name: context.__enter__() for name, context in opened.items()}

    def attempt(name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # of other people's packages: a network that is gone, a full disk
            if there.pop(name, None) is not None:
                tell(f"{name} is told nothing more: {raised(error)}")

    def listen_all(event: Event) -> None:
        listen(event)
        for name, told in list(there.items()):
            attempt(name, partial(told, event))

    try:
        yield listen_all
    finally:
        for name, context in opened.items():
            attempt(name, partial(context.__exit__, None, None, None))


def _end(run: Run, event: TrialFinished) -> None:
    outcome = event.trial.outcome
    assert outcome is not None
    numbers = {f"trial/{name}": number for name, number in outcome.metrics.items()}
    numbers["trial/seconds"] = outcome.seconds
    if outcome.value is not None:
        numbers["trial/value"] = outcome.value
    run.log({name: number for name, number in numbers.items() if math.isfinite(number)}, None)
    run.close(None if outcome.failure is None else f"{outcome.failure.kind}: {outcome.failure.message}")


class _TensorBoard:
    def __init__(self, name: str, config: Config, folder: Path, project: str) -> None:
        self._writer = import_module("torch.utils.tensorboard").SummaryWriter(str(folder / name))
        texts = {knob: value if isinstance(value, str) else f"{value:g}" for knob, value in config.items()}
        self._writer.add_text("config", "\n".join(f"    {knob}: {text}" for knob, text in texts.items()))

    def log(self, numbers: Mapping[str, float], step: int | None) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def close(self, failure: str | None) -> None:
        if failure is not None:
            self._writer.add_text("failure", failure)
        self._writer.close()


class _Wandb:
    """Weights & Biases, and trackio, which has its functions."""

    package = "wandb"
    options: Mapping[str, str] = {"reinit": "create_new"}  # trials may run at once

    def __init__(self, name: str, config: Config, folder: Path, project: str) -> None:
        package = import_module(self.package)
        self._run = package.init(project=project, name=name, config=dict(config), **self.options)

    def log(self, numbers: Mapping[str, float], step: int | None) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self, failure: str | None) -> None:
        if failure is not None:
            self._run.log({"trial/failed": 1.0})
        self._run.finish()


class _Trackio(_Wandb):
    package = "trackio"
    options: Mapping[str, str] = {}


class _Mlflow:
    def __init__(self, name: str, config: Config, folder: Path, project: str) -> None:
        self._client = import_module("mlflow").MlflowClient()
        found = self._client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self._client.create_experiment(project)
        self._id = self._client.create_run(experiment, run_name=name).info.run_id
        for knob, value in config.items():
            self._client.log_param(self._id, knob, value)

    def log(self, numbers: Mapping[str, float], step: int | None) -> None:
        for name, number in numbers.items():
            self._client.log_metric(self._id, name, number, step=step or 0)

    def close(self, failure: str | None) -> None:
        if failure is not None:
            self._client.set_tag(self._id, "failure", failure)
        self._client.set_terminated(self._id, "FINISHED" if failure is None else "FAILED")


TRACKERS: Mapping[str, tuple[str, Opener]] = {
    "tensorboard": ("torch.utils.tensorboard", _TensorBoard),
    "wandb": ("wandb", _Wandb),
    "trackio": ("trackio", _Trackio),
    "mlflow": ("mlflow", _Mlflow),
}
