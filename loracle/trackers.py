"""Trackers as listeners of a search: TensorBoard, Weights & Biases, trackio, MLflow.

    with tracker("tensorboard", folder="logs") as listen:
        loracle.tune(config, listen)

Names are those of transformers' `report_to`. Each trial is a run of the tracker's own, with its config, its
learning curve and its score, and so are winner and standard settings, trained on all data. A tracker is
imported when it is asked for, and its own settings (`WANDB_MODE=offline`, `MLFLOW_TRACKING_URI`, ...) are
heeded.

A tracker is told in a thread of its own, so that one that is slow, or waits for a server, delays no trial;
and one that fails is told of, and then told nothing more.
"""

from __future__ import annotations

import math
import os
import platform
import queue
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import psutil

from loracle.errors import ConfigError, suggest
from loracle.records.curves.curve import Curve
from loracle.records.events import Event, FinalFinished, Listener, Step, TrialFinished, TrialStarted
from loracle.records.failures import raised
from loracle.records.trial import Outcome

SECONDS_TO_END = 30.0  # that a tracker is waited for when all is over
_PROJECT = "loracle"

Told = TrialStarted | Step | TrialFinished | FinalFinished
Tell = Callable[[str], None]  # what went wrong, in one line


@dataclass(frozen=True)
class About:
    """What a tracker keeps with every trial of a search.

    Attributes:
        project: under which trials are filed; None: as the tracker's own variable says, else `loracle`.
        group: the search's name, which those of its trials begin with; empty: it has none.
        facts: of the search, by name: its model, its data, ...
        folder: where TensorBoard writes.
    """

    project: str | None = None
    group: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path("runs")

    def project_of(self, variable: str) -> str:
        """The project, where that variable of the environment may name one."""
        return self.project or os.environ.get(variable) or _PROJECT

    def name(self, trial: str) -> str:
        """What a trial is called among those of other searches."""
        return f"{self.group}-{trial}" if self.group else trial


class Run(Protocol):
    """One trial in a tracker."""

    def log(self, numbers: Mapping[str, float], step: int | None) -> None: ...

    def close(self, failure: str | None) -> None: ...


Opener = Callable[[str, Mapping[str, Any], About], Run]  # the trial's name, and its config


@contextmanager
def tracker(
    name: str,
    folder: str | Path = "runs",
    *,
    project: str | None = None,
    group: str = "",
    facts: Mapping[str, str] | None = None,
    also: Listener | None = None,
    tell: Tell | None = None,
) -> Iterator[Listener]:
    """A listener that keeps every trial in a tracker, for `tune` and `hf.search`. Nothing that the tracker
    does ends or delays the search.

    Args:
        name: `tensorboard`, `wandb`, `trackio` or `mlflow`.
        folder: where TensorBoard's files are written, a folder a trial; the others have places of their own.
        project: that the others file the trials under; None: `WANDB_PROJECT`, `TRACKIO_PROJECT` or
            `MLFLOW_EXPERIMENT_NAME`, else `loracle`.
        group: the search's name, to tell its trials from those of others.
        facts: what to keep with each trial beside its config.
        also: another listener that is told of everything first, such as the display.
        tell: is given what went wrong, in one line; None: a warning.

    Raises:
        ConfigError: no such tracker, or it cannot be imported.
    """
    keeper = _Keeper(
        name, opener(name), About(project, group, dict(facts or {}), Path(folder)), tell or _warn
    )

    def listen(event: Event) -> None:
        if also is not None:
            also(event)
        if isinstance(event, Told):
            keeper.take(event)

    try:
        yield listen
    finally:
        keeper.end()


def opener(name: str) -> Opener:
    """What begins a run of a tracker. Raises ConfigError: no such tracker, or it cannot be imported."""
    if name not in TRACKERS:
        raise ConfigError(
            f"there is no tracker {name!r}{suggest(name, list(TRACKERS)).replace('it has', 'there are')}"
        )
    package, open_run = TRACKERS[name]
    installed = package.partition(".")[0]
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{name} is not installed: pip install {installed} ({error})") from None
    except Exception as error:  # of other people's packages
        raise ConfigError(f"{name} cannot be imported: {raised(error)}") from None
    return open_run


