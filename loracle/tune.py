"""The main job: ask, train, tell, until the budget is spent; then train the winner and compare.

Everything is in the run folder, and every step is recorded before the next begins, so the same command
continues a run that was interrupted at any moment.
"""

from __future__ import annotations

import gc
import itertools
import os
import platform
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from loracle.config import RunConfig, build_space, dump_config, load_config, parse_config
from loracle.ensemble import EnsembleSettings
from loracle.errors import StudyError
from loracle.events import Listener, Noticed, PhaseStarted, Step, TrialFinished, TrialStarted
from loracle.external import load_objective
from loracle.features import Features, build_features
from loracle.final import compare, compare_trial
from loracle.language import CausalReader, LanguageModel, load_language_model
from loracle.memory import MemoryModel, allowed, describe
from loracle.notices import FILE as NOTICES
from loracle.notices import Notice, gathered
from loracle.notices import as_json as notices_as_json
from loracle.objective import Objective, TrainingObjective
from loracle.optimizer import Preset, get_preset, propose, ranking
from loracle.outcomes import DISK_ERRORS, as_json, write_atomically
from loracle.prompt import Prompt, load_prompt
from loracle.report import Comparison, write_report
from loracle.space import Config, SearchSpace, with_alpha
from loracle.storage import LockedError, run_lock
from loracle.study import Study, open_study
from loracle.train import check_knobs
from loracle.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.workers import Executor, InProcess, Job, LocalWorkers

# A run may be continued with other values of these; anything else would mix values that do not compare.
_MAY_CHANGE = (
    "output",
    "threads",
    "search.trials",
    "language.batch_size",
    "language.memory_gb",
    "training.micro_batch",
    "scoring.batch_size",
    "execution.",
    "objective.time_limit",
)
# Where things are on this machine; on another the same may be elsewhere.
_OF_A_MACHINE = {
    *("data.train", "data.validation", "data.test", "device"),
    *("language.model", "language.prompt", "objective.working_folder"),
}
_BROKEN_IN_A_ROW = 5  # crashed or lost: then the cause is not the configs
_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class Result:
    """A finished run."""

    folder: Path
    space: SearchSpace
    history: History
    comparison: Comparison
    stopped: str  # why the search ended
    notices: tuple[Notice, ...] = ()  # what the user must see


@dataclass(frozen=True)
class Search:
    """The search half of a run, ready to choose.

    `memory` says which candidates can fit; None where trials run on other machines, or it cannot be known.
    `notices` are what the user must see about the space and how it is searched.
    """

    space: SearchSpace
    preset: Preset
    features: Features | None
    seed: int
    memory: MemoryModel | None = None
    notices: tuple[Notice, ...] = ()

    def next(self, history: History) -> int | None:
        """The config to train next; None if there is none left."""
        chosen = propose(
            self.space,
            history,
            self.preset,
            features=self.features,
            seed=self.seed,
            allowed=None if self.memory is None else allowed(self.memory, self.space, history),
            strict=False,
        )
        return chosen[0] if chosen else None

    def ranking(self, history: History) -> list[int]:
        """Successful configs, the one to use first."""
        return ranking(self.space, history, self.preset, features=self.features, seed=self.seed)


@dataclass(frozen=True)
class _Prepared:
    """A run that can begin.

    Attributes:
        search: chooses configs.
        executor: trains them.
        final: what a final training takes, in words; None where it would only repeat a trial.
        settings: what all processes that share a storage must have in common.
        notices: what the user must see before anything is trained.
    """

    search: Search
    executor: Executor
    final: str | None
    settings: Mapping[str, Any]
    notices: tuple[Notice, ...]


def tune(config: RunConfig, listen: Listener = lambda event: None) -> Result:
    """Runs, or continues, the whole job that `config` describes.

    Args:
        config: with absolute paths, as `load_config` gives it.
        listen: told of everything that happens; it must not raise.

    Raises:
        LoracleError: bad input, refused before anything is trained; or a run that cannot go on.
        KeyboardInterrupt: as it came; the trial is recorded as interrupted, and the run can be continued.
    """
    with _run_folder(config.output):
        _record_config(config)
        run = _prepare(config, listen)
        space = run.search.space
        _tell(run.notices, config.output, listen)
        with closing(run.executor):
            stopped, history = _search(config, run, listen)
            comparison = _compare(config, run, history, listen)
        memory = run.search.memory
        said = describe(memory, space, with_alpha(config.standard or {}), history) if memory else []
        _keep(run.notices, config.output)
        write_report(config, space, history, comparison, stopped, said, run.notices)
        return Result(config.output, space, history, comparison, stopped, run.notices)


