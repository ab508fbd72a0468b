"""`LoracleSearch`: Loracle's search as a searcher of Ray Tune.

Ray Tune's own `OptunaSearch` keeps the trials; this is its sampler, with what Ray Tune needs besides.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState

from loracle.errors import ConfigError, SpaceError
from loracle.records.space import UserBeliefs
from loracle.search.optuna_sampler.history import say_diverged
from loracle.search.optuna_sampler.interrupted import ERROR_KEY
from loracle.search.optuna_sampler.question import STOP
from loracle.search.optuna_sampler.sampler import LoracleSampler
from loracle.search.optuna_sampler.warned import levels
from loracle.text.escape import printable

try:
    from ray.tune.result import AUTO_RESULT_KEYS
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
        beliefs: what is held likely, by parameter, as for `LoracleSampler`: `{"lr": "around 1e-4"}`.
        parameters: how many the base model has, such as 7e9.
        sampler: a `LoracleSampler` of your own, in the place of these three: with a space, a preset.
        constraints: what results may have at most, by name: `{"general_loss": 2.35}`. A trial with more
            violates it, and counts as diverged, whatever it scores. Every result has to have it, as Ray Tune
            asks of the metric, or the run ends; with `TUNE_DISABLE_STRICT_METRIC_CHECKING=1` the last one of
            each trial.
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
        beliefs: UserBeliefs | Mapping[str, Any] | None = None,
        parameters: float | None = None,
        sampler: LoracleSampler | None = None,
        constraints: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        if sampler is not None and (beliefs is not None or parameters is not None):
            raise ConfigError("beliefs and parameters are the sampler's: LoracleSampler(beliefs=...)")
        chosen = sampler or LoracleSampler(seed=seed, beliefs=beliefs, parameters=parameters)
        self._refused: str | None = None
        self._ended = False
        self._most = dict(constraints or {})
        for name, most in self._most.items():
            if isinstance(most, bool) or not isinstance(most, int | float) or not math.isfinite(most):
                raise ConfigError(f"constraints: {name} has a number that it may be at most; got {most!r}")
        super().__init__(space=space, metric=metric, mode=mode, sampler=chosen, **options)

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Takes metric, mode and space from Ray Tune.

        Raises:
            ConfigError: a space with a grid, or without limits.
        """
        try:
            return bool(super().set_search_properties(metric, mode, config, **spec))
        except ValueError as error:
            raise ConfigError(
                f"param_space: {str(error).rstrip('.')}. LoracleSearch takes tune.choice in the place of "
                "grid_search, and uniform or loguniform in the place of randn: it has to know all values, or "
                "their limits"
            ) from None

    def suggest(self, trial_id: str) -> Any:
        """The next config; Ray Tune's sign for the end once everything has been tried, with a warning.

        Raises:
            ConfigError: a result lacks what `constraints` names.
        """
        if self._refused:
            raise ConfigError(self._refused)
        try:
            return super().suggest(trial_id)
        except SpaceError as error:
            if not self._ot_trials:
                raise
            if not self._ended:
                warnings.warn(f"{str(error).removesuffix(STOP)}; the run ends here", stacklevel=levels())
            self._ended = True
            return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keeps what a trial reports.

        Raises:
            ConfigError: it lacks what `constraints` names; it ends the run.
        """
        if os.environ.get("TUNE_DISABLE_STRICT_METRIC_CHECKING") != "1":
            self._require_constraints(trial_id, result)
        super().on_trial_result(trial_id, result)

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
            self._require_constraints(trial_id, result)
            for name, most in self._most.items():
                if math.isfinite(value := result[name]):
                    self._ot_trials[trial_id].set_constraint(name, value - most)
        if trial_id in self._ot_trials and any(v is not None and not math.isfinite(v) for v in values):
            assert self._ot_study is not None  # it has made this trial
            trial = self._ot_trials[trial_id]
            say_diverged(trial._trial_id, self._ot_study)
            self._ot_study.tell(trial, state=TrialState.FAIL)
            self._completed_trials.add(trial_id)
        else:
            if error and trial_id in self._ot_trials and self._ot_study is not None:
                number = self._ot_trials[trial_id]._trial_id
                why = f"what error.txt of Ray Tune's trial {trial_id} says"
                self._ot_study._storage.set_trial_system_attr(number, ERROR_KEY, why)
            super().on_trial_complete(trial_id, result, error)

    def _require_constraints(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Ends the run where a result lacks what `constraints` names: no other would have it."""
        missing = [name for name in self._most if result.get(name) is None]
        if not missing:
            return
        rays = {*AUTO_RESULT_KEYS, "done", "trial_id"}
        own = [name for name in result if name not in rays and not name.startswith("config/")]
        self._refused = (
            f"constraints: the result of trial {trial_id} has no {missing[0]}; it has "
            f"{printable(', '.join(sorted(own)), 300) or 'nothing'}"
        )
        raise ConfigError(self._refused)
