"""Search methods under one interface, so that all see the same landscape, seeds and failures.

A method proposes the index of an untried candidate, is told a value (larger is better) or a failure, and
says which config it would recommend. In the regime `same seeds` all start from the same configs and learn of
a failed trial as the worst value seen so far; in `factory` each starts and treats failures as it does itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
import torch
from landscape_data import Landscape
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from other_process import OtherProcess
from pretrain import load_tasks, make, sweep_of

from loracle.language.features import Features
from loracle.records.space import SearchSpace
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.search.acquisition import log_expected_improvement
from loracle.search.presets import GOOD_PRACTICE, PRESETS, Preset, with_parameters
from loracle.search.prior import SHIPPED, load_prior
from loracle.search.propose import propose, ranking, seed_indices

SAME_SEEDS, FACTORY = "same seeds", "factory"
PRIORS = Path(__file__).parent / "results" / "priors"  # made anew where absent


class Method(Protocol):
    """One search on one landscape."""

    def ask(self) -> int:
        """Index of the config to train next."""
        ...

    def tell(self, index: int, value: float | None) -> None:
        """What it gave; None: the training failed."""
        ...

    def recommend(self) -> int:
        """Index of the config to use."""
        ...


@dataclass(frozen=True)
class Start:
    """How a search begins: landscape, regime, seed of all randomness."""

    landscape: Landscape
    space: SearchSpace  # whose candidates are those of the landscape
    regime: str
    seed: int

    @property
    def seeds(self) -> list[int]:
        """Configs that every method tries first in `same seeds`."""
        return seed_indices(self.space, GOOD_PRACTICE)


def table_space(landscape: Landscape) -> SearchSpace:
    """The landscape's space, its candidates being the configs that have a value."""
    space = replace(landscape.space)
    space.__dict__["candidates"] = landscape.candidates  # where the cached property looks first
    return space


class LoracleMethod:
    """One of our presets, or a variation of one."""

    def __init__(self, start: Start, preset: Preset, features: Features | None = None) -> None:
        if start.regime == SAME_SEEDS:
            preset = replace(preset, seed_configs=GOOD_PRACTICE)
        self.start, self.preset, self.features = start, preset, features
        self.history = History()

    def ask(self) -> int:
        (index,) = propose(
            self.start.space, self.history, self.preset, features=self.features, seed=self.start.seed
        )
        return index

    def tell(self, index: int, value: float | None, kind: FailureKind = FailureKind.DIVERGED) -> None:
        failure = Failure(kind, str(kind)) if value is None else None
        trial = Trial(len(self.history.trials), index, Outcome(value, failure=failure))
        self.history = History((*self.history.trials, trial))

    def recommend(self) -> int:
        return self.ranked()[0]

    def ranked(self) -> list[int]:
        """Configs that were tried, the one to use first; the last one where all failed."""
        if not self.history.succeeded:
            return [self.history.trials[-1].index]
        return ranking(
            self.start.space, self.history, self.preset, features=self.features, seed=self.start.seed
        )


class ReplicatingMethod(LoracleMethod):
    """A preset that spends the last two of 30 trials on training its two best configs once more."""

    def __init__(self, start: Start, preset: Preset) -> None:
        super().__init__(start, preset)
        self.again: list[int] = []

    def ask(self) -> int:
        if len(self.history.trials) == 28 and self.history.succeeded:
            self.again = ranking(self.start.space, self.history, self.preset, seed=self.start.seed)[:2]
        return self.again.pop(0) if self.again else super().ask()


class PendingMethod(LoracleMethod):
    """A preset with four trials at a time: it chooses while three others still run."""

    held = 3

    def __init__(self, start: Start, preset: Preset) -> None:
        super().__init__(start, preset)
        self.waiting: list[tuple[int, float | None]] = []  # position in the history, value

    def tell(self, index: int, value: float | None) -> None:
        self.waiting.append((len(self.history.trials), value))
        self.history = History((*self.history.trials, Trial(len(self.history.trials), index)))
        if len(self.waiting) > self.held:
            self._release()

    def recommend(self) -> int:
        if len(self.history.trials) >= 30:  # the last ones have ended too
            while self.waiting:
                self._release()
        return super().recommend()

    def _release(self) -> None:
        position, value = self.waiting.pop(0)
        failure = Failure(FailureKind.DIVERGED, "diverged") if value is None else None
        trials = list(self.history.trials)
        trials[position] = replace(trials[position], outcome=Outcome(value, failure=failure))
        self.history = History(tuple(trials))


