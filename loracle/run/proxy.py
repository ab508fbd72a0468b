"""How well does a training subset rank configs like the full training set?

k configs are trained at every fraction, that of the run's own trials among them, and on everything, all
scored on the same validation items; the scores at a fraction are then correlated with those of full training.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from loracle.config.search.limits import Begun
from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, StudyError
from loracle.records.codec import json_text
from loracle.records.contents import require_same_contents
from loracle.records.events import Listener, Noticed, PhaseStarted, Step
from loracle.records.notices import Notice
from loracle.records.space import Config, SearchSpace
from loracle.records.trial import Outcome
from loracle.records.trial_files import read_outcome, stored_outcomes, write_outcome
from loracle.report.proxy import Correlation, FractionResult, ProxyResult, draw_proxy
from loracle.report.wording import show_config
from loracle.run.folder import as_begun, hold
from loracle.run.identity import require_common_settings, training_settings
from loracle.run.search import search_space
from loracle.text.files import write_atomically
from loracle.training.contents import answer_contents, training_contents
from loracle.training.objective import TrainingObjective

Floats = npt.NDArray[np.float64]

_RESAMPLES = 2000
_FOR_A_COEFFICIENT = 3  # configs: two are always in line, or against it
_FOR_AN_INTERVAL = 6  # configs: the same few drawn again and again look certain
_PUBLISHED = {0.01: "0.70 / 0.74", 0.05: "0.84 / 0.93", 0.1: "0.87 / 0.94"}  # math / code, arXiv 2602.11171


def parse_fractions(text: str) -> list[float]:
    """Fractions such as `0.05,0.1`, increasing, without 1, which is always trained.

    Raises:
        ConfigError: not numbers between 0 and 1.
    """
    try:
        values = sorted({float(part) for part in text.split(",")})
    except ValueError:
        values = []
    if not values or not all(0 < value < 1 for value in values):
        raise ConfigError(f"fractions are numbers above 0 and below 1, such as 0.05,0.1; got {text!r}")
    return values


def check_proxy(config: RunConfig, k: int, fractions: Sequence[float], listen: Listener) -> ProxyResult:
    """Trains k configs at every fraction, on as much as a trial of the run has, and on everything. Finished
    trainings are reused on a second call, as long as data, model and the settings of a training are the same.

    The configs are spread over the space: the candidates are put in order of alpha x learning rate and one is
    drawn from each of k equal parts, so that no region is missed. Only configs that train at every size
    enter the correlations.

    Raises:
        LoracleError: bad input, other data, model or settings than those of the trainings that are there, or
            fewer than 4 configs that train.
    """
    if config.objective is not None:
        raise ConfigError("loracle proxy trains with the built-in trainer; this config names one of its own")
    with hold(config.output):
        return _check(config, k, fractions, listen)


def spread_configs(space: SearchSpace, k: int, seed: int) -> list[int]:
    """k candidates, one from each k-quantile of alpha x learning rate (or of the index without these)."""
    values = space.values(space.candidates)
    step = np.arange(len(space.candidates), dtype=np.float64)
    if {"alpha", "learning_rate"} <= values.keys():
        step = values["alpha"] * values["learning_rate"]
    if len(step) < k:
        raise ConfigError(f"the space has only {len(step)} candidates; {k} configs were asked for")
    generator = np.random.default_rng(seed)
    parts = np.array_split(np.argsort(step, kind="stable"), k)
    return [int(space.candidates[int(generator.choice(part))]) for part in parts]


def correlate(part: Floats, full: Floats, seed: int) -> tuple[Correlation, ...]:
    """Pearson, Spearman and Kendall over all configs and over the better half by full training.

    Configs with a NaN on either side are left out. Intervals: percentile bootstrap over configs. Fewer than 3
    configs have no coefficient (NaN), and fewer than 6 no interval.

    Args:
        part: scores on a fraction, (k,).
        full: scores of full training, (k,).
        seed: of the bootstrap.
    """
    both = np.isfinite(part) & np.isfinite(full)
    part, full = part[both], full[both]
    better = full >= np.median(full)
    generator = np.random.default_rng(seed)
    found = []
    for among, chosen in (("all", np.ones(len(full), dtype=bool)), ("better half", better)):
        x, y = part[chosen], full[chosen]
        draws = generator.integers(len(x), size=(_RESAMPLES, len(x)))
        for kind, coefficient in COEFFICIENTS.items():
            resampled = coefficient(x[draws], y[draws])
            resampled = resampled[np.isfinite(resampled)]
            told = len(resampled) and len(x) >= _FOR_AN_INTERVAL
            ends = np.percentile(resampled, (2.5, 97.5)) if told else (np.nan, np.nan)
            estimate = float(coefficient(x[None], y[None])[0]) if len(x) >= _FOR_A_COEFFICIENT else np.nan
            found.append(Correlation(kind, among, estimate, float(ends[0]), float(ends[1])))
    return tuple(found)


# -- helpers ----------------------------------------------------------------------------------------


def _check(config: RunConfig, k: int, fractions: Sequence[float], listen: Listener) -> ProxyResult:
    folder = config.output / "proxy"
    known = _recorded(folder)
    # How large a trial is, where the config does not say, is as it was.
    config = (
        as_begun(config)
        if known is None
        else config.limited(Begun(trial_cost=known[1].get("data.trial_cost")))
    )
    listen(PhaseStarted("reading data and model"))
    with contextlib.closing(TrainingObjective.from_config(config)) as objective:
        return _trained(config, objective, k, fractions, listen)


def _trained(
    config: RunConfig, objective: TrainingObjective, k: int, fractions: Sequence[float], listen: Listener
) -> ProxyResult:
    folder = config.output / "proxy"
    space = search_space(config, objective.sizes.rows)
    configs = [space.config(index) for index in spread_configs(space, k, config.search.seed)]
    _hold_identity(folder, config, objective, listen)
    fractions = _with_trials(fractions, objective, listen)
    outcomes: dict[float, list[Outcome]] = {}
    for fraction in (*fractions, 1.0):
        listen(PhaseStarted(f"training {k} configs on {100 * fraction:.3g} % of the data"))
        outcomes[fraction] = [
            _train(objective, config.search.seed, folder, fraction, i, chosen, listen)
            for i, chosen in enumerate(configs)
        ]
    scores = {fraction: np.array([_value(o) for o in found]) for fraction, found in outcomes.items()}
    if int(np.isfinite(np.stack(list(scores.values()))).all(axis=0).sum()) < 4:
        raise StudyError(
            f"{folder}: fewer than 4 of {k} configs train at every size; "
            "raise -k, or narrow the space to configs that train"
        )
    results = tuple(
        FractionResult(
            fraction,
            objective.size_at(fraction),
            tuple(scores[fraction].tolist()),
            float(np.mean([outcome.seconds for outcome in outcomes[fraction]])),
            correlate(scores[fraction], scores[1.0], config.search.seed),
            _PUBLISHED.get(fraction, ""),
            objective.size_at(fraction) == objective.n_proxy,
        )
        for fraction in fractions
    )
    result = ProxyResult(folder, tuple(configs), tuple(scores[1.0].tolist()), results)
    write_atomically(folder / "proxy.json", json.dumps(result.as_json(), indent=1))
    draw_proxy(folder / "proxy.png", result)
    return result


def _with_trials(
    fractions: Sequence[float], objective: TrainingObjective, listen: Listener
) -> Sequence[float]:
    """The fractions and, if it is none of them, that of the run's trials; in order."""
    trial, whole = objective.n_proxy, objective.n_train
    if trial == whole:
        text = (
            f"a trial of this config trains on all {whole:,} examples, so there is nothing that it leaves out"
        )
        listen(Noticed(Notice("search", "trials_on_all_data", text)))
    if trial == whole or trial in map(objective.size_at, fractions):
        return fractions
    return sorted((*fractions, trial / whole))


