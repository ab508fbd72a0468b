"""What past runs found: their scores, made comparable or refused, and the candidates that they are.

They are told of and change nothing in the search: tried first, or as a part of its belief, they did harm
(`benchmarks/past.py`). A past run may be of other data, another model or another fidelity.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from loracle.config.metrics import metric_of
from loracle.config.settings import PastConfig, RunConfig
from loracle.errors import ConfigError, SpaceError
from loracle.records.notices import Notice
from loracle.records.space import Config, Knob, SearchSpace, Value, same_value
from loracle.report.wording import show_config
from loracle.run.past.result import Direction, Result, Source, knobs_of
from loracle.run.past.studies import is_study, read_run, read_study, run_of
from loracle.run.past.tables import read_table
from loracle.run.past.trainer_states import NAME, read_trainer_states, trainer_states_in
from loracle.text import secrets as secret
from loracle.text.escape import printable

_TOLD = 3  # configs
_FAR = math.log(2)  # further from a candidate than by this factor, or by half a step, is another config
# What names say of a score.
_LESS = re.compile(r"loss|perplexity|ppl|nll|bits|error|mse|(^|[^a-z])(wer|cer)($|[^a-z])", re.I)
_MORE = re.compile(r"acc|f1|match|rouge|bleu|chrf|pass|reward|mcc|auc|(^|[^a-z])em($|[^a-z])", re.I)
_SCORED_ON = re.compile(
    r"^((metrics?|summary|best)[./_])*(eval|evaluation|validation|valid|val|dev)[./_]", re.I
)
_HEAD = re.compile(r"^((metrics?|summary)[./])+", re.I)


@dataclass(frozen=True)
class PastTrials:
    """Results of another search on candidates of the space: one source, one scale.

    Attributes:
        indices: (n,) configs, by their index; one may repeat.
        values: (n,) their scores, larger is better, in whatever unit; NaN where the training diverged.
    """

    indices: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def best_first(self) -> list[int]:
        """Indices by the mean of their values, each once; without those that diverged once."""
        found: dict[int, list[float]] = {}
        for index, value in zip(self.indices, self.values, strict=True):
            found.setdefault(index, []).append(value)
        means = {index: sum(values) / len(values) for index, values in found.items()}
        kept = [index for index, mean in means.items() if math.isfinite(mean)]
        return sorted(kept, key=lambda index: -means[index])


@dataclass(frozen=True)
class PastRuns:
    """Each source of past results on the candidates of a space, and what must be said of it."""

    trials: tuple[PastTrials, ...] = ()
    notices: tuple[Notice, ...] = ()


def read_past(config: RunConfig, space: SearchSpace) -> PastRuns:
    """Reads the past runs of `search.past`, and says of each source what can be used and what is best in it.

    Raises:
        LoracleError: one cannot be read, does not compare, or has nothing to say about this space.
    """
    entries = [(entry, source) for entry in config.search.past for source in _sources(entry, config.output)]
    found = [_laid(source, entry, config.metric, space) for entry, source in entries]
    notices = [_notice(space, trials, count) for trials, count in found]
    return PastRuns(tuple(trials for trials, _ in found), tuple(notices))


def _notice(space: SearchSpace, past: PastTrials, count: str) -> Notice:
    best = past.best_first[:_TOLD]
    configs = "; ".join(show_config(space.config(index)) for index in best)
    what = "the best is" if len(best) == 1 else "the best are, in order,"
    text = (
        f"{count}; {what} {configs}. Nothing of it is used in this search; search.seed_configs tries configs"
    )
    return Notice("search", "past_results", text, len(past.indices))


def _sources(entry: PastConfig, output: Path) -> list[Source]:
    """What a place holds. Files of the same kind that a pattern or a folder finds are one source: a sweep."""
    if "://" in (url := secret.expanded(entry.path, "search.past")):
        return [read_study(url, entry.study)]
    found = [Path(name) for name in sorted(glob(entry.path, recursive=True))]
    paths = found if has_magic(entry.path) else [Path(entry.path)]
    if not paths or not all(path.exists() for path in paths):
        raise ConfigError(f"search.past: there is no {printable(entry.path, 300)}")
    states: list[Path] = []
    sources: list[Source] = []
    for path in paths:
        if (run := run_of(path)) is not None:
            if run.resolve() == output.resolve():
                raise ConfigError(f"search.past: {path} is this run itself; name others")
            sources.append(read_run(run))
        elif path.is_dir():
            states += trainer_states_in(path)
        elif path.name == NAME:
            states.append(path)
        elif is_study(path):
            sources.append(read_study(path, entry.study))
        elif path.suffix.lower() in (".csv", ".tsv"):
            sources.append(read_table(path))
        else:
            kinds = f"a CSV file, a {NAME}, a journal of Optuna, the folder of a run, sqlite:///file"
            raise ConfigError(f"search.past: {path} is of no kind that is read: {kinds}")
    if states:
        sources.append(read_trainer_states(states))
    if not sources:
        raise ConfigError(f"search.past: {printable(entry.path, 300)} holds no run and no {NAME}")
    return sources


# -- which score ------------------------------------------------------------------------------------


def _score_of(source: Source, entry: PastConfig, metric: str) -> str:
    """The name of the score that compares with the run's metric.

    Raises:
        ConfigError: there is none, or its direction is another one.
    """
    names = sorted(source.measured, key=lambda one: _SCORED_ON.match(one) is None)
    listed = ", ".join(printable(one, 40) for one in names[:8]) or "none"
    own = metric_of(metric).needs == "nothing"  # it has no word for what it gives, nor has such a study
    if source.only is None:
        name = entry.metric or _named_like(source, metric)
    else:
        name = entry.metric or (source.only if own else None)
    if name is None:
        raise ConfigError(
            f"search.past: {source.name} has no score that is surely the run's metric {metric} (it has "
            f"{listed}); name the one that measures the same as `metric`, or leave it out"
        )
    score = source.only or name
    if score not in source.measured:
        raise ConfigError(
            f"search.past: {source.name} has no score {printable(score, 60)!r}; it has {listed}"
        )
    said = (entry.direction, source.directions.get(score), None if own else _direction(name))
    _require_same_direction(f"{printable(name, 60)} of {source.name}", {one for one in said if one}, metric)
    return score


def _require_same_direction(what: str, theirs: Set[str], metric: str) -> None:
    ours = "minimize" if metric_of(metric).less_is_better else "maximize"
    if theirs == {ours}:
        return
    if not theirs:
        raise ConfigError(
            f"search.past: nothing says whether more or less of {what} is better; set direction: maximize or "
            "minimize"
        )
    if len(theirs) > 1:
        raise ConfigError(
            f"search.past: {what} is said to be both minimized and maximized, so it does not compare"
        )
    (other,) = theirs
    raise ConfigError(
        f"search.past: {what} is {other}d and the run's metric {metric} is {ours}d, so they do not compare"
    )


def _named_like(source: Source, metric: str) -> str | None:
    """The score that has the metric's name, scored on validation data before others."""
    if metric in source.measured and metric in source.directions:  # a run of our own, or a named study
        return metric
    names = sorted(source.measured, key=lambda name: _SCORED_ON.match(name) is None)
    for name in names:
        scored = _SCORED_ON.sub("", name)
        if scored == name and metric == "loss":
            continue  # that of training, as far as one knows
        if _plain(_HEAD.sub("", scored)) in _spelt(metric):
            return name
    return None