class _Observed:
    """What the methods of others share: seeds first, the best observed value recommended."""

    def __init__(self, start: Start) -> None:
        self.start, self.space = start, start.space
        self.first = start.seeds if start.regime == SAME_SEEDS else []
        self.tried: dict[int, float | None] = {}
        self.late: list[int] = []  # failures before the first success
        self.rng = np.random.default_rng([start.seed, 17])
        self.coordinates = self.space.coordinates(self.space.candidates)

    def ask(self) -> int:
        open_seeds = [index for index in self.first if index not in self.tried]
        return open_seeds[0] if open_seeds else self.choose()

    def choose(self) -> int:
        raise AssertionError("a method chooses")

    def tell(self, index: int, value: float | None) -> None:
        self.tried[index] = value

    def scored(self, index: int, value: float | None) -> list[tuple[int, float]]:
        """What a library without failures is told of a result, after `tell`: indices and values.

        A failure counts as the worst value so far, and waits for it; in `factory` it is left out.
        """
        if value is None and self.start.regime == FACTORY:
            return []
        if self.worst is None:
            self.late.append(index)
            return []
        failed, self.late = self.late, []
        return [(index, self.worst if value is None else value), *((one, self.worst) for one in failed)]

    def positions(self, index: int) -> list[int]:
        """Place of a config in the range of each knob."""
        return [int(position) for position in np.unravel_index(index, self.space.shape)]

    def recommend(self) -> int:
        return max(self.tried, key=lambda index: -np.inf if (v := self.tried[index]) is None else v)

    def open_rows(self) -> np.ndarray:
        return np.flatnonzero(~np.isin(self.space.candidates, list(self.tried)))

    def nearest_open(self, index: int) -> int:
        """The untried candidate closest to a proposal; a repeated one would only waste its trial."""
        rows = self.open_rows()
        at = self.space.coordinates([index])
        return int(self.space.candidates[rows[np.abs(self.coordinates[rows] - at).sum(axis=1).argmin()]])

    @property
    def worst(self) -> float | None:
        return min((v for v in self.tried.values() if v is not None), default=None)


class RandomMethod(_Observed):
    """Uniform over untried candidates."""

    def choose(self) -> int:
        return int(self.space.candidates[self.rng.choice(self.open_rows())])


