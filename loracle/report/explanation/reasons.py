"""From a run's trials to the numbers of an explanation. The search is asked again, which it was made for:
`propose` depends on its arguments alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import ndtr

from loracle.config.metrics import metric_of
from loracle.config.settings import RunConfig
from loracle.errors import StudyError
from loracle.records.space import SearchSpace
from loracle.records.trial import GuardReading, History, Outcome, Trial
from loracle.report.explanation.records import (
    Conclusion,
    Evidence,
    Expected,
    Explanation,
    LostInFinals,
    Next,
    PriorWord,
    Proposal,
    Source,
    UsersWord,
)
from loracle.report.findings.beliefs import prior_knobs, understand
from loracle.report.findings.records import Chosen, PriorKnobs
from loracle.report.findings.score_scale import WIDE, ScoreScale, of_training
from loracle.report.findings.trials import final_outcomes, price
from loracle.report.verdict import Comparison
from loracle.search.acquisition import expected_improvement
from loracle.search.belief import Belief
from loracle.search.ensemble import Ensemble, prior_alone
from loracle.search.feasibility import Feasibility
from loracle.search.observations import row_of, rows_along, smaller_step, tells, untried, value_of
from loracle.search.presets import EnsembleSettings, Preset, get_preset
from loracle.search.prior import describe
from loracle.search.propose import Beliefs, propose, ranking, seed_indices

_DRAWS = 2000


@dataclass(frozen=True)
class Reasons:
    """What a run's search can be asked.

    Attributes:
        config, space: of the run.
        preset: how it chooses.
    """

    config: RunConfig
    space: SearchSpace
    preset: Preset

    @property
    def own(self) -> bool:
        """Whether its belief can be made again here: one that reads prompts needs the model that reads."""
        return isinstance(self.preset.surrogate, EnsembleSettings)

    @property
    def _asked(self) -> Preset:
        return (
            self.preset if self.own else replace(get_preset("default"), seed_configs=self.preset.seed_configs)
        )

    @property
    def _prior_knobs(self) -> PriorKnobs | None:
        return prior_knobs(self.space) if self._asked.informed else None

    def explain(
        self, history: History, numbers: tuple[int, ...] = (), comparison: Comparison | None = None
    ) -> Explanation:
        """Explains these trials, what may be concluded from all, and what to try next.

        Raises:
            StudyError: there is no such trial, or there are several objectives.
        """
        if self.config.objectives:
            raise StudyError(
                "a search of several objectives weighs them anew for every trial, so that no expected score "
                "explains one; loracle show lists the Pareto set, loracle verdict what test data tell"
            )
        trials = {trial.number: trial for trial in history.trials}
        for number in numbers:
            if number not in trials:
                raise StudyError(f"there is no trial {number}; the run has {len(trials)}, from 0 on")
        conclusions = sorted(self._conclusions(history, comparison), key=lambda one: not one.safe)
        return Explanation(
            self.config.metric,
            tuple(self._proposal(history, trials[number]) for number in numbers),
            tuple(conclusions),
            self._next(history, comparison),
            self.own,
            self._chosen(history, comparison),
            self._prior_knobs,
        )

    def _chosen(self, history: History, comparison: Comparison | None) -> Chosen | None:
        if not history.succeeded:
            return None
        leader, seed = self._order(history, comparison)[0], self.config.search.seed
        found = understand(self.space, history, self._asked, seed, self.config.metric, leader)
        return None if found is None else found.chosen

    def _order(self, history: History, comparison: Comparison | None) -> list[int]:
        """Indices of the configs that succeeded, the leading one first.

        After the end that is the winner, which further seeds, finalists or guards may have put before what
        the search ranks highest.
        """
        order = list(ranking(self.space, history, self._asked, seed=self.config.search.seed))
        if comparison is not None:
            winner = self.space.nearest({name: comparison.winner[name] for name in self.space.names})
            order.sort(key=lambda index: index != winner)  # stable
        return order

    # -- one trial ------------------------------------------------------------------------------------

    def _proposal(self, history: History, trial: Trial) -> Proposal:
        before = History(tuple(t for t in history.finished if t.number < trial.number and not t.interrupted))
        beliefs = self._beliefs(before)
        telling = [t for t in before.trials if tells(t)]
        failure = trial.outcome.failure if trial.outcome else None
        return Proposal(
            trial.number,
            self.space.config(trial.index),
            self._source(before, trial.index, beliefs),
            len(telling),
            self._again(before, trial),
            self._expected(beliefs, trial.index),
            self._nearest(telling, trial.index),
            self._prior(beliefs, trial.index),
            self._users(trial.index),
            None if trial.outcome is None or trial.outcome.value is None else self._read(trial.outcome.value),
            None if failure is None else str(failure.kind),
            trial.outcome.broken if trial.outcome else (),
        )

    def _source(self, before: History, index: int, beliefs: Beliefs) -> Source:
        if index in seed_indices(self.space, self._asked.seed_configs):
            return "named"
        if self._asked.retreats:
            smaller = smaller_step(self.space, before, untried(self.space, before))
            if index in self.space.candidates[smaller]:
                return "divergence"
        return "belief" if beliefs.informed else "chance"

    def _again(self, before: History, trial: Trial) -> bool | None:
        if not self.own:
            return None
        return propose(self.space, before, self._asked, seed=self.config.search.seed, strict=False) == [
            trial.index
        ]

    def _expected(self, beliefs: Beliefs, index: int) -> Expected | None:
        values = beliefs.observations.values
        if beliefs.surrogate is None or not np.isfinite(values).any():
            return None
        rows = np.concatenate([[row_of(self.space, index)], beliefs.observations.rows])
        belief = beliefs.surrogate.belief(at=rows)
        mean, sd = float(belief.mean[0]), float(belief.sd[0])
        keeps, known = None, belief.mean[1:]
        if beliefs.feasibility is not None:
            keeps = float(beliefs.feasibility.probability(rows[:1])[0])
            keeping = beliefs.feasibility.keeps(rows[1:])
            known = known[keeping] if keeping.any() else known
        best = float(known.max())
        scale = ScoreScale.of(beliefs.y, values, self.config.metric)
        if scale.slope <= 0:  # fewer than three different scores do not say what a difference is worth
            return None
        noise = beliefs.surrogate.noise if isinstance(beliefs.surrogate, Ensemble) else 0.0
        latent = Belief(belief.mean[:1], belief.sd[:1], belief.caution)
        of_score = of_training(latent, noise, int(np.isfinite(values).sum()))
        middle, low, high = (float(end[0]) for end in scale.scores(of_score))
        top = self._read(float(scale.value(np.array([best]))[0]))
        gain = float(expected_improvement(np.array([mean]), np.array([sd]), best)[0]) * scale.slope
        chance = float(ndtr((mean - best) / max(sd, 1e-12)))
        or_worse = bool(mean - WIDE * of_score.caution * of_score.sd[0] <= scale.y[0])
        return Expected(middle, low, high, top, gain, chance, keeps, or_worse)

    def _nearest(self, known: list[Trial], index: int) -> Evidence | None:
        if not known:
            return None
        indices = np.array([index, *(trial.index for trial in known)])
        places = self.space.coordinates(indices)
        place = int(np.argmin(((places[1:] - places[0]) ** 2).sum(axis=1)))
        near, own = known[place], self.space.config(index)
        there = self.space.config(near.index)
        differs = tuple(name for name in self.space.names if own[name] != there[name])
        value = near.outcome.value if near.outcome else None
        return Evidence(near.number, None if value is None else self._read(value), differs)

    def _prior(self, beliefs: Beliefs, index: int) -> PriorWord | None:
        settings, knobs = self._asked.informed, self._prior_knobs
        if settings is None or knobs is None or knobs.silent:
            return None
        mean = prior_alone(settings, describe(self.space)).belief().mean
        share = float((mean > mean[row_of(self.space, index)]).mean())
        assert isinstance(beliefs.surrogate, Ensemble)
        return PriorWord(share, beliefs.surrogate.informed)

    def _users(self, index: int) -> UsersWord | None:
        settings = self._asked.surrogate
        if not isinstance(settings, EnsembleSettings) or not settings.beliefs:
            return None
        doubts = settings.beliefs.doubts(self.space)
        return UsersWord(str(settings.beliefs), float((doubts < doubts[row_of(self.space, index)]).mean()))

    # -- all of them ----------------------------------------------------------------------------------

    def _conclusions(self, history: History, comparison: Comparison | None) -> list[Conclusion]:
        found = []
        if comparison is not None and comparison.difference is not None and not comparison.same:
            assert comparison.low is not None
            assert comparison.high is not None
            safe = comparison.standing in ("better", "worse")
            ends = (comparison.difference, comparison.low, comparison.high)
            found.append(Conclusion("standard", safe, *ends, name="standard"))
        if comparison is not None:
            found += [_kept(*guard) for guard in comparison.winner_outcome.guards.items()]
        if len({trial.index for trial in history.succeeded}) < 2:
            return found
        beliefs = self._beliefs(history)
        if not isinstance(beliefs.surrogate, Ensemble):
            return found
        scale = ScoreScale.of(beliefs.y, beliefs.observations.values, self.config.metric)
        order = self._order(history, comparison)
        best_of = {t.index: t.number for t in sorted(history.succeeded, key=value_of)}
        rows, name = [row_of(self.space, i) for i in order[:2]], f"trial {best_of[order[1]]}"
        rival = _difference(beliefs.surrogate, scale, rows, "runner_up", name)
        outcomes = [t.outcome for t in history.succeeded if t.outcome and t.index == order[1]]
        lost = outcomes[0].broken if all(outcome.broken for outcome in outcomes) else ()
        believed = [replace(rival, broken=lost)]
        believed += self._knobs(beliefs.surrogate, scale, order[0], beliefs.feasibility)
        if metric_of(self.config.metric).proportion and _within_noise(history.succeeded):
            believed = [replace(one, safe=False) for one in believed]
        return found + believed

    def _knobs(
        self, belief: Ensemble, scale: ScoreScale, leader: int, feasibility: Feasibility | None
    ) -> list[Conclusion]:
        """What each knob's best value changes against its worst, all else as in the leading config."""
        own = self.space.config(leader)
        found = []
        for knob in self.space.knobs:
            values, rows = rows_along(self.space, own, knob.name)
            if len(set(rows.tolist())) < 2:
                continue
            mean = belief.belief(at=rows).mean
            ends = [int(np.argmax(mean)), int(np.argmin(mean))]
            one = _difference(belief, scale, [int(rows[end]) for end in ends], "knob", knob.name)
            keeps = None
            if feasibility is not None:
                keeps = float(feasibility.probability(rows[ends[:1]])[0])
            found.append(replace(one, best=values[ends[0]], keeps=keeps))
        return sorted(found, key=lambda one: -one.difference)

    def _next(self, history: History, comparison: Comparison | None) -> Next | None:
        done = History(tuple(trial for trial in history.trials if not trial.interrupted))
        chosen = propose(self.space, done, self._asked, seed=self.config.search.seed, strict=False)
        if not chosen:
            return None
        outcomes = [trial.outcome for trial in history.succeeded if trial.outcome]
        seconds = float(np.median([outcome.seconds for outcome in outcomes])) if outcomes else None
        cost = None if seconds is None else price(self.config, seconds)
        expected = self._expected(self._beliefs(history), chosen[0])
        config, finals = self.space.config(chosen[0]), final_outcomes(comparison, outcomes)
        return Next(config, expected, seconds, cost, _rows(outcomes), _lost(finals))

    # -- helpers --------------------------------------------------------------------------------------

    def _beliefs(self, history: History) -> Beliefs:
        return Beliefs.of(self.space, history, self._asked.of_trials, None, self.config.search.seed)

    def _read(self, value: float) -> float:
        return metric_of(self.config.metric).read(value)


