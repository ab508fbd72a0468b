"""What a search believes after its trials: slices, importance, the prior's word, what is as good but cheaper.

Where the preset's own belief reads prompts with a language model, the belief on numbers of the preset
`default` stands in for it: it needs no model, and says what the trials show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from loracle.config.metrics import metric_of
from loracle.records.space import Config, SearchSpace, Value, number
from loracle.records.trial import History, Trial
from loracle.report.findings.importance import grid, importance, most_varied
from loracle.report.findings.records import (
    Chosen,
    Expectation,
    HeldLikely,
    Importance,
    NearEqual,
    PriorCheck,
    PriorKnobs,
    Slice,
    SlicePoint,
)
from loracle.report.findings.score_scale import WIDE, ScoreScale
from loracle.report.findings.surface import Grid, Surface
from loracle.search.ensemble import Ensemble, fit_ensemble, prior_alone
from loracle.search.feasibility import Feasibility
from loracle.search.observations import observed, row_of, rows_along, rows_of, tells, value_of
from loracle.search.presets import EnsembleSettings, Preset, get_preset
from loracle.search.prior import describe, knows
from loracle.search.propose import Beliefs

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_GRID = 1_200  # configs that joint draws are made at: they take the third power of it
_DRAWS = 200
_LOOKED_AT = 100_000  # candidates whose belief is asked for
_SHORTLIST = 150  # cheaper candidates that are compared with the leader
_SHOWN = 6  # of them
_ALONG = 16  # values of a knob on a surface
_LIKELY = 0.5  # probability to keep every guard, from which on a config is spoken well of


@dataclass(frozen=True)
class Understanding:
    """The belief of a run after its trials, made by `understand`.

    Attributes:
        space: that is searched.
        history: all trials, of which one has succeeded.
        ensemble: fitted to them.
        settings: what it is made of.
        scale: from its units to scores.
        leader: row of the candidate that leads or won.
        own: whether this is the belief that the search used.
        feasibility: what is believed of the guards; None where nothing is watched.
    """

    space: SearchSpace
    history: History
    ensemble: Ensemble
    settings: EnsembleSettings
    scale: ScoreScale
    leader: int
    own: bool
    feasibility: Feasibility | None = None

    # -- guards ---------------------------------------------------------------------------------------

    def keeps(self, rows: Rows) -> Floats | None:
        """Probability that each of m candidates keeps every guard, (m,); None where nothing is watched."""
        return None if self.feasibility is None else self.feasibility.probability(rows)

    def likely(self, rows: Rows) -> Mask:
        """Which of m candidates likely keep every guard, (m,): what was tried and lost one does not."""
        probability = self.keeps(rows)
        if probability is None or self.feasibility is None:
            return np.ones(len(rows), dtype=bool)
        asked = [trial.index for trial in self.history.succeeded if trial.outcome and trial.outcome.guards]
        tried, known = rows_of(self.space, asked)
        lost = np.isin(rows, tried[known]) & ~self.feasibility.keeps(rows)
        return np.asarray((probability >= _LIKELY) & ~lost)

    def _best(self, rows: Rows, mean: Floats) -> int:
        """The best believed of these rows that likely keeps every guard; the likeliest where none does."""
        likely, probability = self.likely(rows), self.keeps(rows)
        if probability is not None and not likely.any():
            return int(rows[np.argmax(probability)])
        return int(rows[np.argmax(np.where(likely, mean, -np.inf))])

    # -- what leads -----------------------------------------------------------------------------------

    @cached_property
    def chosen(self) -> Chosen | None:
        """What the leading config scored, and is believed to; None where there was nothing to choose from."""
        own = self._of_leader
        if not own or len({trial.index for trial in self.history.succeeded}) < 2:
            return None
        best = max(own, key=value_of)
        believed = self.scale.scores(self.ensemble.belief(at=np.array([self.leader])))[0]
        return Chosen(best.number, metric_of(self.scale.metric).read(value_of(best)), float(believed[0]))

    @property
    def _of_leader(self) -> list[Trial]:
        """Trials of the leading config that succeeded."""
        index = int(self.space.candidates[self.leader])
        return [trial for trial in self.history.succeeded if trial.index == index]

    # -- slices ---------------------------------------------------------------------------------------

    @cached_property
    def slices(self) -> tuple[Slice, ...]:
        """One a knob with several values, learning rate, alpha and rank first."""
        first = ("learning_rate", "alpha_ratio", "alpha", "rank")
        names = [knob.name for knob in self.space.knobs if len(knob.values) > 1]
        names.sort(key=lambda name: first.index(name) if name in first else len(first))
        return tuple(filter(None, map(self._slice, names)))

    def _slice(self, name: str) -> Slice | None:
        knob, config = self.space[name], self._config(self.leader)
        values, rows = rows_along(self.space, config, name)
        ends = self.scale.scores(self.ensemble.belief(at=rows))
        points = tuple(
            SlicePoint(value, *map(float, point)) for value, *point in zip(values, *ends, strict=True)
        )
        if len(points) < 2:
            return None
        own = config[name]
        at = own if isinstance(own, str) else float(own)
        return Slice(name, at, knob.scale in ("log2", "log10"), points, knob.named)

    # -- two knobs at once ----------------------------------------------------------------------------

    def surface(self, *, whole: bool) -> Surface | None:
        """The belief over learning rate and alpha / rank or, where one of them is no knob, over those of the
        strongest interaction, which takes a moment to find; so not unless `whole`."""
        names = self._two(whole=whole)
        if names is None:
            return None
        config, knobs = self._config(self.leader), tuple(self.space[name] for name in names)
        across, up = (_some(knob.values, knob.position(config[knob.name])) for knob in knobs)
        own = {name: config[name] for name in self.space.names}
        wanted = [self.space.index(own | {names[0]: x, names[1]: y}) for y in up for x in across]
        rows, known = rows_of(self.space, self.space.canonical(wanted).tolist())
        scores, lows, highs = self.scale.scores(self.ensemble.belief(at=rows[known]))
        keeps = self.keeps(rows[known])

        def grid_of(numbers: Floats) -> Grid:
            cells: list[float | None] = [None] * len(wanted)
            for place, shown in zip(np.flatnonzero(known).tolist(), numbers.tolist(), strict=True):
                cells[place] = shown
            return tuple(tuple(cells[i : i + len(across)]) for i in range(0, len(cells), len(across)))

        return Surface(
            names,
            (across, up),
            (config[names[0]], config[names[1]]),
            (knobs[0].named, knobs[1].named),
            grid_of(scores),
            grid_of(lows),
            grid_of(highs),
            None if keeps is None else grid_of(keeps),
        )

    def _two(self, *, whole: bool) -> tuple[str, str] | None:
        """Names of the knobs of the surface; None where there are none."""
        varied = [knob.name for knob in self.space.knobs if len(knob.values) > 1]
        for scale in ("alpha_ratio", "alpha"):
            if {"learning_rate", scale} <= set(varied):
                return "learning_rate", scale
        pair = self.importance.interaction if whole and self.importance is not None else None
        return None if pair is None else (pair.knobs[0], pair.knobs[1])

    # -- importance -----------------------------------------------------------------------------------

    @cached_property
    def importance(self) -> Importance | None:
        """In the units of the belief, where scores below the median count by their rank."""
        spreads = {one.knob: float(np.ptp([point.score for point in one.points])) for one in self.slices}
        kept = most_varied(self.space, spreads)
        config = _searched(self._config(self.leader), self.space)
        fixed = {k.name: k.position(config[k.name]) for k in self.space.knobs if k.name not in kept}
        rows, positions = grid(self.space, _GRID, fixed)
        distinct, places = np.unique(rows, return_inverse=True)
        draws = self.ensemble.draws(distinct, _DRAWS)[:, places.ravel()]
        return importance(self.space.names, positions, draws)

    # -- prior ----------------------------------------------------------------------------------------

    @property
    def prior_knobs(self) -> PriorKnobs | None:
        """Which knobs the prior knows; None where there is none."""
        return prior_knobs(self.space) if self.settings.informed > 0 else None

    @cached_property
    def prior(self) -> PriorCheck | None:
        """None where there is none, or it says the same of all candidates."""
        if self.prior_knobs is None or self.prior_knobs.silent:
            return None
        looked = self._looked_at
        before = prior_alone(self.settings, describe(self.space))
        mean = before.belief(at=looked).mean
        kept, rows = self._seen
        expected = before.belief(at=rows).mean
        ordered = np.sort(mean)
        ranks = np.searchsorted(ordered, expected) / len(ordered)
        values = [trial.outcome.value if trial.outcome else None for trial in kept]
        scores = [None if value is None else float(self._read(value)) for value in values]
        now, favourite = self.ensemble.belief(at=looked).mean, self._config(int(looked[np.argmax(mean)]))
        return PriorCheck(
            tuple(
                Expectation(trial.number, float(rank), score)
                for trial, rank, score in zip(kept, ranks, scores, strict=True)
            ),
            _spearman(expected, _values(kept)),
            self.ensemble.informed,
            self.settings.informed,
            {name: value for name, value in favourite.items() if name not in self.prior_knobs.unknown},
            self._config(self._best(looked, now)),
        )

    @cached_property
    def held(self) -> HeldLikely | None:
        """What became of what the user holds likely; None where that is nothing."""
        said = self.settings.beliefs
        if not said:
            return None
        doubts, nothing = said.doubts(self.space), np.zeros(0)
        before = fit_ensemble(self.settings, describe(self.space), nothing.astype(np.int64), nothing, doubts)
        mean = before.belief(at=self._looked_at).mean
        best = np.flatnonzero(mean > mean.max() - 1e-9)
        favourite = self._config(int(self._looked_at[best[0]])) if len(best) == 1 else None
        kept, rows = self._seen
        return HeldLikely(
            str(said),
            favourite,
            float((doubts < doubts[self.leader] - 1e-9).mean()),
            _spearman(-doubts[rows], _values(kept)),
            len(rows),
            self.ensemble.believing,
            before.believing,
            self.prior_knobs is None or self.prior_knobs.silent,
        )

    @cached_property
    def _seen(self) -> tuple[list[Trial], Rows]:
        """Trials that said something of a candidate, n of them, and its row, (n,)."""
        seen = [trial for trial in self.history.trials if tells(trial)]
        rows, known = rows_of(self.space, [trial.index for trial in seen])
        return [trial for trial, is_one in zip(seen, known, strict=True) if is_one], rows[known]

    # -- as good, and cheaper -------------------------------------------------------------------------

    def near_equals(self, steps: Callable[[Config], int | None]) -> tuple[NearEqual, ...]:
        """Candidates with a smaller rank or fewer steps, neither being more, that are as good within noise.

        As good: the believed difference, either way, is less than the standard deviation of a score (as
        fitted, or of the items that the leading one was scored on, whichever is larger), its interval holds
        0, and every guard is likely kept. The best believed one of each rank.

        Args:
            steps: of a training of a config; None where nobody knows.
        """
        config = self._config(self.leader)
        rank, own_steps = number(config["rank"]) if "rank" in config else None, steps(config)
        looked = self._looked_at
        mean = self.ensemble.belief(at=looked).mean
        there, noise = float(self.ensemble.belief(at=np.array([self.leader])).mean[0]), self._noise
        near = (np.abs(mean - there) <= noise) & self.likely(looked)
        looked, mean = looked[near], mean[near]
        if rank is not None:
            fits = self.space.values(self.space.candidates[looked])["rank"] <= rank
            looked, mean = looked[fits], mean[fits]
        looked = looked[np.argsort(-mean, kind="stable")][: 20 * _SHORTLIST]
        cheaper = [row for row in looked.tolist() if self._cheaper(row, rank, own_steps, steps)][:_SHORTLIST]
        if not cheaper:
            return ()
        drawn = self.scale.value(self.ensemble.draws(np.array([self.leader, *cheaper]), 2 * _DRAWS))
        differences = drawn[:, 1:] - drawn[:, :1]
        low, middle, high = np.percentile(differences, [2.5, 50, 97.5], axis=0)
        # Two different scores alone do not say what a difference is worth: the belief's units do.
        within = noise * self.scale.slope if self.scale.slope > 0 else math.inf
        tried = {trial.index: trial.number for trial in self.history.succeeded}
        found: dict[object, NearEqual] = {}
        for place, row in enumerate(cheaper):
            one = self._config(row)
            if low[place] <= 0 <= high[place] and abs(middle[place]) <= within:
                trial = tried.get(int(self.space.candidates[row]))
                key = one.get("rank", place)
                if key not in found:
                    ends = (float(middle[place]), float(low[place]), float(high[place]))
                    size = int(one["rank"]) if "rank" in one else None
                    found[key] = NearEqual(one, size, steps(one), *ends, trial)
        return tuple(sorted(found.values(), key=lambda one: (one.rank or 0, one.steps or 0)))[:_SHOWN]

    @property
    def _noise(self) -> float:
        """Standard deviation of a score, in transformed units: that of its items where it is larger, for
        scores that happen to be equal look as if they had none."""
        own = [trial.outcome.metrics for trial in self._of_leader if trial.outcome]
        ends = [(found["low"], found["high"]) for found in own if {"low", "high"} <= found.keys()]
        of_items = max(((high - low) / (2 * WIDE) for low, high in ends), default=0.0)
        return max(self.ensemble.noise, of_items / self.scale.slope if self.scale.slope > 0 else 0.0)

    def _cheaper(
        self, row: int, rank: float | None, own: int | None, steps: Callable[[Config], int | None]
    ) -> bool:
        config = self._config(row)
        asked = steps(config)
        smaller = rank is not None and number(config["rank"]) < rank
        if own is None or asked is None:
            return smaller
        return asked <= own and (smaller or asked < own)

    # -- helpers --------------------------------------------------------------------------------------

    def _config(self, row: int) -> Config:
        return self.space.config(int(self.space.candidates[row]))

    def _read(self, value: float) -> float:
        return metric_of(self.scale.metric).read(value)

    @cached_property
    def _looked_at(self) -> Rows:
        """All candidates, or of very many some that are drawn evenly, and those that were tried."""
        everything = np.arange(len(self.space.candidates))
        if len(everything) <= _LOOKED_AT:
            return everything
        some = np.random.default_rng(0).choice(everything, _LOOKED_AT, replace=False)
        rows, known = rows_of(self.space, [trial.index for trial in self.history.succeeded])
        return np.unique(np.concatenate([some, rows[known]]))


def _some(values: Sequence[Value], own: int) -> tuple[Value, ...]:
    """Values of a knob that a surface shows: all, or of very many some, both ends and its own among them."""
    if len(values) <= _ALONG:
        return tuple(values)
    places = np.unique([*np.linspace(0, len(values) - 1, _ALONG).round().astype(int), own])
    return tuple(values[place] for place in places)


def prior_knobs(space: SearchSpace) -> PriorKnobs:
    """Which of the knobs with several values a prior knows."""
    known = knows(space)
    varied = (knob.name for knob in space.knobs if len(knob.values) > 1)
    return PriorKnobs(known, tuple(name for name in varied if name not in known))


def understand(
    space: SearchSpace, history: History, preset: Preset, seed: int, metric: str, leader: int
) -> Understanding | None:
    """The belief of what trials score, after these; None where none has succeeded.

    `leader` is the index of the config that leads or won.
    """
    found = observed(space, history)
    if found.diverged.all():
        return None
    own = isinstance(preset.surrogate, EnsembleSettings)
    if not own:
        preset = get_preset("default")
    preset = preset.of_trials
    assert isinstance(preset.surrogate, EnsembleSettings)
    beliefs = Beliefs.of(space, history, preset, None, seed)
    assert isinstance(beliefs.surrogate, Ensemble)
    scale = ScoreScale.of(beliefs.y, found.values, metric)
    row = row_of(space, int(space.canonical([leader])[0]))
    surrogate, settings = beliefs.surrogate, preset.surrogate
    return Understanding(space, history, surrogate, settings, scale, row, own, beliefs.feasibility)


@dataclass(frozen=True)
class BelievedScores:
    """What is believed of m configs: their indices, scores with 95 % intervals, and the probability that they
    keep every guard, (m,) each; None where nothing is watched."""

    indices: Rows
    score: Floats
    low: Floats
    high: Floats
    keeps: Floats | None = None


def believed_scores(understood: Understanding, indices: Rows | None = None) -> BelievedScores:
    """What a run believes of candidates; None: of all of them, the best believed first, and behind them those
    that likely lose a guard."""
    space = understood.space
    wanted = space.candidates if indices is None else space.canonical(indices)
    rows, _ = rows_of(space, wanted.tolist())
    belief = understood.ensemble.belief(at=rows)
    keeps = understood.keeps(rows)
    found = BelievedScores(np.asarray(wanted), *understood.scale.scores(belief), keeps)
    if indices is not None:
        return found
    order = np.lexsort((-belief.mean, ~understood.likely(rows)))  # stable
    kept = None if keeps is None else keeps[order]
    return BelievedScores(found.indices[order], found.score[order], found.low[order], found.high[order], kept)


def _values(trials: Sequence[Trial]) -> Floats:
    """Of n trials, (n,), failures below all others."""
    values = [trial.outcome.value if trial.outcome else None for trial in trials]
    return np.array([-np.inf if value is None else value for value in values])


def _searched(config: Config, space: SearchSpace) -> Config:
    return {name: config[name] for name in space.names}


def _spearman(a: Floats, b: Floats) -> float | None:
    """Rank correlation; None of fewer than three, or where one side does not vary."""
    if len(a) < 3:
        return None
    ranks = rankdata(a), rankdata(b)
    if any(np.ptp(one) == 0 for one in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])
