"""Stops wrecks in an Optuna study, with any sampler."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optuna import Study
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


class LoraclePruner(BasePruner):
    """Stops a trial that is far behind the best one at the same step, and no other.

    Early losses tell wrecks from the rest, and nothing about which of the good ones is best: so a trial is
    stopped where, at the steps that it reports, it is `factor` times as far behind the best finished trial as
    that had come from its own first report. With 1 it is as bad as the best one was at its beginning. A
    report that is no number stops it at once. Stopped trials count with what they last reported: in
    `TPESampler`, and in `LoracleSampler`. `benchmarks/pruning.py` says what it stops and saves.

    Reports of trials are compared step by step, so they have to be of the same part of a training: report
    what was seen of it (`trial.report(loss, examples)`), and not optimizer steps where the batch size varies.
    They read as the study's direction: losses are minimised.

    Args:
        factor: how far is too far.
        least: reports of a trial before it may be stopped.

    Raises:
        ValueError: one of them is not positive.
    """

    def __init__(self, factor: float = 1.0, least: int = 2) -> None:
        if not (math.isfinite(factor) and factor > 0 and least > 0):
            raise ValueError(f"factor and least are positive; got {factor!r} and {least!r}")
        self._factor = factor
        self._least = least

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether `trial` is stopped after its last report; asked by `trial.should_prune()`."""
        if len(study.directions) > 1:
            return False
        minimize = study.direction == StudyDirection.MINIMIZE
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        sign = 1.0 if minimize else -1.0
        told = [
            (sign * one.value, one.number, one.intermediate_values)
            for one in done
            if one.intermediate_values and one.value is not None
        ]
        beside = min(told)[2] if told else {}
        return self.is_wreck(trial.intermediate_values, beside, minimize=minimize)

    def is_wreck(self, reports: Mapping[int, float], best: Mapping[int, float], *, minimize: bool) -> bool:
        """Whether a trial with these reports is stopped, where the best finished trial had those of `best`;
        both by step."""
        if not reports:
            return False
        step = max(reports)
        if not math.isfinite(reports[step]):
            return True
        known = [at for at in best if at <= step and math.isfinite(best[at])]
        if len(reports) < self._least or len(known) < 2:
            return False
        sign = 1.0 if minimize else -1.0
        there = best[max(known)]
        come = sign * (best[min(known)] - there)
        return come > 0 and sign * (reports[step] - there) > self._factor * come
