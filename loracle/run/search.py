"""The search half of a run: what is searched, how configs are chosen, and what is known beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from loracle.config.knobs import KNOBS, check_knobs
from loracle.config.settings import RunConfig, build_space
from loracle.config.training.plan import plan_training, settings_with
from loracle.config.training.variants import VARIANTS
from loracle.errors import ConfigError
from loracle.records.contents import PARAMETERS, PART, PRIOR, file_hash
from loracle.records.events import Believed
from loracle.records.notices import Notice
from loracle.records.space import SearchSpace, with_alpha
from loracle.records.standard_settings import STANDARD
from loracle.records.trial import History, Trial
from loracle.report.findings.score_scale import ScoreScale, of_training
from loracle.report.findings.search_cost import search_cost
from loracle.report.objectives import weighed
from loracle.run.stopping import LEAST, Budget, Worth, outlook
from loracle.search.observations import Mask, crashing, fitting, row_of, untried, value_of
from loracle.search.presets import (
    EnsembleSettings,
    Preset,
    get_preset,
    with_beliefs,
    with_data,
    with_earlier_prior,
    with_parameters,
    with_standard,
)
from loracle.search.prior import EARLIER, SHIPPED
from loracle.search.propose import Beliefs, propose, ranking
from loracle.training.memory.plan import MemoryModel, allowed

if TYPE_CHECKING:
    from loracle.language.features import Features


_FIRST = 10  # configs whose lengths tell what trials take, before there are any
_TOGETHER = 20_000  # combinations of settings that are looked at: two seconds


@dataclass(frozen=True)
class Search:
    """The search half of a run, ready to choose.

    `metric` is what scores are of; empty: nobody asks. `memory` says which candidates can fit; None where
    trials run on other machines, or it cannot be known. `objectives` are metrics, where several are optimised
    at once: a proposal weighs them anew, and the config to use weighs them alike (`outputs.as_one`).
    `notices` are what the user must see about the space and how it is searched; `contents` holds hashes of
    the prior, or of the prompt and of the model that reads it. `worth` and `budget` (None:
    no such limit): see `stopping.py`; `ends_when` is what ends it, in words.
    """

    space: SearchSpace
    preset: Preset
    features: Features | None
    seed: int
    memory: MemoryModel | None = None
    notices: tuple[Notice, ...] = ()
    objectives: tuple[str, ...] = ()
    contents: Mapping[str, str] = field(default_factory=dict)
    metric: str = ""
    worth: Worth = "never"
    budget: Budget | None = None
    ends_when: str = ""
    _ended: dict[int, str | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def within(self, room: float | None) -> Search:
        """The same search where trainings may grow by `room` bytes, whatever is free just now."""
        return self if self.memory is None else replace(self, memory=replace(self.memory, room=room))

    def next(self, history: History) -> int | None:
        """The config to train next; None if there is none left, or none but what crashes every time."""
        chosen = propose(
            self.space,
            self._drawn(history),
            self.preset,
            features=self.features,
            seed=self.seed,
            allowed=self._allowed(history),
            strict=False,
        )
        return chosen[0] if chosen else None

    def ends(self, history: History, most: int) -> str | None:
        """Why the search ends here, before its `most` trials; None where it goes on.

        Whether it is worth it is asked of the first trials of the history, more and more of them: so a run
        that goes on ends where it would have ended.
        """
        trials = history.counted
        if self.budget is not None and (reason := self.budget.overspent(history, most)):
            return reason
        for n in range(LEAST, len(trials) + 1) if self.worth != "never" else ():
            if n not in self._ended:
                self._ended[n] = self._ends(trials[:n], len(trials), most)
            if reason := self._ended[n]:
                return reason
        return None

    def waits(self, history: History) -> bool:
        """Whether no more trials shall begin before one has ended, as a budget is given and nothing is known
        of what a trial costs."""
        if self.budget is None or not history.pending:
            return False
        return search_cost(trial.outcome for trial in history.counted if trial.outcome) is None

    def _ends(self, trials: Sequence[Trial], done: int, most: int) -> str | None:
        history = History(tuple(trials))
        free = untried(self.space, history) & fitting(self.space, history) & self._allowed(history)
        found = outlook(self.space, trials, self.preset, self.seed, free, self.worth)
        if found is None or found.gain >= found.worth:
            return None
        return found.said(len(trials), done, most)

    def _allowed(self, history: History) -> Mask:
        """Which candidates may fit into memory and do not crash every time, (N,)."""
        fine = ~crashing(self.space, history)
        return fine if self.memory is None else fine & allowed(self.memory, self.space, history)

    def believed(self, history: History, index: int) -> Believed | None:
        """What a config that `next` has just chosen is expected to score; None before the first score, and of
        several objectives."""
        from loracle.search.ensemble import Ensemble  # here: a run's first worker begins to load before

        if not self.metric or self.objectives or not history.succeeded:
            return None
        beliefs = Beliefs.of(self.space, history, self.preset.of_trials, self.features, self.seed)
        if beliefs.surrogate is None:
            return None
        belief = beliefs.surrogate.belief(at=np.array([row_of(self.space, index)]))
        scale = ScoreScale.of(beliefs.y, beliefs.observations.values, self.metric)
        noise = beliefs.surrogate.noise if isinstance(beliefs.surrogate, Ensemble) else 0.0
        belief = of_training(belief, noise, len(history.succeeded))
        return Believed(*(float(end[0]) for end in scale.interval(belief)))

    def first(self) -> Sequence[int]:
        """The configs that the search tries first, if trials tell it no more than it expects: what the first
        ones are like (`benchmarks/first_lengths.py`). None where nothing is known, or prompts are read."""
        if self.preset.reads or self.preset.knows_nothing:
            return ()
        allowed, n = self._allowed(History()), self.most_trials(_FIRST)
        return propose(self.space, History(), self.preset, n=n, seed=self.seed, allowed=allowed, strict=False)

    def most_trials(self, budget: int) -> int:
        """How many of `budget` trials there can be: each candidate is tried once."""
        return min(budget, len(self.space.candidates))

    def priced(self, each: float | None) -> Search:
        """The same search where a trial is expected to cost so many full trainings, if somebody knows."""
        if self.budget is None or each is None:
            return self
        return replace(self, budget=replace(self.budget, each=each))

    def likely_trials(self, budget: int, counted: Sequence[Trial]) -> int:
        """How many of them there will be, by what those cost that count so far."""
        most = self.most_trials(budget)
        enough = None if self.budget is None else self.budget.enough_for(counted)
        return most if enough is None else min(most, enough)

    def ranking(self, history: History) -> list[int]:
        """Successful configs, the one to use first."""
        alike = weighed(history, self.objectives)
        return ranking(self.space, alike, self.preset, features=self.features, seed=self.seed)

    def leader(self, history: History) -> Trial | None:
        """The trial of the config that would be used if the search ended now: its best one."""
        if not history.succeeded:
            return None
        first = self.ranking(history)[0]
        value = {trial.number: value_of(trial) for trial in weighed(history, self.objectives).succeeded}
        return max((t for t in history.succeeded if t.index == first), key=lambda t: value[t.number])

    def best(self, history: History) -> Trial | None:
        """The trial with the best score so far, as `TrialFinished` has it."""
        succeeded = history.succeeded
        keeping = [trial for trial in succeeded if trial.outcome and not trial.outcome.broken]
        if len(self.objectives) > 1 or not keeping:
            return self.leader(history)
        return max(keeping, key=value_of)

    def _drawn(self, history: History) -> History:
        """Several objectives as one, by weights for the next proposal. Interrupted trials change no weight,
        so that a run that was killed goes on as if it had not been."""
        if len(self.objectives) < 2 or not history.succeeded:
            return history
        from loracle.search.outputs import drawn_weights  # scipy: a worker begins to load before

        begun = sum(not trial.interrupted for trial in history.trials)
        return weighed(history, self.objectives, drawn_weights(len(self.objectives), self.seed, begun))


def search_space(config: RunConfig, n_rows: int | None) -> SearchSpace:
    """The space of a run whose trials train on `n_rows` examples or, with `data.packing`, blocks; None: the
    trainer is the user's, and takes any knobs.

    Raises:
        SpaceError: the space is malformed, or a seed config does not fit it.
        ConfigError: a knob, of the space or of the standard settings, is nothing that the trainer knows.
    """
    space = build_space(config.space, batch_limit=n_rows, packs=config.data.packing)
    if config.objective is None:
        check_values(config, space)
        try:
            plan_training(with_alpha(config.standard or {}), config.training, n_rows or 1)
        except ConfigError as error:  # here, and not when the search is over
            raise ConfigError(f"standard: {error}") from None
    for seed_config in config.search.seed_configs or []:
        space.nearest(seed_config)
    with_beliefs(get_preset(config.search.preset), config.beliefs.said)  # raises where it reads none
    return space


def check_values(config: RunConfig, space: SearchSpace | None = None) -> None:
    """Checks the knobs of a run with the built-in trainer and their values, before anything is loaded.

    Raises:
        ConfigError: a knob that is missing or unknown, a value that no training takes, or processes that
            cannot share a trial.
    """
    _check_processes(config)
    _check_groups(config)
    if config.objective is not None:
        return
    space = build_space(config.space) if space is None else space
    check_knobs(space.names)
    for knob in space:
        row = KNOBS[knob.name]
        for value in knob.values:
            if problem := row.problem(value):
                raise ConfigError(f"space: knob {knob.name}: values are {problem}; got {value}")
            if row.is_setting and not row.named:
                plan_training(with_alpha(STANDARD) | {knob.name: value}, config.training, 1)
    if any(KNOBS[knob.name].named for knob in space):
        _check_together(config, space)


def _check_together(config: RunConfig, space: SearchSpace) -> None:
    """Raises ConfigError where names that a candidate has do not go with its other settings."""
    knobs = [knob for knob in space if KNOBS[knob.name].is_setting]
    places = np.stack(
        [p for k, p in zip(space, space.positions(space.candidates), strict=True) if k in knobs], axis=1
    )
    for row in np.unique(places, axis=0)[:_TOGETHER].tolist():
        own = {knob.name: knob.values[place] for knob, place in zip(knobs, row, strict=True)}
        try:
            settings_with(config.training, own)
        except ConfigError as error:
            raise ConfigError(f"space: {error}; leave it out, or exclude it by a constraint") from None


def _check_groups(config: RunConfig) -> None:
    """Raises ConfigError where trials are to train together that cannot."""
    execution, problem = config.execution, ""
    if execution.trials_together == 1:
        return
    if config.objective is not None:
        problem = "is of the built-in trainer; a trainer of your own trains one config at a time"
    elif execution.executor == "ray":
        problem = "a worker on a Ray cluster trains one trial at a time"
    elif config.processes > 1:
        problem = f"{config.processes} processes share each trial, which each have one adapter"
    if problem:
        raise ConfigError(f"execution.trials_together: {problem}; leave it out")


def _check_shards(config: RunConfig) -> None:
    """Raises ConfigError where a base model is to be divided between processes and cannot be."""
    if not config.execution.shard_model:
        return
    space = build_space(config.space)
    names = {config.training.variant, *(space["variant"].texts if "variant" in space.names else ())}
    whole = sorted({name for name in names if VARIANTS[name].reads_weights})
    problem = ""
    if config.processes == 1:
        problem = (
            "divides the base model between the processes of a trial, and there is one; set gpus_per_trial "
            "or, on CPUs, processes_per_trial"
        )
    elif config.quantization is not None:
        problem = f"weights in {config.quantization} cannot be divided; leave out quantization or shard_model"
    elif whole:
        others = ", ".join(name for name, row in VARIANTS.items() if not row.reads_weights)
        problem = (
            f"variant {whole[0]} begins with whole weights, of which each process holds a part; use {others}"
        )
    elif run_preset(config).reads and config.language.model == "same":
        problem = (
            "language.model: same reads prompts with the whole base model; name a smaller one there, or use "
            "a preset that reads none, such as default"
        )
    if problem:
        raise ConfigError(f"execution.shard_model: {problem}")


def _check_processes(config: RunConfig) -> None:
    """Raises ConfigError where a trial cannot be divided between processes as it is asked for."""
    processes, gpus = config.execution.processes_per_trial, config.execution.gpus_per_trial
    if config.objective is not None:
        if processes is not None:
            raise ConfigError(
                "execution.processes_per_trial: is of the built-in trainer; a trainer of your own starts its "
                "own processes"
            )
        if config.execution.shard_model:
            raise ConfigError("execution.shard_model: is of the built-in trainer; leave it out")
        return
    _check_shards(config)
    if config.processes == 1 and not gpus:
        return
    problem = ""
    if gpus and processes and gpus != processes:
        problem = (
            f"{processes} processes with {gpus} GPUs: each has one, as a base model has to fit one GPU; give "
            "one of gpus_per_trial and processes_per_trial"
        )
    elif config.processes > 1 and config.execution.workers == 0:
        problem = f"{config.processes} processes a trial need workers: 1 or more, which end with their trial"
    elif gpus and gpus > 1 and config.device == "cpu":
        problem = f"gpus_per_trial: {gpus} with device: cpu; set processes_per_trial instead"
    elif config.processes > 1 and (config.device.startswith("cuda:") or config.device == "mps"):
        problem = f"{config.processes} processes a trial cannot share {config.device}; use cuda, cpu or auto"
    if problem:
        raise ConfigError(f"execution: {problem}")


def run_preset(config: RunConfig, contents: Mapping[str, str] | None = None) -> Preset:
    """How configs are chosen, with what the user has named to begin with.

    Args:
        config: of the run.
        contents: of the run: the size of its model, how much of the data trials see, and whether it was
            begun with an earlier prior, with which it then goes on as before.

    Raises:
        ConfigError: see `get_preset`.
    """
    preset = get_preset(config.search.preset, language=config.language.model != "none")
    preset = with_standard(preset, config.standard)
    if config.search.seed_configs is not None:
        preset = replace(preset, seed_configs=tuple(config.search.seed_configs))
    preset = with_beliefs(preset, config.beliefs.said)
    contents = contents or {}
    if contents.get(PRIOR) == file_hash(EARLIER):
        return with_earlier_prior(preset)
    preset = with_parameters(preset, float(contents.get(PARAMETERS, 0)) or None)
    trial, _, whole = contents.get(PART, "1 of 1").partition(" of ")
    return with_data(preset, float(trial) / float(whole))


def reads_in_worker(config: RunConfig) -> bool:
    """Whether a worker reads the candidates' prompts: their features stay as they are, whatever model it is.

    With a learnable token they change in every fit, so there the driver holds the model; and a node of a
    cluster may see no run folder, through which features come back.
    """
    surrogate, asked = run_preset(config).surrogate, config.language.learnable_token
    if isinstance(surrogate, EnsembleSettings) or not surrogate.language:
        return False
    learnable = surrogate.learnable_token if asked is None else asked
    return config.execution.executor == "local" and not learnable


def prior_contents(
    preset: Preset, known: Mapping[str, str], parameters: int | None, part: str | None
) -> dict[str, str]:
    """What the search knows before the first trial, as part of what a run is made of.

    Args:
        preset: how configs are chosen.
        known: contents of the run, if it was begun before.
        parameters: of the base model; None: not known.
        part: what a trial trains on of all data, see `Report.part`; None: not known.
    """
    if preset.informed is None:
        return {}
    if known.get(PRIOR) == (earlier := file_hash(EARLIER)):
        return {PRIOR: earlier}
    found = {PRIOR: file_hash(preset.informed.prior or SHIPPED)}
    if parameters is not None:
        found[PARAMETERS] = str(parameters)
    if part is not None and (PART in known or PRIOR not in known):  # else it was begun without
        found[PART] = part
    return found
