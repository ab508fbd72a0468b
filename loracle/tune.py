"""The main job: ask, train, tell, until the budget is spent; then train the winner and compare.

Everything is in the run folder, and every step is recorded before the next begins, so the same command
continues a run that was interrupted at any moment.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loracle.config import RunConfig, build_space, dump_config, load_config, parse_config
from loracle.ensemble import EnsembleSettings
from loracle.errors import StudyError
from loracle.features import Features, build_features
from loracle.language import CausalReader, LanguageModel, load_language_model
from loracle.metrics import paired_difference
from loracle.objective import Objective, TrainingObjective, read_items, read_outcome, write_atomically
from loracle.optimizer import Preset, get_preset, propose, ranking
from loracle.prompt import Prompt, load_prompt
from loracle.report import Comparison, write_report
from loracle.space import Config, SearchSpace, with_alpha
from loracle.study import Study, open_study, run_lock
from loracle.train import check_knobs
from loracle.trial import Failure, FailureKind, History, Outcome, Trial

# A run may be continued with other values of these; anything else would mix values that do not compare.
_MAY_CHANGE = ("output", "threads", "search.trials", "language.batch_size", "language.memory_gb")
_CRASHES_IN_A_ROW = 5  # then the cause is not the configs
_RUNNERS_UP = 3  # configs tried on all data, should the winner fail there


@dataclass(frozen=True)
class PhaseStarted:
    """A new part of the run begins; `text` says which, for people."""

    text: str


@dataclass(frozen=True)
class TrialStarted:
    """A trial begins: its number among finished trials, the budget, and its config."""

    number: int
    budget: int
    config: Config


@dataclass(frozen=True)
class Step:
    """Work went on: `done` of `total` steps or candidates; `loss` while training."""

    done: int
    total: int
    loss: float | None = None


@dataclass(frozen=True)
class TrialFinished:
    """A trial has ended.

    Attributes:
        trial: with its outcome.
        config: that it trained.
        best: the best success so far.
        done: trials that count towards the budget.
        budget: how many there will be.
        seconds_left: estimate for the rest of the search, in seconds.
    """

    trial: Trial
    config: Config
    best: Trial | None
    done: int
    budget: int
    seconds_left: float


Event = PhaseStarted | TrialStarted | Step | TrialFinished
Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Result:
    """A finished run."""

    folder: Path
    space: SearchSpace
    history: History
    comparison: Comparison
    stopped: str  # why the search ended


@dataclass(frozen=True)
class Search:
    """The search half of a run, ready to choose."""

    space: SearchSpace
    preset: Preset
    features: Features | None
    seed: int

    def next(self, history: History) -> int:
        """The config to train next."""
        return propose(self.space, history, self.preset, features=self.features, seed=self.seed)[0]

    def ranking(self, history: History) -> list[int]:
        """Successful configs, the one to use first."""
        return ranking(self.space, history, self.preset, features=self.features, seed=self.seed)


def tune(config: RunConfig, listen: Listener = lambda event: None) -> Result:
    """Runs, or continues, the whole job that `config` describes.

    Args:
        config: with absolute paths, as `load_config` gives it.
        listen: told of everything that happens; it must not raise.

    Raises:
        LoracleError: bad input, refused before anything is trained; or a run that cannot go on.
        KeyboardInterrupt: as it came; the trial is recorded as interrupted, and the run can be continued.
    """
    _make_folder(config.output)
    with run_lock(config.output):
        _record_config(config)
        listen(PhaseStarted("reading data and model"))
        objective = TrainingObjective.from_config(config)
        search = prepare_search(config, objective, listen)
        study = open_study(config.output, search.space)
        stopped = run_search(search, study, objective, config.output, config.search.trials, listen)
        history = study.history()
        comparison = _compare(config, search, history, objective, listen)
        write_report(config, search.space, history, comparison, stopped)
        return Result(config.output, search.space, history, comparison, stopped)


def search_space(config: RunConfig, n_examples: int) -> SearchSpace:
    """The space of a run whose trials train on `n_examples`.

    Raises:
        SpaceError: the space is malformed, or a seed config does not fit it.
        ConfigError: a knob is nothing that the trainer knows.
    """
    space = build_space(config.space, batch_limit=n_examples)
    check_knobs(space.names)
    for seed_config in config.search.seed_configs or []:
        space.nearest(seed_config)
    return space


def prepare_search(config: RunConfig, objective: TrainingObjective, listen: Listener) -> Search:
    """Builds the search half: space, preset, and language features of all candidates."""
    space = search_space(config, objective.n_proxy)
    preset = get_preset(config.search.preset, language=config.language.model != "none")
    if config.search.seed_configs is not None:
        preset = replace(preset, seed_configs=tuple(config.search.seed_configs))
    surrogate = preset.surrogate
    if isinstance(surrogate, EnsembleSettings) or not surrogate.language:
        return Search(space, preset, None, config.search.seed)
    base, settings = objective.base, config.language
    model = load_language_model(
        settings,
        tuned=(base.model, base.tokenizer),
        device=config.device,
        trust_remote_code=config.trust_remote_code,
    )
    assert model is not None  # `get_preset` refuses `none` here
    # An encoder reads every observed text again in every step of a fit, so there it is opt-in.
    wanted = surrogate.learnable_token and isinstance(model, CausalReader)
    learnable = wanted if settings.learnable_token is None else settings.learnable_token
    prompt = run_prompt(config, space, model, objective.n_proxy)
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


def run_prompt(config: RunConfig, space: SearchSpace, model: LanguageModel, n_examples: int) -> Prompt:
    """How a run writes its configs. `auto`: with explanations for a causal model; short and derived for a
    sentence encoder, which averages over all words and reads every text by itself.

    Raises:
        PromptError: see `load_prompt`.
    """
    name = config.language.prompt
    if name == "auto":
        name = "lora-v1" if isinstance(model, CausalReader) else "derived-v1"
    return load_prompt(name, space, n_examples=n_examples, epochs=config.training.epochs)


def run_search(
    search: Search, study: Study, objective: Objective, folder: Path, budget: int, listen: Listener
) -> str:
    """Trains configs one after the other until `budget` trials have finished; returns why it stopped."""
    listen(PhaseStarted("searching"))
    again = study.take_over()
    while True:
        finished = counted(study.history())
        if len(finished) >= budget:
            return f"all {budget} trials are done"
        _refuse_hopeless(finished)
        if not again and len({trial.index for trial in finished}) >= len(search.space.candidates):
            return f"all {len(search.space.candidates)} candidates are tried"
        index = again.pop(0) if again else search.next(study.history())
        config = search.space.config(index)
        number = study.start(index)
        listen(TrialStarted(len(finished), budget, config))
        try:
            outcome = objective.run(
                config,
                seed=search.seed,
                folder=trial_folder(folder, number),
                progress=lambda step, total, loss: listen(Step(step, total, loss)),
            )
        except KeyboardInterrupt:
            study.finish(
                number, Outcome(None, failure=Failure(FailureKind.INTERRUPTED, "stopped by the user"))
            )
            raise
        study.finish(number, outcome)
        listen(_finished(study.history(), Trial(number, index, outcome), config, budget))


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


def _finished(history: History, trial: Trial, config: Config, budget: int) -> TrialFinished:
    done = counted(history)
    mean_seconds = sum(t.outcome.seconds for t in done if t.outcome) / len(done)
    left = budget - len(done)
    return TrialFinished(trial, config, best_of(history), len(done), budget, mean_seconds * left)


def _refuse_hopeless(finished: list[Trial]) -> None:
    """Raises StudyError when trials fail one after the other for a reason that no config will mend."""
    last = [trial.outcome.failure for trial in finished[-_CRASHES_IN_A_ROW:] if trial.outcome]
    if len(last) == _CRASHES_IN_A_ROW and all(f and f.kind is FailureKind.CRASHED for f in last):
        message = last[-1].message if last[-1] else ""
        raise StudyError(
            f"the last {_CRASHES_IN_A_ROW} trials crashed, so the cause is not the config: {message}; "
            "see log.txt in their folders under trials/"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"output: {folder} cannot be made: {error.strerror}") from None


def _record_config(config: RunConfig) -> None:
    """Writes `config.yaml`, or holds the config of a run that is continued against it."""
    path = config.output / "config.yaml"
    text = dump_config(config)
    if path.exists():
        before = _flat(parse_config(path.read_text(encoding="utf-8"), str(path)).model_dump(mode="json"))
        now = _flat(config.model_dump(mode="json"))
        changed = [
            key
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key not in _MAY_CHANGE
        ]
        if changed:
            key = changed[0]
            raise StudyError(
                f"{config.output}: this run began with {key}={before.get(key)!r}, now {now.get(key)!r}; "
                "its trials would not compare. Undo the change or use another output"
            )
    write_atomically(path, text)


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def _compare(
    config: RunConfig, search: Search, history: History, objective: TrainingObjective, listen: Listener
) -> Comparison:
    """Trains winner and standard settings on all training data and scores both on test, the same way."""
    standard = with_alpha(config.standard)
    for index in search.ranking(history)[:_RUNNERS_UP]:
        winner = search.space.config(index)
        winner_outcome = _final(config, "winner", winner, objective, listen)
        if winner_outcome.failure is None:
            break
    standard_outcome = _final(config, "standard", standard, objective, listen)
    comparison = Comparison(winner, standard, winner_outcome, standard_outcome)
    if winner_outcome.failure or standard_outcome.failure:
        return comparison
    items = [read_items(config.output / "final" / name) for name in ("winner", "standard")]
    difference, low, high = paired_difference(*items)
    return replace(comparison, difference=difference, low=low, high=high)


def _final(
    config: RunConfig, name: str, knobs: Config, objective: TrainingObjective, listen: Listener
) -> Outcome:
    """The final training of one config; taken from the run folder where it has been done before."""
    folder = config.output / "final" / name
    done = read_outcome(folder, knobs)
    if done is not None:
        return done
    what = "winner" if name == "winner" else "standard settings"
    listen(PhaseStarted(f"training the {what} on all {objective.n_train:,} examples"))
    return objective.final(
        knobs,
        seed=config.search.seed,
        folder=folder,
        adapter=config.output / "best" if name == "winner" else None,
        progress=lambda step, total, loss: listen(Step(step, total, loss)),
    )