def work(config: RunConfig, listen: Listener = lambda event: None) -> tuple[str, History]:
    """The search half of `tune`, as one of many processes on a shared storage: no final training, no report.

    Many such processes may share a run folder, on one machine or on a file system that all machines see.

    Returns:
        Why it stopped, and all trials.

    Raises:
        LoracleError: as `tune`; or the storage cannot be shared.
    """
    if config.execution.storage is None:
        raise StudyError("workers on many machines share a database; give --storage postgresql://...")
    with _own_folder(config.output) as own:
        _record_config(config, own)
        run = _prepare(config.model_copy(update={"output": own}), listen)
        _tell(run.notices, own, listen)
        os.replace(own / NOTICES, config.output / NOTICES)
        with closing(run.executor):
            return _search(config, run, listen)


@contextmanager
def _own_folder(output: Path) -> Iterator[Path]:
    """Holds a folder for what one process alone writes: the first that is free of those of this machine."""
    machine = re.sub(r"[^\w.-]", "_", platform.node())
    for position in itertools.count():
        folder = output / "machines" / f"{machine}-{position}"
        with ExitStack() as stack:
            try:
                stack.enter_context(_run_folder(folder))
            except LockedError:
                continue
            yield folder
            return


@contextmanager
def _run_folder(folder: Path) -> Iterator[None]:
    """Makes and holds the run's folder. Being told to end, by whatever signal, counts as Ctrl-C."""
    try:
        _make_folder(folder)
        with run_lock(folder), _signals_as_interrupt():
            yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise StudyError(
            f"{error.filename or folder}: {error.strerror}; nothing that was finished is lost, and "
            "the same command continues once there is room"
        ) from None


@contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and means it
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepare(config: RunConfig, listen: Listener) -> _Prepared:
    """Checks data and model, builds the search half, and starts where the trials run.

    The model that was checked here is not kept where workers load their own.
    """
    if config.objective is None:
        listen(PhaseStarted("reading data and model"))
    objective = load_objective(config)
    local = config.execution.executor == "local"
    memory = objective.memory if isinstance(objective, TrainingObjective) and local else None
    search = replace(prepare_search(config, objective, listen), memory=memory)
    final, settings = _final_training(objective), _common_settings(config, objective)
    notices = gathered(getattr(objective, "notices", ()), search.notices)
    if config.execution.workers == 0:
        return _Prepared(search, InProcess(objective), final, settings, notices)
    del objective
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if config.execution.executor == "ray":
        from loracle.ray_workers import RayWorkers

        return _Prepared(search, RayWorkers(config), final, settings, notices)
    return _Prepared(search, LocalWorkers(config), final, settings, notices)


def _tell(notices: Sequence[Notice], folder: Path, listen: Listener) -> None:
    """Tells and keeps what the user must see, before anything is trained."""
    for notice in notices:
        listen(Noticed(notice))
    _keep(notices, folder)


def _keep(notices: Sequence[Notice], folder: Path) -> None:
    write_atomically(folder / NOTICES, as_json(notices_as_json(notices)))


def _common_settings(config: RunConfig, objective: Objective) -> dict[str, Any]:
    """What has to be the same on all machines for their trials to compare: contents, not paths or secrets."""
    flat = _flat(config.model_dump(mode="json"))
    common = {
        key: value
        for key, value in flat.items()
        if key not in _OF_A_MACHINE and not key.startswith((*_MAY_CHANGE, "objective.environment."))
    }
    if isinstance(objective, TrainingObjective):
        common |= {"model": objective.base.fingerprint, "data": objective.data_fingerprint}
    return common


def _final_training(objective: Objective) -> str | None:
    if isinstance(objective, TrainingObjective):
        return f" on all {objective.n_train:,} examples"
    return "" if getattr(objective, "has_final", True) else None


def search_space(config: RunConfig, n_examples: int | None) -> SearchSpace:
    """The space of a run whose trials train on `n_examples`; None: the trainer is the user's, and takes any
    knobs.

    Raises:
        SpaceError: the space is malformed, or a seed config does not fit it.
        ConfigError: a knob is nothing that the trainer knows.
    """
    space = build_space(config.space, batch_limit=n_examples)
    if config.objective is None:
        check_knobs(space.names)
    for seed_config in config.search.seed_configs or []:
        space.nearest(seed_config)
    return space