def _spelt(metric: str) -> set[str]:
    return {_plain(metric), *({"em"} if metric == "exact_match" else ())}


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _direction(name: str) -> Direction | None:
    less, more = _LESS.search(name), _MORE.search(name)
    if bool(less) == bool(more):
        return None
    return "minimize" if less else "maximize"


# -- which candidate --------------------------------------------------------------------------------


def _laid(source: Source, entry: PastConfig, metric: str, space: SearchSpace) -> tuple[PastTrials, str]:
    """The results of a source on the candidates of a space, and how many there are of all, in words.

    Raises:
        ConfigError: they do not compare, or none of them can be used.
    """
    score = _score_of(source, entry, metric)
    sign = -1.0 if metric_of(metric).less_is_better else 1.0
    out: Counter[str] = Counter()
    placed: list[tuple[int, float]] = []
    moved = 0
    for result in source.results:
        value = result.scores.get(score)
        if value is None:
            out["without a score"] += 1
            continue
        config = _config(result, entry, space)
        missing = [name for name in space.names if name not in config]
        if missing:
            out[f"without {' and '.join(missing)}"] += 1
            continue
        index, exact = _candidate(space, config)
        if index is None:
            out["outside of the space"] += 1
            continue
        moved += not exact
        placed.append((index, sign * value))
    left_out = ", ".join(f"{n:,} {why}" for why, n in out.items())
    shown = score if source.only is None else entry.metric or "its value"
    count = f"{len(placed):,} of {len(source.results):,} results"
    if all(math.isnan(value) for _, value in placed):
        why = left_out or ("all that can be used diverged" if placed else "it holds no training that ended")
        raise ConfigError(
            f"search.past: {source.name}: {count} can be used, none of them with a score ({why}); state what "
            "all of them had in common in `fixed`, or leave it out"
        )
    text = f"{count} of {source.name} can be used, by {printable(shown, 60)}"
    text += f"; {moved:,} count for the nearest candidate" if moved else ""
    text += f"; left out: {left_out}" if left_out else ""
    return PastTrials(tuple(index for index, _ in placed), tuple(value for _, value in placed)), text


