"""Presets: how configs are chosen, as data. What is tried first, what models the score, what is improved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from loracle.errors import ConfigError
from loracle.records.space import UserBeliefs, Value
from loracle.records.standard_settings import STANDARD
from loracle.search.prior import EARLIER

# Good practice to start from, one decade and a half apart in alpha x learning_rate: the usual settings, a
# large step (fact 17: a higher alpha / rank often wins) and a small one (fact 19: 4e-3 is the low end).
GOOD_PRACTICE: tuple[dict[str, Value], ...] = (
    dict(STANDARD),
    {"rank": 64, "alpha": 256, "dropout": 0.0, "batch_size": 16, "learning_rate": 3e-4},
    {"rank": 32, "alpha": 32, "dropout": 0.0, "batch_size": 32, "learning_rate": 1e-4},
)


@dataclass(frozen=True)
class EnsembleSettings:
    """What the ensemble is made of.

    Attributes:
        informed: probability, before the first trial, that a task is like those the prior was fitted to; 0
            leaves `fresh` alone.
        prior: the file; None is the one that ships with the package.
        parameters: how many the base model has; None: not known.
        decades: of data between a trial and the training that its config is for (the logarithm of how many
            times as many examples); 0: a trial is what its config is for. What a trial scored counts as the
            score on all data and a deviation, which grows with it (`ensemble.py`).
        output: transform of the observed values.
        caution: of beliefs. Parameters are fitted, not integrated over, and the config with the luckiest
            belief is chosen: without it, 80 % intervals held 68 % of the values that then came
            (`benchmarks/calibration.py`). Expected improvement does without: with it, regret was larger.
        fitted_on: observations that parameters are fitted to, at most; beliefs are exact given the parameters
            and all observations, however many. A fit to n takes n^3 steps some 30 times over.
        beliefs: what the user holds likely; see `ensemble.py`.
    """

    informed: float = 0.8
    prior: Path | None = None
    parameters: float | None = None
    decades: float = 0.0
    output: str = "half_rank"
    caution: float = 1.3
    fitted_on: int = 150
    beliefs: UserBeliefs | None = None


@dataclass(frozen=True)
class SurrogateSettings:
    """What the surrogate is made of and how it is fitted; presets differ in these alone.

    Attributes:
        language: include the language kernel.
        numeric: include the numeric kernel.
        learnable_token: append a token to every prompt and fit its embedding.
        projection: dimensions p that the features are projected to.
        output: transform of the observed values.
        priors: log-normal priors on kernel parameters and noise (MAP) or none (maximum likelihood).
        projection_rate, kernel_rate: AdamW's first learning rates for projection and token, and for the rest.
        rate_decay: factor on both rates after every step.
        weight_decay: AdamW's weight decay.
        fitted_on: observations that the fit looks at, at most; None: all. Beliefs are exact given the fit and
            all observations, however many. A step of a fit to n takes n^3 operations, and there are some 200.
    """

    language: bool
    numeric: bool
    learnable_token: bool = True
    projection: int = 64
    output: Literal["standardize", "half_rank"] = "standardize"
    priors: bool = False
    projection_rate: float = 0.002
    kernel_rate: float = 0.2
    rate_decay: float = 0.95
    weight_decay: float = 1e-3
    fitted_on: int | None = None


@dataclass(frozen=True)
class Preset:
    """How configs are chosen.

    Attributes:
        surrogate: what the model of the score is made of: the published one, or the ensemble on numbers.
        acquisition: a name in `ACQUISITIONS`.
        incumbent: the value to improve on: the best observed, or the best posterior mean of what was tried.
        recommend: the same choice for the config that is recommended at the end.
        seed_configs: tried first, mapped to the nearest candidates.
        careful: the first so many trials go to what is likely good, and not to what may be best: until they
            have told, the prior's boldest guess may as well be the worst config.
        retreats: as long as every training has diverged, the next one is the gentlest of them with a tenth of
            its learning rate.
        no_twins: of the first so many trials none differs from another in dropout alone, as long as there are
            other candidates; seed configs may.
    """

    surrogate: SurrogateSettings | EnsembleSettings
    acquisition: str
    incumbent: Literal["observed", "posterior_mean"]
    recommend: Literal["observed", "posterior_mean"]
    seed_configs: tuple[dict[str, Value], ...] = ()
    careful: int = 0
    retreats: bool = False
    no_twins: int = 0

    @property
    def reads(self) -> bool:
        """Whether it needs language features."""
        return isinstance(self.surrogate, SurrogateSettings) and self.surrogate.language

    @property
    def of_trials(self) -> Preset:
        """The same for what trials score, whatever their configs are for: what is told of a belief."""
        settings = self.surrogate
        if not isinstance(settings, EnsembleSettings) or settings.decades == 0:
            return self
        return replace(self, surrogate=replace(settings, decades=0.0))

    @property
    def informed(self) -> EnsembleSettings | None:
        """What its surrogate is made of, if it starts from a prior."""
        settings = self.surrogate
        return settings if isinstance(settings, EnsembleSettings) and settings.informed > 0 else None

    @property
    def knows_nothing(self) -> bool:
        """Whether there is nothing to go by before the first trial: no prior, and no beliefs of the user."""
        settings = self.surrogate
        return self.informed is None and not (isinstance(settings, EnsembleSettings) and settings.beliefs)


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


# What other landscapes taught, weighed against a plain GP. The usual settings first: the comparison that
# every user makes; the prior chooses the second config.
_EVERYDAY = replace(_careful(EnsembleSettings(), GOOD_PRACTICE[:1]), careful=3, retreats=True, no_twins=10)

PRESETS: Mapping[str, Preset] = {
    "default": _EVERYDAY,
    # The same choices; a run with it has 30 trials and no budget, where it says neither (`config/search/`).
    "thorough": _EVERYDAY,
    # The plain GP alone; of a prior it has the direction of a step's size, always of the same one.
    "numeric": _careful(EnsembleSettings(informed=0.0, prior=EARLIER), GOOD_PRACTICE),
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


def with_parameters(preset: Preset, parameters: float | None) -> Preset:
    """The same preset for a base model of so many parameters; one without a prior stays as it is.

    Raises:
        ConfigError: that is no positive number.
    """
    if parameters is not None and not 0 < _as_float(parameters) < math.inf:
        raise ConfigError(f"parameters is how many a base model has, such as 7e9; got {parameters!r}")
    if parameters is None or preset.informed is None:
        return preset
    return replace(preset, surrogate=replace(preset.informed, parameters=float(parameters)))


def with_data(preset: Preset, fraction: float) -> Preset:
    """The same preset where a trial trains on this fraction of the data that its config is for; one without a
    prior stays as it is.

    Raises:
        ConfigError: that is no share of anything.
    """
    if not 0 < _as_float(fraction) <= 1:
        raise ConfigError(
            f"fraction is the share of the data that a trial trains on, in (0, 1]; got {fraction!r}"
        )
    if preset.informed is None or fraction == 1:
        return preset
    return replace(preset, surrogate=replace(preset.informed, decades=-math.log10(float(fraction))))


def _as_float(given: object) -> float:
    """NaN for what is no number."""
    try:
        return float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def with_beliefs(preset: Preset, beliefs: UserBeliefs) -> Preset:
    """The same preset for a user who holds this likely.

    Raises:
        ConfigError: the preset reads no beliefs.
    """
    if not beliefs:
        return preset
    if not isinstance(preset.surrogate, EnsembleSettings):
        raise ConfigError("beliefs: this preset reads none; default and numeric do")
    return replace(preset, surrogate=replace(preset.surrogate, beliefs=beliefs))


def with_earlier_prior(preset: Preset) -> Preset:
    """The same preset as it was with the prior before this one, for runs that were begun with it."""
    if preset.informed is None:
        return preset
    before = replace(preset.informed, prior=EARLIER)
    return replace(preset, surrogate=before, careful=0, retreats=False, no_twins=0)


def with_standard(preset: Preset, standard: Mapping[str, Value] | None) -> Preset:
    """The same preset, with the settings that a user compares with in the place of the usual ones.

    They are tried first, because every user asks what tuning gains over them. A preset that tries no seed
    configs stays without.
    """
    if not standard or not preset.seed_configs:
        return preset
    return replace(preset, seed_configs=(dict(standard), *preset.seed_configs[1:]))