@contextmanager
def tracked(
    names: Sequence[str], folder: Path, listen: Listener, tell: Tell, facts: Mapping[str, str] | None = None
) -> Iterator[Listener]:
    """A listener, and trackers beside it.

    Args:
        names: of the trackers, as `report_to` has them.
        folder: of the run, which names it, and where TensorBoard's files are written.
        listen: is told of everything first.
        tell: is given what went wrong, in one line.
        facts: see `tracker`.

    Raises:
        ConfigError: a tracker cannot be imported.
    """
    whole = {"run": str(folder), **(facts or {})}
    with ExitStack() as stack:
        for name in names:
            own = tracker(name, folder / name, group=folder.name, facts=whole, also=listen, tell=tell)
            listen = stack.enter_context(own)
        yield listen


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=5)


# -- in a thread ------------------------------------------------------------------------------------


class _Keeper:
    """Tells a tracker what happens, in a thread, until that fails."""

    def __init__(self, name: str, open_run: Opener, about: About, tell: Tell) -> None:
        self._name, self._open, self._about, self._tell = name, open_run, about, tell
        self._waiting: queue.SimpleQueue[Told | None] = queue.SimpleQueue()
        self._failure: str | None = None
        self._said = False
        self._thread: threading.Thread | None = None

    def take(self, event: Told) -> None:
        """Has the tracker told of it, some time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep, name=f"loracle-{self._name}", daemon=True)
            self._thread.start()
        self._say()
        if self._failure is None:
            self._waiting.put(event)

    def end(self) -> None:
        """Waits until it has been told of all, though not for ever."""
        if self._thread is None:
            return
        self._waiting.put(None)
        self._thread.join(SECONDS_TO_END)
        if self._thread.is_alive() and not self._said:
            self._said = True
            self._tell(
                f"{self._name} takes longer than {SECONDS_TO_END:.0f} s; it was not told of everything"
            )
        self._say()

    def _say(self) -> None:
        """In the thread of the search, so that lines do not run into each other."""
        if self._failure is not None and not self._said:
            self._said = True
            self._tell(f"{self._name} is told nothing more: {self._failure}")

    def _keep(self) -> None:
        runs: dict[int, _Kept] = {}
        try:
            while (event := self._waiting.get()) is not None:
                self._pass_on(event, runs)
        except Exception as error:  # of other people's packages: a server that is gone, a full disk
            self._failure = raised(error)
        for kept in runs.values():
            with suppress(Exception):
                kept.run.close("interrupted")

    def _pass_on(self, event: Told, runs: dict[int, _Kept]) -> None:
        if isinstance(event, TrialStarted):
            runs[event.number] = _Kept(self._open(f"trial-{event.number:04d}", event.config, self._about))
        elif isinstance(event, Step):
            if event.number in runs and event.loss is not None and math.isfinite(event.loss):
                runs[event.number].losses[event.done] = event.loss
        elif isinstance(event, FinalFinished):
            _Kept(self._open(event.name, event.config, self._about)).end(event.outcome, "final")
        elif event.trial.number in runs:
            assert event.trial.outcome is not None
            runs.pop(event.trial.number).end(event.trial.outcome)


@dataclass
class _Kept:
    """A trial that a tracker is told of, and losses on its way: few, told only where there is no curve."""

    run: Run
    losses: dict[int, float] = field(default_factory=dict)

    def end(self, outcome: Outcome, kind: str = "trial") -> None:
        """Tells its learning curve, and what came of it."""
        curve = outcome.curve or Curve(tuple(self.losses), tuple(self.losses.values()))
        for step, numbers in sorted(_points(curve).items()):  # W&B takes steps in their order alone
            self.run.log(numbers, step)
        numbers = {f"{kind}/{name}": number for name, number in outcome.metrics.items()}
        numbers[f"{kind}/seconds"] = outcome.seconds
        if outcome.value is not None:
            numbers[f"{kind}/value"] = outcome.value
        self.run.log({name: number for name, number in numbers.items() if math.isfinite(number)}, None)
        failure = outcome.failure
        self.run.close(None if failure is None else f"{failure.kind}: {failure.message}")


def _points(curve: Curve) -> dict[int, dict[str, float]]:
    """Numbers of a curve by their step."""
    found: dict[int, dict[str, float]] = {}
    for name, steps, numbers in (
        ("loss", curve.steps, curve.losses),
        ("learning_rate", curve.steps, curve.learning_rates),
        ("gradient_norm", curve.steps, curve.gradient_norms),
        ("validation_loss", curve.validation_steps, curve.validation_losses),
    ):
        for step, number in zip(steps, numbers, strict=False):  # empty: not known
            if math.isfinite(number):
                found.setdefault(step, {})[f"training/{name}"] = number
    return found


# -- the trackers -----------------------------------------------------------------------------------


def _shown(value: object) -> str:
    """A value of a config as text: numbers as people write them."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if number else str(value)


