"""Searches on tables in virtual time are those of `loracle tune`. No second here is waited for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")
pytest.importorskip("optuna", reason="the benchmarks need Optuna")

import cost
from recorded_tasks import recorded, visible
from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space
from simulator import Replayed, Simulated, VirtualWorkers, simulate

from loracle.config.settings import NO_DATA, ExecutionConfig, RunConfig, SearchConfig
from loracle.execution.executor import Job
from loracle.records.events import Event, Listener, TrialFinished, TrialStarted
from loracle.records.objective import Report
from loracle.records.sizes import Sizes
from loracle.records.space import Knob, SearchSpace
from loracle.records.trial import Failure, FailureKind, History, Outcome, Tokens
from loracle.run.search import Search
from loracle.run.storage.opening import read_history

FIXED = Knob("alpha_ratio", (2,)), Knob("batch_size", (16,))
SPACE = SearchSpace(
    (Knob("rank", (1, 2, 4, 8), "log2"), Knob("learning_rate", (1e-4, 1e-3, 1e-2), "log10"), *FIXED)
)
TOKENS = Tokens(trained=20, read=5, generated=0, full=80, full_scoring=20)  # a quarter of a full training
DIVERGED = Failure(FailureKind.DIVERGED, "the training diverged")


def outcome(index: int, seconds: float) -> Outcome:
    """Better with rank, best at the middle rate; one diverges."""
    rank, rate, *_ = SPACE.coordinates([index])[0].tolist()
    if index == 11:
        return Outcome(None, replace(TOKENS, read=0).metrics, seconds, DIVERGED)
    return Outcome(rank - 2 * (rate - 0.5) ** 2, TOKENS.metrics, seconds)


def table(seconds: Callable[[int], float] = lambda index: 1.0, **more: Any) -> Replayed:
    return Replayed(SPACE, {i: outcome(i, seconds(i)) for i in range(SPACE.size)}, **more)


def search(
    folder: Path,
    objective: Replayed,
    *,
    workers: int = 1,
    together: int = 1,
    listen: Listener = lambda event: None,
    **limits: Any,
) -> Simulated:
    config = RunConfig(
        model="recorded",
        data=NO_DATA,
        output=folder,
        search=SearchConfig(**limits),
        execution=ExecutionConfig(trials_together=together),
    )
    return simulate(config, objective, workers=workers, adjusted=on_the_table, listen=listen)


def on_the_table(search: Search) -> Search:
    return replace(search, space=SPACE)


def unusual(index: int) -> float:
    """So different that trials overtake each other."""
    return float(1 + 7 * index % 12) ** 2


def test_workers_end_in_the_order_of_their_seconds() -> None:
    workers = VirtualWorkers(table(unusual), 3)
    jobs = [Job(i, SPACE.config(i), 0, Path("unused")) for i in range(SPACE.size)]
    expected: list[tuple[float, int]] = []
    for job in jobs[:3]:
        workers.submit(job)
        expected.append((unusual(job.number), job.number))
    for job in [*jobs[3:], None, None, None]:
        (done,) = workers.wait(1.0, lambda *_: None)
        assert (workers.now, done.job.number) == min(expected)
        expected.remove(min(expected))
        if job is not None:
            workers.submit(job)
            expected.append((workers.now + unusual(job.number), job.number))
    assert workers.wait(1.0, lambda *_: None) == []
    assert workers.busy == sum(map(unusual, range(SPACE.size)))


def test_free_workers_are_used_at_once_and_time_depends_on_nothing_but_the_table(tmp_path: Path) -> None:
    def run(name: str, workers: int, unit: float) -> tuple[Simulated, list[int]]:
        ended: list[int] = []

        def listen(event: Event) -> None:
            if isinstance(event, TrialFinished):
                ended.append(event.trial.number)

        objective = table(lambda index: unit * unusual(index))
        return search(tmp_path / name, objective, workers=workers, listen=listen, trials=12), ended

    (one, in_order), (three, overtaken), (long, _) = (
        run(name, workers, unit) for name, workers, unit in (("a", 1, 1.0), ("b", 3, 1.0), ("c", 3, 2.0**20))
    )
    assert in_order == list(range(12))
    assert sorted(overtaken) == in_order != overtaken
    assert one.stopped == three.stopped == "all 12 trials are done"
    assert one.seconds == one.busy == three.busy == sum(map(unusual, range(SPACE.size)))
    assert one.seconds / 3 <= three.seconds < one.seconds
    assert long.seconds == 2.0**20 * three.seconds
    assert [t.index for t in long.history.trials] == [t.index for t in three.history.trials]
    assert read_history(tmp_path / "c", SPACE) == long.history


def test_a_budget_ends_it_and_who_knows_no_cost_waits_for_the_first_trial(tmp_path: Path) -> None:
    one, three = (search(tmp_path / str(n), table(), workers=n, budget=1.0) for n in (1, 3))
    for found in (one, three):
        assert found.stopped.startswith(
            "stopped after 4 of at most 30 trials: they cost 0.95 full trainings, and"
        )
        assert [t.outcome.value is None for t in found.history.trials if t.outcome].count(True) == 1
    assert (one.seconds, three.seconds) == (4.0, 2.0)  # the first one, and then the three others


def test_a_run_that_was_cut_goes_on_to_the_same_history(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", table(unusual), trials=9)

    def cut(event: Event) -> None:
        if isinstance(event, TrialStarted) and event.number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "cut", table(unusual), trials=9, listen=cut)
    assert [t.interrupted for t in read_history(tmp_path / "cut", SPACE).trials] == [False] * 4 + [True]
    again = search(tmp_path / "cut", table(unusual), trials=9)

    def counted(history: History) -> list[tuple[int, Outcome | None]]:
        return [(trial.index, trial.outcome) for trial in history.counted]

    assert counted(again.history) == counted(whole.history)
    assert again.ranked == whole.ranked
    assert again.seconds == whole.seconds - sum(unusual(t.index) for t in whole.history.trials[:4])


def test_trials_that_train_together_are_recorded_together(tmp_path: Path) -> None:
    found = search(tmp_path, table(), together=3, trials=7)
    groups = [trial.together for trial in found.history.trials]
    assert [len(group) for group in groups] == [3, 3, 3, 3, 3, 3, 0]
    assert found.seconds == 7.0  # a table does not say what they save


def test_finalists_are_chosen_by_their_trainings_on_all_data(tmp_path: Path) -> None:
    values = {i: float(-i) for i in range(SPACE.size)}  # the reverse of what the search is told
    finals = {i: Outcome(x, {"validation_value": x}, 10.0) for i, x in values.items()}
    told = Report(sizes=Sizes(100, 50, 100, 50, 0))
    plain, chosen = (
        search(tmp_path / str(n), table(finals=finals, told=told), trials=6, finalists=n, workers=2)
        for n in (1, 3)
    )
    assert plain.with_finals == plain.seconds == chosen.seconds
    assert chosen.history == plain.history
    assert chosen.ranked == [*sorted(plain.ranked[:3]), *plain.ranked[3:]] != plain.ranked
    assert chosen.with_finals == chosen.seconds + 20.0  # two at a time, and the third


def test_the_recorded_tasks_give_what_asking_and_telling_gives() -> None:
    """The same configs, cost and recommendations as proposals one by one on the bare table."""
    task, fidelity = recorded()["verdict"], (0.1, 30)
    landscape = replace(visible(task, 0), may_train=False)  # the prior that ships
    start = Start(landscape, table_space(landscape), FACTORY, 0)
    found, leaders = cost.tuned(task, start, fidelity, trials=30, budget=0.5)
    assert len(leaders) == 5  # of a tenth of a full training each
    method = LoracleMethod(start, ensemble(start, decades=1.0))
    for n, spent, _ in cost.follow(task, landscape, method, fidelity, 5):
        assert leaders[n - 1] == method.recommend()
        assert spent == pytest.approx(n * task.costs[fidelity])
    assert [trial.index for trial in found.history.trials] == [t.index for t in method.history.trials]
    assert found.ranked == method.ranked()
    longer, _ = cost.tuned(task, start, fidelity, trials=6)
    assert longer.history.trials[:5] == found.history.trials
    assert cost.affordable(longer, 0.5) == 5
    curves = [trial.outcome.curve for trial in found.history.trials if trial.outcome]
    assert all(curve is not None and np.isfinite(curve.losses).all() for curve in curves)
