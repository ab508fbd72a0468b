"""From a history to the next configs. `propose` is a pure function; `Optimizer` is ask/tell over it.

Presets are data: which surrogate, how candidates are scored, which configs come first.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from loracle.errors import ConfigError, OutcomeError, SpaceError
from loracle.language.features import Features
from loracle.records.space import Config, Indices, SearchSpace, Value, with_alpha
from loracle.records.trial import FailureKind, History, Outcome, Trial
from loracle.search.acquisition import ACQUISITIONS
from loracle.search.ensemble import Ensemble, EnsembleSettings, fit_ensemble
from loracle.search.language_gp import Surrogate, SurrogateSettings, fit_surrogate, transform_outputs
from loracle.search.prior import describe
from loracle.text.escape import printable

# Good practice to start from, one decade and a half apart in alpha x learning_rate: the usual settings, a
# large step (fact 17: a higher alpha / rank often wins) and a small one (fact 19: 4e-3 is the low end).
GOOD_PRACTICE: tuple[dict[str, Value], ...] = (
    {"rank": 16, "alpha": 32, "dropout": 0.05, "batch_size": 16, "learning_rate": 2e-4},
    {"rank": 64, "alpha": 256, "dropout": 0.0, "batch_size": 16, "learning_rate": 3e-4},
    {"rank": 32, "alpha": 32, "dropout": 0.0, "batch_size": 32, "learning_rate": 1e-4},
)


@dataclass(frozen=True)
class Preset:
    """How configs are chosen.

    Attributes:
        surrogate: what the model of the score is made of: the published one, or the ensemble on numbers.
        acquisition: a name in `ACQUISITIONS`.
        incumbent: the value to improve on: the best observed, or the best posterior mean of what was tried.
        recommend: the same choice for the config that is recommended at the end.
        seed_configs: tried first, mapped to the nearest candidates.
    """

    surrogate: SurrogateSettings | EnsembleSettings
    acquisition: str
    incumbent: Literal["observed", "posterior_mean"]
    recommend: Literal["observed", "posterior_mean"]
    seed_configs: tuple[dict[str, Value], ...] = ()

    @property
    def reads(self) -> bool:
        """Whether it needs language features."""
        return isinstance(self.surrogate, SurrogateSettings) and self.surrogate.language


def _careful(
    surrogate: SurrogateSettings | EnsembleSettings, seed_configs: tuple[dict[str, Value], ...]
) -> Preset:
    return Preset(
        surrogate,
        acquisition="log_expected_improvement",
        incumbent="posterior_mean",
        recommend="posterior_mean",
        seed_configs=seed_configs,
    )


PRESETS: Mapping[str, Preset] = {
    # What other landscapes taught, weighed against a plain GP. The usual settings first: the comparison that
    # every user makes; the prior chooses the second config.
    "default": _careful(EnsembleSettings(), GOOD_PRACTICE[:1]),
    # The plain GP alone.
    "numeric": _careful(EnsembleSettings(informed=0.0), GOOD_PRACTICE),
    # The published kernel on language beside one on numbers, with our transform, priors and seed configs.
    "language": _careful(
        SurrogateSettings(
            language=True,
            numeric=True,
            learnable_token=False,
            output="half_rank",
            priors=True,
            fitted_on=150,
        ),
        GOOD_PRACTICE,
    ),
    # arXiv 2602.11171, settings as published; one random config first.
    "paper": Preset(
        SurrogateSettings(language=True, numeric=False),
        acquisition="expected_improvement",
        incumbent="observed",
        recommend="observed",
    ),
}


def get_preset(name: str, *, language: bool = True) -> Preset:
    """A preset by name.

    Raises:
        ConfigError: the name is unknown, or it reads prompts and there is no language model.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    if PRESETS[name].reads and not language:
        raise ConfigError(f"the preset {name!r} reads prompts; name a language model, or use 'default'")
    return PRESETS[name]


def with_standard(preset: Preset, standard: Mapping[str, Value] | None) -> Preset:
    """The same preset, with the settings that a user compares with in the place of the usual ones.

    They are tried first, because every user asks what tuning gains over them. A preset that tries no seed
    configs stays without.
    """
    if not standard or not preset.seed_configs:
        return preset
    return replace(preset, seed_configs=(dict(standard), *preset.seed_configs[1:]))