def _plain(value: object) -> Any:
    """The same as what every tracker can keep."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


class _TensorBoard:
    def __init__(self, name: str, config: Mapping[str, Any], about: About) -> None:
        self._writer = import_module("torch.utils.tensorboard").SummaryWriter(str(about.folder / name))
        for title, content in (("config", config), ("search", about.facts)):
            if content:
                lines = (f"    {key}: {_shown(value)}" for key, value in content.items())
                self._writer.add_text(title, "\n".join(lines))

    def log(self, numbers: Mapping[str, float], step: int | None) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def close(self, failure: str | None) -> None:
        if failure is not None:
            self._writer.add_text("failure", failure)
        self._writer.close()


class _Wandb:
    """Weights & Biases, and trackio, which has its functions."""

    package, variable = "wandb", "WANDB_PROJECT"
    options: Mapping[str, str] = {"reinit": "create_new"}  # trials may run at once

    def __init__(self, name: str, config: Mapping[str, Any], about: About) -> None:
        package = import_module(self.package)
        kept = {key: _plain(value) for key, value in config.items()}
        if about.facts:
            kept["search"] = dict(about.facts)
        group = {"group": about.group} if about.group else {}
        project = about.project_of(self.variable)
        self._run = package.init(project=project, name=about.name(name), config=kept, **group, **self.options)

    def log(self, numbers: Mapping[str, float], step: int | None) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self, failure: str | None) -> None:
        if failure is not None:
            self._run.log({"trial/failed": 1.0})
        self._run.finish()


class _Trackio(_Wandb):
    package, variable = "trackio", "TRACKIO_PROJECT"
    options: Mapping[str, str] = {}


class _Mlflow:
    def __init__(self, name: str, config: Mapping[str, Any], about: About) -> None:
        mlflow = import_module("mlflow")
        self._client = mlflow.MlflowClient()
        experiment = self._experiment(about)
        tags = {f"loracle.{key}": value for key, value in about.facts.items()}
        tags |= {_PROCESS: f"{platform.node()} {os.getpid()}"}
        if run := about.facts.get("run"):
            self._end_those_of_the_dead(mlflow, experiment, run)
        created = self._client.create_run(experiment, run_name=about.name(name), tags=tags)
        self._id = created.info.run_id
        params = [mlflow.entities.Param(key, str(value)) for key, value in config.items()]
        self._client.log_batch(self._id, params=params)  # all or none

    def _experiment(self, about: About) -> str:
        if about.project is None and (chosen := os.environ.get("MLFLOW_EXPERIMENT_ID")):
            return chosen
        project = about.project_of("MLFLOW_EXPERIMENT_NAME")
        found = self._client.get_experiment_by_name(project)
        return str(found.experiment_id if found else self._client.create_experiment(project))

    def _end_those_of_the_dead(self, mlflow: Any, experiment: str, run: str) -> None:
        """Trials of this run that a process of this machine left behind, which is no more."""
        there = self._client.search_runs([experiment], "attributes.status = 'RUNNING'")
        for one in there:
            node, _, process = one.data.tags.get(_PROCESS, "").rpartition(" ")
            if one.data.tags.get("loracle.run") != run or node != platform.node():
                continue
            if not psutil.pid_exists(int(process)):
                self._client.set_tag(one.info.run_id, "failure", "interrupted")
                self._client.set_terminated(one.info.run_id, "KILLED")

    def log(self, numbers: Mapping[str, float], step: int | None) -> None:
        for name, number in numbers.items():
            self._client.log_metric(self._id, name, number, step=step or 0)

    def close(self, failure: str | None) -> None:
        if failure is not None:
            self._client.set_tag(self._id, "failure", failure)
        self._client.set_terminated(self._id, "FINISHED" if failure is None else "FAILED")


_PROCESS = "loracle.process"
TRACKERS: Mapping[str, tuple[str, Opener]] = {
    "tensorboard": ("torch.utils.tensorboard", _TensorBoard),
    "wandb": ("wandb", _Wandb),
    "trackio": ("trackio", _Trackio),
    "mlflow": ("mlflow", _Mlflow),
}