class BotorchMethod(_Observed):
    """A well-built numeric GP: BoTorch's SingleTaskGP with its priors on log knobs, log EI."""

    def choose(self) -> int:
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        known = {i: v for i, v in self.tried.items() if v is not None or self.start.regime == SAME_SEEDS}
        if len(known) < 3 or self.worst is None:  # nothing to fit yet
            return int(self.space.candidates[self.rng.choice(self.open_rows())])
        y = torch.tensor([[self.worst if v is None else v] for v in known.values()], dtype=torch.float64)
        x = torch.from_numpy(self.space.coordinates(list(known)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = SingleTaskGP(x, y)  # standardises the outputs by itself
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            rows = self.open_rows()
            with torch.no_grad():
                # The posterior of `model.posterior`, without its covariance between candidates.
                target = model.train_targets  # standardised
                covariance = model.covar_module(x).to_dense() + model.likelihood.noise * torch.eye(len(x))
                lower = torch.linalg.cholesky(covariance)
                cross = model.covar_module(x, torch.from_numpy(self.coordinates[rows])).to_dense()  # (n, m)
                solved = torch.linalg.solve_triangular(lower, cross, upper=False)
                residual = torch.linalg.solve_triangular(
                    lower, (target - model.mean_module(x))[:, None], upper=False
                )
                mean = model.mean_module(x)[0] + (residual.T @ solved).squeeze(0)
                prior = model.covar_module(x[:1], diag=True)
                sd = (prior - solved.square().sum(dim=0)).clamp(min=1e-12).sqrt()
                score = log_expected_improvement(mean, sd, float(target.max()))
        return int(self.space.candidates[rows[int(score.argmax())]])


class OptunaMethod(_Observed):
    """An Optuna sampler on ordered integer positions of the knobs' values."""

    def __init__(self, start: Start, make: Callable[[int], BaseSampler]) -> None:
        super().__init__(start)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.study = optuna.create_study(direction="maximize", sampler=make(start.seed))
        self.distributions = {
            knob.name: optuna.distributions.IntDistribution(0, len(knob.values) - 1) for knob in self.space
        }

    def choose(self) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self.study.ask(self.distributions)
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)  # told anew below, where it was moved to
        positions = tuple(trial.params[name] for name in self.space.names)
        return self.nearest_open(int(np.ravel_multi_index(positions, self.space.shape)))

    def tell(self, index: int, value: float | None) -> None:
        super().tell(index, value)
        for known, score in self.scored(index, value):
            params = dict(zip(self.space.names, self.positions(known), strict=True))
            self.study.add_trial(
                optuna.create_trial(params=params, distributions=self.distributions, value=score)
            )


class SmacMethod(_Observed):
    """SMAC3's hyperparameter-optimisation facade on ordered integer positions."""

    def __init__(self, start: Start, n_trials: int = 30) -> None:
        super().__init__(start)
        from ConfigSpace import ConfigurationSpace, Integer
        from smac import HyperparameterOptimizationFacade, Scenario

        logging.getLogger("smac").setLevel(logging.ERROR)
        self.configs = ConfigurationSpace(seed=start.seed)
        self.configs.add([Integer(k.name, (0, len(k.values) - 1)) for k in self.space if len(k.values) > 1])
        import tempfile

        scenario = Scenario(
            self.configs,
            deterministic=True,
            n_trials=n_trials,
            seed=start.seed,
            output_directory=tempfile.mkdtemp(prefix="smac"),
        )
        facade = HyperparameterOptimizationFacade
        design = None
        if start.regime == SAME_SEEDS:
            design = facade.get_initial_design(
                scenario, n_configs=0, additional_configs=[self._spell(i) for i in self.first]
            )
        with contextlib.suppress(Exception):
            logging.disable(logging.WARNING)
        self.smac = facade(
            scenario, lambda config, seed=0: 0.0, initial_design=design, overwrite=True, logging_level=False
        )
        self.asked: Any = None

    def _spell(self, index: int) -> Any:
        from ConfigSpace import Configuration

        places = zip(self.space, self.positions(index), strict=True)
        return Configuration(self.configs, {k.name: place for k, place in places if len(k.values) > 1})

    def ask(self) -> int:
        self.asked = self.smac.ask()
        positions = tuple(int(self.asked.config[k.name]) if len(k.values) > 1 else 0 for k in self.space)
        return self.nearest_open(int(np.ravel_multi_index(positions, self.space.shape)))

    def tell(self, index: int, value: float | None) -> None:
        from smac.runhistory.dataclasses import TrialInfo, TrialValue
        from smac.runhistory.enumerations import StatusType

        super().tell(index, value)
        moved = TrialInfo(self._spell(index), seed=self.asked.seed)
        cost = value if value is not None else self.worst if self.worst is not None else 0.0
        status = StatusType.SUCCESS
        if value is None and self.start.regime == FACTORY:
            status = StatusType.CRASHED
        self.smac.tell(moved, TrialValue(cost=-cost, status=status))


class HeboMethod(_Observed):
    """HEBO on ordered integer positions, in a process of its own environment (`hebo_process.py`)."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.knobs = [knob for knob in self.space if len(knob.values) > 1]
        self.process = OtherProcess("LORACLE_HEBO", "hebo_process.py")
        self.process.say({"sizes": [len(knob.values) for knob in self.knobs], "seed": start.seed})

    def choose(self) -> int:
        self.process.say({})
        given = dict(zip([k.name for k in self.knobs], self.process.hear(), strict=True))
        positions = tuple(given.get(name, 0) for name in self.space.names)
        return self.nearest_open(int(np.ravel_multi_index(positions, self.space.shape)))

    def tell(self, index: int, value: float | None) -> None:
        super().tell(index, value)
        for known, score in self.scored(index, value):
            places = zip(self.space, self.positions(known), strict=True)
            self.process.say(
                {"at": [place for knob, place in places if len(knob.values) > 1], "cost": -score}
            )


def unseen_prior(start: Start, seed: int = 0) -> Path:
    """A prior fitted without the landscape's family, made when it is first needed; `seed`: of the fit.

    A family is a base model, or a published sweep as a whole, whichever is larger: the tables of one sweep
    share data, recipe, batch and alpha. No prior ever sees a formula or a table that may not be learnt from,
    so there it is the one that ships.
    """
    if not start.landscape.may_train:
        return SHIPPED
    left_out = sweep_of(start.landscape.family)
    fit = f"-seed-{seed}" if seed else ""
    path = PRIORS / f"v2-{prior_tasks()}{fit}-without-{left_out}.safetensors"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        make(partial, [left_out], seed)
        partial.replace(path)
    return path


@cache
def prior_tasks() -> int:
    """Tasks that a prior made here can learn from. Without the tables of real models they are few, and such
    a prior is another than the one that ships: searches with it come out differently."""
    n = len(load_tasks())
    if n < (shipped := len(load_prior(SHIPPED).provenance["tasks"])):
        print(
            f"priors made here learn from {n} of the {shipped} tasks of the one that ships: "
            "the tables of real models are not at hand (LORACLE_LANDSCAPES)",
            file=sys.stderr,
        )
    return n


def ensemble(start: Start, name: str = "default", **changes: Any) -> Preset:
    """A preset of ours on the ensemble, with a prior that has not seen the landscape's family."""
    surrogate = replace(PRESETS[name].surrogate, prior=unseen_prior(start), **changes)
    return with_parameters(replace(PRESETS[name], surrogate=surrogate), start.landscape.parameters)


def methods(names: Sequence[str]) -> dict[str, Callable[[Start], Method]]:
    """Makers of the methods of these names."""
    known: dict[str, Callable[[Start], Method]] = {
        "random": RandomMethod,
        # Optuna's samplers draw their first 10 trials at random; `-3`: their first 3.
        "tpe": lambda start: OptunaMethod(start, lambda seed: TPESampler(seed=seed)),
        "tpe-3": lambda start: OptunaMethod(start, lambda seed: TPESampler(n_startup_trials=3, seed=seed)),
        "gp_sampler": lambda start: OptunaMethod(start, lambda seed: GPSampler(seed=seed)),
        "gp_sampler-3": lambda start: OptunaMethod(
            start, lambda seed: GPSampler(n_startup_trials=3, seed=seed)
        ),
        "botorch": BotorchMethod,
        "smac": SmacMethod,
        "hebo": HeboMethod,
        "default": lambda start: LoracleMethod(start, ensemble(start)),
        "default-twins": lambda start: LoracleMethod(start, replace(ensemble(start), no_twins=0)),
        "default-stays": lambda start: LoracleMethod(start, replace(ensemble(start), retreats=False)),
        "numeric": lambda start: LoracleMethod(start, ensemble(start, "numeric")),
        "prior-alone": lambda start: LoracleMethod(start, ensemble(start, informed=1.0)),
        "default-replicated": lambda start: ReplicatingMethod(start, ensemble(start)),
        "default-4-at-a-time": lambda start: PendingMethod(start, ensemble(start)),
    }
    if any(name in ("hand", "list") for name in names):
        from expert_methods import HandMethod, ListMethod  # they ask this module

        known |= {"hand": HandMethod, "list": ListMethod}
    if any(name not in known for name in names):
        from search_language import language_methods

        known |= language_methods()
    return {name: known[name] for name in names}