def propose(
    space: SearchSpace,
    history: History,
    preset: Preset,
    *,
    features: Features | None = None,
    n: int = 1,
    seed: int = 0,
    allowed: npt.NDArray[np.bool_] | None = None,
    strict: bool = True,
) -> list[int]:
    """Indices of the next `n` configs to train, all different and none tried before.

    Depends on its arguments alone: the same history and seed give the same answer, so a resumed run equals
    one that never stopped. Candidates that are not `allowed`, (N,), are left out, and so is what is at least
    as large as a config that ran out of memory. Seed configs come first, then the best of the acquisition
    function, one after the other with the earlier ones pending. Before the first observation there is only
    the prior to go by, or chance where the preset has none.

    Raises:
        SpaceError: the history holds an index outside the space, or, if `strict`, fewer than `n` candidates
            are left; otherwise those come back.
    """
    open_rows = _untried(space, history) & _fitting(space, history)
    if allowed is not None:
        open_rows &= allowed
    if not strict:
        n = min(n, int(open_rows.sum()))
    if int(open_rows.sum()) < n:
        raise SpaceError(
            f"{n} configs are wanted, but only {int(open_rows.sum())} of {len(space.candidates):,} "
            "candidates are untried and fit into memory; stop here or widen the space"
        )
    chosen: list[int] = []
    for index in seed_indices(space, preset.seed_configs):
        row = _row(space, index)
        if len(chosen) < n and open_rows[row]:
            chosen.append(index)
            open_rows[row] = False
    informed = isinstance(preset.surrogate, EnsembleSettings) and preset.surrogate.informed > 0
    surrogate = None
    while len(chosen) < n:
        waiting, known = _rows(space, [trial.index for trial in history.pending])
        pending = [*waiting[known].tolist(), *(_row(space, index) for index in chosen)]
        if informed or _observations(space, history)[0].size > 0:
            surrogate = surrogate or _fit(space, history, preset, features, seed)
            row = _best_row(surrogate, preset, space, history, pending, open_rows)
        else:
            # Random configs, different for every position in the run. Interrupted trials do not count, so
            # that a run that was killed goes on as if it had not been.
            taken = int((~_untried(space, history)).sum()) + len(chosen)
            row = int(np.random.default_rng([seed, taken]).choice(np.flatnonzero(open_rows)))
        chosen.append(int(space.candidates[row]))
        open_rows[row] = False
    return chosen


def ranking(
    space: SearchSpace,
    history: History,
    preset: Preset,
    *,
    features: Features | None = None,
    seed: int = 0,
) -> list[int]:
    """Indices of the configs that were trained successfully, the one to use first.

    By posterior mean, the best raw value is not trusted blindly: of many noisy scores the largest is partly
    luck. Ties go to the better observed value, then to the earlier trial.

    Raises:
        SpaceError: no trial has succeeded.
    """
    succeeded = history.succeeded
    found, known = _rows(space, [trial.index for trial in succeeded])
    rows = found[known].tolist()
    succeeded = tuple(trial for trial, is_one in zip(succeeded, known, strict=True) if is_one)
    if not succeeded:
        raise SpaceError("no trial has succeeded, so there is nothing to recommend")
    scores = [(_value(trial), 0.0) for trial in succeeded]
    if preset.recommend == "posterior_mean":
        surrogate = _fit(space, history, preset, features, seed)
        if isinstance(surrogate, Ensemble):
            mean = surrogate.belief(at=rows).mean
        else:
            mean = surrogate.belief().mean[rows]
        scores = [(float(m), _value(trial)) for m, trial in zip(mean, succeeded, strict=True)]
    order = sorted(range(len(succeeded)), key=lambda i: (-scores[i][0], -scores[i][1], i))
    return list(dict.fromkeys(succeeded[i].index for i in order))


def recommend(
    space: SearchSpace,
    history: History,
    preset: Preset,
    *,
    features: Features | None = None,
    seed: int = 0,
) -> int:
    """Index of the config to use: the first of `ranking`, and raises like it."""
    return ranking(space, history, preset, features=features, seed=seed)[0]