def _hold_identity(folder: Path, config: RunConfig, objective: TrainingObjective, listen: Listener) -> None:
    """Records what trainings are made of, as long as there are none; compares it from then on."""
    path, made_of = folder / "identity.json", (objective.splits, objective.base)
    now = training_contents(*made_of) | answer_contents(*made_of, config.scoring)
    settings = json.loads(json.dumps(training_settings(config)))
    if (known := _recorded(folder)) is not None:
        before, set_before = known
        require_common_settings(str(folder), folder.parent.name, set_before, settings)
        require_same_contents(str(folder), before, now)
    elif _has_trainings(folder):
        text = (
            "the trainings that are there were made before data, model and settings were recorded; what "
            "is here now is taken for what was there, and compared from now on"
        )
        listen(Noticed(Notice("search", "contents_recorded_late", text)))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json_text({"contents": now, "settings": settings}))


def _recorded(folder: Path) -> tuple[dict[str, str], dict[str, Any]] | None:
    """Contents and settings that the trainings which are there were made of; None where nobody knows."""
    try:
        known = json.loads((folder / "identity.json").read_text(encoding="utf-8"))
        found = dict(known["contents"]), dict(known["settings"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return found if _has_trainings(folder) else None


def _has_trainings(folder: Path) -> bool:
    return any(stored_outcomes(place) for place in folder.glob("*") if place.is_dir())


def _train(
    objective: TrainingObjective,
    seed: int,
    folder: Path,
    fraction: float,
    number: int,
    config: Config,
    listen: Listener,
) -> Outcome:
    place = folder / f"{fraction:g}" / f"{number:02d}"
    done = read_outcome(place, config)
    if done is not None:
        return done
    listen(PhaseStarted(f"  {number + 1}: {show_config(config)}"))
    outcome = objective.run(
        config,
        seed=seed,
        folder=place,
        fraction=fraction,
        progress=lambda step, total, loss, part="training": listen(Step(step, total, loss, None, part)),
    )
    write_outcome(place, config, outcome)
    return outcome


def _value(outcome: Outcome) -> float:
    return float("nan") if outcome.value is None else outcome.value


# Coefficients of m samples at once: (m, k), (m, k) -> (m,); NaN where a sample does not vary. They are those
# of scipy.stats, which takes 3 to 5 times as long for 2,000 samples of 8 to 32 configs (Pearson), 60 to 200
# times (Spearman: one sample at a time) and 3 to 47 times (Kendall).


def _pearson(x: Floats, y: Floats) -> Floats:
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    spread = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(spread > 1e-12, (x * y).sum(axis=1) / spread, np.nan))


def _spearman(x: Floats, y: Floats) -> Floats:
    return _pearson(rankdata(x, axis=1), rankdata(y, axis=1))


def _kendall(x: Floats, y: Floats) -> Floats:
    """Kendall's tau-b: the correlation of the signs of all pairs."""
    signs = [np.sign(z[:, :, None] - z[:, None, :]).reshape(len(z), -1) for z in (x, y)]
    return _pearson(*signs)


COEFFICIENTS = {"pearson": _pearson, "spearman": _spearman, "kendall": _kendall}