def _within_noise(trials: Sequence[Trial]) -> bool:
    """Whether the 95 % intervals of the best and the worst share overlap; the belief knows of no items."""
    scored = sorted((t.outcome for t in trials if t.outcome), key=lambda outcome: outcome.value or 0.0)
    worst, best = scored[0].metrics, scored[-1].metrics
    return "high" in worst and "low" in best and best["low"] <= worst["high"]


def _kept(name: str, reading: GuardReading) -> Conclusion:
    """Whether the winner, trained on all data, keeps what must not be lost, and whether the items tell it."""
    safe = reading.items > 0 and (not reading.kept or reading.low + reading.allowed >= 0)
    return Conclusion("guard", safe, reading.change, reading.low, reading.high, name=name, reading=reading)


def _lost(finals: list[Outcome]) -> LostInFinals | None:
    """What final trainings lost that must not be lost; None where that is nothing."""
    scored = [outcome for outcome in finals if outcome.guards]
    counts = Counter(name for outcome in scored for name in outcome.broken)
    return LostInFinals(len(scored), dict(counts), _rows(scored)) if counts else None


def _rows(outcomes: list[Outcome]) -> int | None:
    """How many rows trainings were on, the median of them; None where they do not say."""
    known = [outcome.metrics["n_examples"] for outcome in outcomes if "n_examples" in outcome.metrics]
    return int(np.median(known)) if known else None


def _difference(
    belief: Ensemble, scale: ScoreScale, rows: list[int], about: Literal["runner_up", "knob"], name: str
) -> Conclusion:
    """The first of two rows less the second, in values, of functions drawn from the belief."""
    drawn = scale.value(belief.draws(np.array(rows), _DRAWS))
    low, middle, high = np.percentile(drawn[:, 0] - drawn[:, 1], [2.5, 50, 97.5]).tolist()
    return Conclusion(about, low > 0 or high < 0, middle, low, high, name=name)