@dataclass
class Optimizer:
    """Ask for configs, tell their outcomes. All state is `history`; every answer comes from `propose`.

    Example:
        optimizer = Optimizer(default_space())
        index, = optimizer.ask()
        optimizer.tell(index, train(optimizer.space.config(index)))
    """

    space: SearchSpace
    preset: Preset = field(default_factory=lambda: PRESETS["default"])
    features: Features | None = None
    seed: int = 0
    history: History = field(default_factory=History)

    def ask(self, n: int = 1) -> list[int]:
        """The next `n` indices; they are pending from now on. Raises like `propose`."""
        if (number := _whole(n)) is None or number < 0:
            raise SpaceError(f"ask takes how many configs are wanted, a whole number; got {_shown(n)}")
        n = number
        indices = propose(self.space, self.history, self.preset, features=self.features, n=n, seed=self.seed)
        first = len(self.history.trials)
        started = tuple(Trial(first + i, index) for i, index in enumerate(indices))
        self.history = History(self.history.trials + started)
        return indices

    def tell(self, index: int, outcome: Outcome | float) -> None:
        """Records what the oldest pending trial of `index` gave, or adds a trial that was never asked for.

        Raises:
            SpaceError: the index is not a candidate of the space, or no index.
            OutcomeError: a value that is no finite number; tell an `Outcome` with a `Failure` instead.
        """
        number = _whole(index)
        if number is None:
            raise SpaceError(
                f"tell takes the index of a candidate, as ask gave it; got {_shown(index)}. "
                "The index of a config is space.index(config)"
            )
        index = number
        _row(self.space, index)
        if not isinstance(outcome, Outcome):
            outcome = Outcome(_finite(outcome))
        elif outcome.value is not None:
            _finite(outcome.value)
        trials = list(self.history.trials)
        for position, trial in enumerate(trials):
            if trial.index == index and trial.outcome is None:
                trials[position] = replace(trial, outcome=outcome)
                break
        else:
            trials.append(Trial(len(trials), index, outcome))
        self.history = History(tuple(trials))

    def recommend(self) -> Config:
        """The config to use. Raises like `recommend`."""
        index = recommend(self.space, self.history, self.preset, features=self.features, seed=self.seed)
        return self.space.config(index)


# -- helpers ----------------------------------------------------------------------------------------


def _whole(given: object) -> int | None:
    """A whole number of Python's, NumPy's or Torch's; None for anything else, True and 1.0 as well."""
    plain = _plain(given)
    if isinstance(plain, bool):
        return None
    try:
        return operator.index(plain)  # type: ignore[arg-type]
    except TypeError:
        return None


def _finite(given: object) -> float:
    """A told value. Raises OutcomeError if it is no finite number."""
    plain = _plain(given)
    number = None
    if not isinstance(plain, bool | str | bytes | bytearray):
        try:
            number = float(plain)  # type: ignore[arg-type]
        except OverflowError:  # a whole number beyond 1.8e308
            number = math.inf
        except (TypeError, ValueError):
            pass
    if number is None or not math.isfinite(number):
        raise OutcomeError(
            f"a told value must be finite, a number; got {_shown(given)}. Of a trial that failed, tell "
            "Outcome(None, failure=Failure(FailureKind.DIVERGED, ...))"
        )
    return number


def _plain(given: object) -> object:
    """What an array or tensor of one number holds; anything else as it is."""
    if isinstance(given, np.generic):
        return given.item()
    if isinstance(given, np.ndarray | torch.Tensor) and given.ndim == 0:
        return given.item()
    return given


def _shown(given: object) -> str:
    """What was given, in one short line."""
    if isinstance(given, int) and abs(given) > 10**18:
        return "a whole number beyond 1e18"  # str refuses more than 4,300 digits
    return printable(repr(given), 60)


def _rows(space: SearchSpace, indices: Sequence[int]) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """Rows of some indices in everything that is listed by candidate, and which of them are candidates."""
    wanted = np.asarray(indices, dtype=np.int64)
    rows = np.searchsorted(space.candidates, wanted).clip(max=len(space.candidates) - 1)
    return rows, space.candidates[rows] == wanted


def _row(space: SearchSpace, index: int) -> int:
    """The row of a candidate. Raises SpaceError if the index is none."""
    if not 0 <= index < space.size:
        raise SpaceError(f"index {_shown(index)} is not a candidate of this space")
    (row,), (known,) = _rows(space, [index])
    if not known:
        raise SpaceError(f"index {index} is not a candidate of this space")
    return int(row)


def _untried(space: SearchSpace, history: History) -> npt.NDArray[np.bool_]:
    """Which candidates are free, (N,). Interrupted trials said nothing, so their configs are free again."""
    for trial in history.trials:
        if not 0 <= trial.index < space.size:
            space.config(trial.index)  # refuses a history of another space
    rows, known = _rows(space, [trial.index for trial in history.trials if not trial.interrupted])
    free = np.ones(len(space.candidates), dtype=bool)
    free[rows[known]] = False
    return free