def prepare_search(config: RunConfig, objective: Objective, listen: Listener) -> Search:
    """Builds the search half: space, preset, and language features of all candidates.

    Raises:
        LoracleError: see `search_space`, `get_preset`, `load_language_model` and `build_features`.
    """
    n_examples = objective.n_proxy if isinstance(objective, TrainingObjective) else None
    space = search_space(config, n_examples)
    preset = get_preset(config.search.preset, language=config.language.model != "none")
    if config.search.seed_configs is not None:
        preset = replace(preset, seed_configs=tuple(config.search.seed_configs))
    surrogate = preset.surrogate
    if isinstance(surrogate, EnsembleSettings) or not surrogate.language:
        return Search(space, preset, None, config.search.seed)
    settings = config.language
    tuned = objective.base if isinstance(objective, TrainingObjective) else None
    model = load_language_model(
        settings,
        tuned=(tuned.model, tuned.tokenizer) if tuned else config.model or None,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
    )
    assert model is not None  # `get_preset` refuses `none` here
    # An encoder reads every observed text again in every step of a fit, so there it is opt-in.
    wanted = surrogate.learnable_token and isinstance(model, CausalReader)
    learnable = wanted if settings.learnable_token is None else settings.learnable_token
    prompt = run_prompt(config, space, model, n_examples)
    listen(PhaseStarted(f"reading {len(space.candidates):,} prompts ({prompt.version}, {model.name})"))
    features = build_features(
        space,
        prompt,
        model,
        learnable_token=learnable,
        cache_dir=cache_folder(),
        progress=lambda done, total: listen(Step(done, total)),
        memory_gb=settings.memory_gb,
        half_precision_cache=settings.half_precision_cache,
    )
    surrogate = replace(surrogate, learnable_token=learnable)
    return Search(space, replace(preset, surrogate=surrogate), features, config.search.seed)


def run_prompt(config: RunConfig, space: SearchSpace, model: LanguageModel, n_examples: int | None) -> Prompt:
    """How a run writes its configs. `auto`: with explanations for a causal model; short and derived for a
    sentence encoder, which averages over all words and reads every text by itself.

    Raises:
        PromptError: see `load_prompt`.
    """
    name = config.language.prompt
    if name == "auto":
        name = "lora-v1" if isinstance(model, CausalReader) else "derived-v1"
    return load_prompt(name, space, n_examples=n_examples, epochs=config.training.epochs)


def _search(config: RunConfig, run: _Prepared, listen: Listener) -> tuple[str, History]:
    """The whole search: why it stopped, and all trials."""
    storage = config.execution.storage
    settings = None if storage is None else run.settings
    with open_study(config.output, run.search.space, storage, settings=settings) as study:
        trials = config.search.trials
        stopped = run_search(run.search, study, run.executor, config.output, trials, listen)
        return stopped, study.history()


def run_search(
    search: Search, study: Study, executor: Executor, folder: Path, budget: int, listen: Listener
) -> str:
    """Keeps the executor busy until `budget` trials have finished; returns why it stopped.

    Whenever there is room, a new config is chosen with all that still run accounted for. Outcomes are
    recorded in the order in which they come, and the choice depends on the recorded history alone.
    """
    listen(PhaseStarted("searching"))
    running: dict[int, int] = {}  # trial number: index
    again = study.take_over()
    recent: deque[Outcome] = deque(maxlen=_BROKEN_IN_A_ROW)

    def progress(number: int, step: int, total: int, loss: float | None) -> None:
        listen(Step(step, total, loss, number))

    try:
        while True:
            stopped = _fill(search, study, executor, running, again, folder, budget, listen)
            if stopped:
                return stopped
            if not running:  # other processes train the rest; one of them may die
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                continue
            for done in executor.wait(_SECONDS_BETWEEN_LOOKS, progress):
                number, index = done.job.number, running[done.job.number]
                counts = study.finish(number, done.outcome)
                del running[number]  # not before: what is interrupted here has not been recorded
                recent.append(done.outcome)
                if counts:
                    trial = Trial(number, index, done.outcome)
                    listen(_finished(study.history(), trial, done.job.config, budget, executor.capacity))
                _refuse_hopeless(recent)
    except BaseException as error:
        if not isinstance(error, StudyError | OSError):  # then nothing more can be written
            reason = "stopped by the user" if isinstance(error, KeyboardInterrupt) else "the run ended"
            for number in running:
                study.finish(number, Outcome(None, failure=Failure(FailureKind.INTERRUPTED, reason)))
        raise