def _config(result: Result, entry: PastConfig, space: SearchSpace) -> Config:
    """The knobs of the space that a result states, or the user; what the space holds fixed may be missing."""
    single = {knob.name: knob.values[0] for knob in space if len(knob.values) == 1}
    stated = knobs_of(result.settings, space.names) | _names_in(result.settings, space)
    rank = {"rank": stated["rank"]} if "rank" in stated else {}
    common = knobs_of({**rank, **entry.fixed}, space.names) if entry.fixed else {}
    return {**single, **stated, **common}


def _names_in(settings: Mapping[str, Any], space: SearchSpace) -> Config:
    """Named knobs that settings state by the knob's own name, at whatever place."""
    texts = {knob.name: knob.texts for knob in space if knob.texts}
    lasts = ((re.split(r"[./:]", name)[-1], value) for name, value in settings.items())
    return {name: value for name, value in lasts if isinstance(value, str) and value in texts.get(name, ())}


def _candidate(space: SearchSpace, config: Config) -> tuple[int | None, bool]:
    """The candidate that a config is, or a near one, or None; and whether it is exactly that."""
    wanted = {name: config[name] for name in space.names}
    try:
        index = space.nearest(wanted)
    except SpaceError:  # a number that cannot stand on a knob's scale
        return None, False
    found = space.config(index)
    apart = [_apart(knob, wanted[knob.name], found[knob.name], space) for knob in space]
    return (index if max(apart) <= 1 else None), max(apart) == 0


def _apart(knob: Knob, wanted: Value, found: Value, space: SearchSpace) -> float:
    """How far two values of a knob are from each other, 1 is as far as a near one may be."""
    if same_value(wanted, found):
        return 0.0
    if knob.named or isinstance(wanted, str) or isinstance(found, str):
        return 0.0 if len(knob.values) == 1 else math.inf  # no name is near another
    if knob.name == "batch_size" and space.realised_batch(int(wanted)) == space.realised_batch(int(found)):
        return 0.0
    if len(knob.values) == 1:
        return 0.0  # fixed here, whatever it was there
    place, last = knob.position(found), len(knob.values) - 1
    below = (wanted < found and place > 0) or place == last
    neighbour = float(knob.numbers[place - 1 if below else place + 1])
    if knob.scale == "linear":
        return 2 * abs(wanted - found) / abs(neighbour - found)
    step = abs(math.log(neighbour / found))
    return abs(math.log(wanted / found)) / min(step / 2, _FAR)