def _fitting(space: SearchSpace, history: History) -> npt.NDArray[np.bool_]:
    """Which candidates may fit into memory, (N,): no config that ran out of it was at most as large.

    Memory grows with the rank and, up to the micro-batch, with the batch. A space without either says nothing
    about size, and then only the config itself is not tried again.
    """
    fits = np.ones(len(space.candidates), dtype=bool)
    sizes = [name for name in ("rank", "batch_size") if name in space.names]
    failures = [(t.index, t.outcome.failure) for t in history.finished if t.outcome and t.outcome.failure]
    large = [index for index, failure in failures if failure.kind is FailureKind.OUT_OF_MEMORY]
    if not large or not sizes:
        return fits
    values = space.values(space.candidates)
    for config in map(space.config, large):
        fits &= ~np.all([values[name] >= config[name] for name in sizes], axis=0)
    return fits


def _observations(
    space: SearchSpace, history: History
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Rows, values (NaN where diverged) and whether diverged, of all trials that say something; (n,) each.

    A diverged trial is worse than any success. Out of memory, timeout, crash and loss say nothing about the
    score: their configs are only not tried again.
    """
    telling, values = [], []
    for trial in history.finished:
        assert trial.outcome is not None
        failure = trial.outcome.failure
        if failure is None or failure.kind is FailureKind.DIVERGED:
            telling.append(trial.index)
            values.append(np.nan if failure else _value(trial))
    rows, known = _rows(space, telling)
    scores = np.array(values, dtype=np.float64)[known]
    return rows[known], scores, np.isnan(scores)


def _value(trial: Trial) -> float:
    assert trial.outcome is not None
    assert trial.outcome.value is not None
    return trial.outcome.value


def seed_indices(space: SearchSpace, configs: Sequence[Mapping[str, Value]]) -> list[int]:
    """Candidates nearest to the preset's seed configs, in order, without repeats."""
    found: list[int] = []
    for config in configs:
        index = space.nearest(_complete(space, config))
        if index not in found:
            found.append(index)
    return found


def _complete(space: SearchSpace, config: Mapping[str, Value]) -> Config:
    """`config` in the knobs and ranges of this space: middle values for what it lacks, the rest left out."""
    full = with_alpha(config)
    wanted = {knob.name: full.get(knob.name, knob.values[len(knob.values) // 2]) for knob in space.knobs}
    return {knob.name: min(max(wanted[knob.name], knob.values[0]), knob.values[-1]) for knob in space.knobs}


def _fit(
    space: SearchSpace, history: History, preset: Preset, features: Features | None, seed: int
) -> Surrogate | Ensemble:
    """The model of the score; the last one is kept, as the choice of the next config and the ranking of what
    has been tried ask for the same."""
    rows, values, diverged = _observations(space, history)
    y = transform_outputs(values, diverged, preset.surrogate.output)
    asked = (space.fingerprint, preset.surrogate, rows.tobytes(), y.tobytes(), seed)
    for known, read, fitted in tuple(_last):  # one or none, which another thread may replace
        if known == asked and read is features:
            return fitted
    if isinstance(preset.surrogate, EnsembleSettings):
        fitted = fit_ensemble(preset.surrogate, describe(space), rows, y)
    else:
        coordinates = space.coordinates(space.candidates)
        fitted = fit_surrogate(preset.surrogate, coordinates, features, rows, y, seed)
    _last[:] = [(asked, features, fitted)]
    return fitted


_last: list[tuple[tuple[object, ...], Features | None, Surrogate | Ensemble]] = []


def _best_row(
    surrogate: Surrogate | Ensemble,
    preset: Preset,
    space: SearchSpace,
    history: History,
    pending: Sequence[int],
    open_rows: npt.NDArray[np.bool_],
) -> int:
    """Row of the free candidate with the largest acquisition value; the lowest row of equals."""
    rows, values, diverged = _observations(space, history)
    tried = np.concatenate([rows, np.asarray(pending, dtype=np.int64)])
    free = np.flatnonzero(open_rows)
    if isinstance(surrogate, Ensemble) and len(tried):  # the others are of no interest
        belief = surrogate.belief(pending, at=np.concatenate([free, tried]))
        of_free, of_tried = belief.mean[: len(free)], belief.mean[len(free) :]
        sd = belief.sd[: len(free)]
    else:
        belief = surrogate.belief(pending)
        of_free, sd = belief.mean[free], belief.sd[free]
        of_tried = belief.mean[tried] if len(tried) else belief.mean
    if preset.incumbent == "posterior_mean":
        best = float(of_tried.max())
    else:
        best = float(transform_outputs(values, diverged, preset.surrogate.output).max())
    return int(free[int(torch.argmax(ACQUISITIONS[preset.acquisition](of_free, sd, best)))])
