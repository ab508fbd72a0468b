"""`LoracleSearch`: Loracle's search as a searcher of Ray Tune.

Ray Tune's own `OptunaSearch` keeps the trials; this is its sampler, with what Ray Tune needs besides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState

from loracle.errors import ConfigError, SpaceError
from loracle.search.optuna_sampler.history import say_diverged
from loracle.search.optuna_sampler.sampler import LoracleSampler

try:
    from ray.tune.search import Searcher
    from ray.tune.search.optuna import OptunaSearch
except ImportError as error:  # pragma: no cover - depends on the installation
    raise ImportError(f"Ray Tune is not installed: pip install 'ray[tune]' ({error})") from None


class LoracleSearch(OptunaSearch):
    """Suggests configs with `LoracleSampler`.

    Args:
        space: as for `OptunaSearch`; Ray Tune fills in what is left out.
        metric: the same.
        mode: the same.
        seed: makes the search repeatable, as far as results come in the same order.
        sampler: a `LoracleSampler` of your own: with a space, a preset.
        constraints: what results may have at most, by name: `{"general_loss": 2.35}`. A trial with more
            violates it, and counts as diverged, whatever it scores.
        **options: further arguments of `OptunaSearch`: `points_to_evaluate`, `storage`, ...

    Example:
        config = tune.TuneConfig(search_alg=LoracleSearch(), metric="loss", mode="min", num_samples=30)
        tune.Tuner(train, tune_config=config, param_space={"lr": tune.loguniform(1e-5, 1e-2)}).fit()
    """

    def __init__(
        self,
        space: Any = None,
        metric: str | list[str] | None = None,
        mode: str | list[str] | None = None,
        *,
        seed: int | None = None,
        sampler: LoracleSampler | None = None,
        constraints: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        chosen = sampler or LoracleSampler(seed=seed)
        self._most = dict(constraints or {})
        for name, most in self._most.items():
            if isinstance(most, bool) or not isinstance(most, int | float) or not math.isfinite(most):
                raise ConfigError(f"constraints: {name} has a number that it may be at most; got {most!r}")
        super().__init__(space=space, metric=metric, mode=mode, sampler=chosen, **options)

    def suggest(self, trial_id: str) -> Any:
        """The next config; Ray Tune's sign for the end once everything has been tried."""
        try:
            return super().suggest(trial_id)
        except SpaceError:
            if self._ot_trials:
                return Searcher.FINISHED
            raise

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Keeps what a trial gave. One without a finite value has diverged: the search learns of it.

        Raises:
            ConfigError: the result lacks what `constraints` names.
        """
        names = [*(self.metric if isinstance(self.metric, list) else [self.metric]), *self._most]
        values = [result.get(name) if result else None for name in names]
        if trial_id in self._ot_trials and result and not error:
            for name, most in self._most.items():
                if (value := result.get(name)) is None:
                    raise ConfigError(f"constraints: the result of trial {trial_id} has no {name}")
                if math.isfinite(value):
                    self._ot_trials[trial_id].set_constraint(name, value - most)
        if trial_id in self._ot_trials and any(v is not None and not math.isfinite(v) for v in values):
            assert self._ot_study is not None  # it has made this trial
            trial = self._ot_trials[trial_id]
            say_diverged(trial._trial_id, self._ot_study)
            self._ot_study.tell(trial, state=TrialState.FAIL)
            self._completed_trials.add(trial_id)
        else:
            super().on_trial_complete(trial_id, result, error)
