"""Several objectives of a run: what each trial scored by each, the Pareto set, and what is trained of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from loracle.config.metrics import metric_of
from loracle.records.notices import Notice
from loracle.records.space import SearchSpace
from loracle.records.trial import History, Outcome, Trial
from loracle.report.wording import knob_titles, show_score, show_value, shown_knobs

_WINNER = "winner"
PARETO = "Trials than which no other is better by one objective and as good by all, on validation data"


def scores_of(outcome: Outcome, objectives: Sequence[str], split: str = "validation") -> tuple[float, ...]:
    """What a training that succeeded scored by each objective, larger is better.

    The first objective is the value; the others stand among the metrics as they read.
    """
    assert outcome.value is not None
    others = [
        metric_of(name).read(outcome.metrics[f"{split}_loss" if name == "loss" else name])
        for name in objectives[1:]
    ]
    return (outcome.value, *others)


def scores(history: History, objectives: Sequence[str]) -> npt.NDArray[np.float64]:
    """Of the trials that succeeded, (n, k)."""
    found = [scores_of(trial.outcome, objectives) for trial in history.succeeded if trial.outcome]
    return np.array(found, dtype=np.float64).reshape(-1, len(objectives))


def weighed(
    history: History, objectives: Sequence[str], weights: npt.NDArray[np.float64] | None = None
) -> History:
    """The same trials with one value each, by `weights` (k,); None: all alike, as the winner is chosen.

    Of one objective, the trials as they are.
    """
    if len(objectives) < 2 or not history.succeeded:
        return history
    from loracle.search.outputs import as_one  # scipy: a run's first worker begins to load before

    alike = np.full(len(objectives), 1 / len(objectives))
    values = iter(as_one(scores(history, objectives), alike if weights is None else weights).tolist())
    return History(tuple(_valued(trial, values) for trial in history.trials))


def pareto_set(history: History, objectives: Sequence[str]) -> list[Trial]:
    """Trials than which none is better by one objective and as good by all; best by the first one first.

    Those that lose what must not be lost are none of them, unless all do.
    """
    from loracle.search.outputs import on_front

    keeping = [trial for trial in history.succeeded if trial.outcome and not trial.outcome.broken]
    trials = keeping or list(history.succeeded)
    if not trials:
        return []
    table = scores(History(tuple(trials)), objectives)
    front = np.flatnonzero(on_front(table))
    return [trials[i] for i in front[np.lexsort((front, -table[front, 0]))]]


def show_scores(outcome: Outcome, metric: str, objectives: Sequence[str]) -> str:
    """What a trial that succeeded scored, by each objective: `61.3 % / 1.2043`."""
    assert outcome.value is not None
    if len(objectives) < 2:
        return show_score(outcome.value, metric)
    found = zip(scores_of(outcome, objectives), objectives, strict=True)
    return " / ".join(show_score(score, name) for score, name in found)


def front_rows(
    space: SearchSpace, history: History, objectives: Sequence[str], winner: int | None = None
) -> list[list[str]]:
    """The Pareto set as a table: trial, knobs, a column an objective; first the titles.

    `winner`: index of the config that is trained in the end, which has a mark.
    """
    trials = pareto_set(history, objectives)
    configs = [shown_knobs(space.config(trial.index)) for trial in trials]
    names = list(configs[0] if configs else shown_knobs(space.config(0)))
    heads = [metric_of(one).title for one in objectives]
    titles = knob_titles(names, ("trial", *heads))
    rows = [["trial", *(titles[name] for name in names), *heads]]
    for trial, config in zip(trials, configs, strict=True):
        assert trial.outcome is not None
        found = zip(scores_of(trial.outcome, objectives), objectives, strict=True)
        number = f"{trial.number} ({_WINNER})" if trial.index == winner else str(trial.number)
        rows.append([number, *(show_value(config[n]) for n in names), *(show_score(x, m) for x, m in found)])
    return rows


def front_json(
    space: SearchSpace, history: History, objectives: Sequence[str], winner: int | None = None
) -> list[dict[str, Any]]:
    """The Pareto set for programs; docs/json.md describes it."""
    return [
        {
            "trial": trial.number,
            "config": dict(space.config(trial.index)),
            "scores": {
                name: metric_of(name).read(score)
                for name, score in zip(objectives, scores_of(trial.outcome, objectives), strict=True)
            },
            "winner": trial.index == winner,
        }
        for trial in pareto_set(history, objectives)
        if trial.outcome is not None
    ]


def pareto_notice(history: History, objectives: Sequence[str], winner: int) -> tuple[Notice, ...]:
    """Says how many configs are on the front, and which of them is trained; nothing for one objective.

    `winner`: index of the config that is trained in the end.
    """
    if len(objectives) < 2:
        return ()
    front, names = pareto_set(history, objectives), ", ".join(metric_of(one).title for one in objectives)
    own = [trial.number for trial in history.succeeded if trial.index == winner]
    beside = None if any(trial.index == winner for trial in front) or not own else own[0]
    what = "1 trial is" if len(front) == 1 else f"{len(front)} trials are"
    text = (
        f"{what} on the Pareto front of {names}: no other is better by one of them and as good by all, on "
        f"validation data. {compromise(beside)}"
    )
    return (Notice("result", "pareto_set", text, len(front)),)


def compromise(beside: int | None) -> str:
    """How the config that is trained on all data is chosen, in a sentence without its stop.

    `beside`: number of its trial, where that is not on the front.
    """
    text = (
        "The winner, which alone is trained on all data, is the compromise: the config whose rank among the "
        "trials is best in the objective in which it is worst, as the search believes after all trials"
    )
    if beside is None:
        return text
    return f"{text}. It is trial {beside}, which is not on the front by its own scores: they are partly luck"


# -- helpers ----------------------------------------------------------------------------------------


def _valued(trial: Trial, values: Iterator[float]) -> Trial:
    """The trial with the next value, if it succeeded."""
    if trial.outcome is None or trial.outcome.value is None:
        return trial
    return replace(trial, outcome=replace(trial.outcome, value=next(values)))