def _fill(
    search: Search,
    study: Study,
    executor: Executor,
    running: dict[int, int],
    again: list[int],
    folder: Path,
    budget: int,
    listen: Listener,
) -> str | None:
    """Starts trials while there is room; returns why the search is over, if it is."""
    while len(running) < executor.capacity:
        if study.shared:  # another process may have died meanwhile
            again[:] = study.take_over()
        history = study.history()
        finished = counted(history)
        if len(finished) >= budget and not running:
            return f"all {budget} trials are done"
        if len(finished) + len(history.pending) >= budget:
            return None
        index = again.pop(0) if again else search.next(history)
        if index is None:
            return None if history.pending else _exhausted(search, history)
        number = study.claim(index, budget)
        if number is None:
            continue
        running[number] = index
        config = search.space.config(index)
        executor.submit(Job(number, config, search.seed, trial_folder(folder, number)))
        listen(TrialStarted(len(finished) + len(running) - 1, budget, config, number))
    return None


def _exhausted(search: Search, history: History) -> str:
    tried = len({trial.index for trial in counted(history)})
    if tried >= len(search.space.candidates):
        return f"all {tried} candidates are tried"
    return f"{tried} candidates are tried, and no other fits into memory"


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial's files are in a run folder."""
    return folder / "trials" / f"{number:04d}"


def counted(history: History) -> list[Trial]:
    """Trials that count towards the budget: finished, and not interrupted."""
    return [trial for trial in history.finished if not trial.interrupted]


def best_of(history: History) -> Trial | None:
    """The success with the largest value; the earliest of equals."""
    return max(
        history.succeeded,
        key=lambda trial: trial.outcome.value if trial.outcome and trial.outcome.value is not None else 0.0,
        default=None,
    )


def open_run(path: Path) -> tuple[RunConfig, SearchSpace]:
    """The config and space of a run, given its folder or a config file that names it as output.

    Raises:
        LoracleError: there is no such run, or its config is malformed.
    """
    if path.is_dir():
        if not (path / "config.yaml").exists():
            raise StudyError(f"{path} is not a run folder: it has no config.yaml")
        config = load_config(path / "config.yaml").model_copy(update={"output": path.resolve()})
    else:
        config = load_config(path)
    return config, build_space(config.space)


def cache_folder() -> Path:
    """Where features are kept between runs: `$XDG_CACHE_HOME/loracle`, by default `~/.cache/loracle`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "loracle"


# -- helpers ----------------------------------------------------------------------------------------


def _finished(history: History, trial: Trial, config: Config, budget: int, capacity: int) -> TrialFinished:
    done = counted(history)
    mean_seconds = sum(t.outcome.seconds for t in done if t.outcome) / len(done)
    seconds_left = mean_seconds * (budget - len(done)) / capacity
    return TrialFinished(trial, config, best_of(history), len(done), budget, seconds_left)


def _refuse_hopeless(recent: Sequence[Outcome]) -> None:
    """Raises StudyError when trials fail one after the other for a reason that no config will mend."""
    failures = [outcome.failure for outcome in recent if outcome.failure]
    broken = [f for f in failures if f.kind in (FailureKind.CRASHED, FailureKind.LOST)]
    if len(broken) == _BROKEN_IN_A_ROW:
        raise StudyError(
            f"the last {_BROKEN_IN_A_ROW} trials crashed or were lost, so the cause is not the config: "
            f"{broken[-1].message}; see their folders under trials/"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"output: {folder} cannot be made: {error.strerror}") from None


def _record_config(config: RunConfig, own: Path | None = None) -> None:
    """Writes `config.yaml`, or holds the config of a run that is continued against it.

    Args:
        own: of a process that shares the run folder: a folder where it alone writes. The first such process
            records its config.
    """
    path = config.output / "config.yaml"
    if path.exists():
        _require_same(config, path)
        if own is not None:
            return
    whole = (own or config.output) / "config.yaml"
    write_atomically(whole, dump_config(config))
    os.replace(whole, path)


def _require_same(config: RunConfig, path: Path) -> None:
    before = _flat(parse_config(path.read_text(encoding="utf-8"), str(path)).model_dump(mode="json"))
    now = _flat(config.model_dump(mode="json"))
    changed = [
        key
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(_MAY_CHANGE)
    ]
    if changed:
        key = changed[0]
        raise StudyError(
            f"{config.output}: this run began with {key}={before.get(key)!r}, now {now.get(key)!r}; "
            "its trials would not compare. Undo the change or use another output"
        )


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def _compare(config: RunConfig, run: _Prepared, history: History, listen: Listener) -> Comparison:
    ranked = run.search.ranking(history)
    configs = [run.search.space.config(index) for index in ranked]
    if run.final is not None:
        return compare(config, configs, run.executor, listen, what=run.final)
    outcomes = [trial.outcome for trial in history.succeeded if trial.index == ranked[0] and trial.outcome]
    best = max(outcomes, key=lambda outcome: outcome.value or 0.0)
    return compare_trial(config, configs[0], best, run.executor, listen)
