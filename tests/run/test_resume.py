"""A run with too little memory for all candidates that is killed and goes on with other free memory: as if
never disturbed. What is proposed depends on the study's record alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.storages.journal._storage import JournalOperation
from processes import PATIENCE

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig, build_space
from loracle.errors import StudyError
from loracle.records.events import Event, Noticed
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.run.folder import open_run
from loracle.run.search import Search
from loracle.run.storage.opening import read_history
from loracle.run.tune import tune
from loracle.search.presets import PRESETS, with_standard
from loracle.training import trial as training_trial
from loracle.training.loop import train_adapter
from loracle.training.memory.measurement import ProcessMeter
from loracle.training.memory.plan import MemoryModel, allowed
from loracle.training.objective import TrainingObjective

WriteRun = Callable[..., Path]
Free = Callable[[float], None]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Free:
    """Sets the free memory that sessions find at their start, in bytes."""
    found = [14e9]
    monkeypatch.setattr(ProcessMeter, "limit", lambda self: self.used() + round(found[0]))
    return lambda room: found.__setitem__(0, room)


@pytest.fixture
def memory(run_config: WriteRun) -> MemoryModel:
    return TrainingObjective.from_config(load_config(run_config())).memory


def scarce(memory: MemoryModel, config: RunConfig, share: float = 0.5) -> float:
    """Free memory in bytes with which that share of the candidates fit."""
    growths = memory.peaks(build_space(config.space), 1) - memory.loaded
    return 1.001 * float(np.quantile(growths, share)) / 0.9


def proposals(folder: Path) -> list[tuple[int, FailureKind | None, float | None]]:
    """Configs, failures and values of what counts, in order."""
    config, space = open_run(folder)
    outcomes = [(t.index, t.outcome) for t in read_history(folder, space, config.execution.storage).counted]
    return [
        (index, o.failure.kind if o and o.failure else None, o.value if o else None) for index, o in outcomes
    ]


def memory_binds(config: RunConfig) -> bool:
    """Whether a run would have gone another way had there been memory for all candidates."""
    space = build_space(config.space)
    trials = read_history(config.output, space).trials
    preset = with_standard(PRESETS["default"], config.standard)
    unbound = Search(space, preset, None, config.search.seed)
    return any(unbound.next(History(trials[:n])) != trials[n].index for n in range(len(trials)))


def require_alike(one: Path, other: Path) -> None:
    """Values but for rounding: with other free memory, a batch is cut into other parts."""
    found, expected = proposals(one), proposals(other)
    assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
    for (_, _, value), (_, _, wanted) in zip(found, expected, strict=True):
        assert value == wanted or value == pytest.approx(wanted, rel=1e-5)


@contextmanager
def session(config: RunConfig) -> Iterator[int]:
    """The process that runs `tune`; it ends by signal 9."""

    def run() -> None:
        try:
            tune(config)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    assert process.pid is not None
    try:
        yield process.pid
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert process.exitcode == -signal.SIGKILL


def kill_after(config: RunConfig, records: int) -> None:
    """A session that is killed when that many records have been added to the journal."""
    journal = config.output / "journal.log"

    def count() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    wanted, end = count() + records, time.monotonic() + PATIENCE
    with session(config) as pid:
        while count() < wanted and time.monotonic() < end:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            assert ended is None, "it ended by itself"
            time.sleep(0.001)


def records_that_begin(config: RunConfig) -> int:
    """Records of the journal before the first of a trial."""
    records = (config.output / "journal.log").read_text(encoding="utf-8").splitlines()
    kinds = [json.loads(record)["op_code"] for record in records]
    return kinds.index(JournalOperation.CREATE_TRIAL)


def train_with_a_shortage(base: Any, train: Any, config: dict[str, Any], *args: Any, **more: Any) -> Any:
    """There is no memory for this rank with dropout, whatever is free."""
    if config["rank"] >= 4 and config["dropout"] > 0:
        raise MemoryError("an injected shortage")
    return train_adapter(base, train, config, *args, **more)


@pytest.mark.parametrize(
    ("shortage", "seed"),
    [(True, 1), *(pytest.param(seed > 4, seed, marks=pytest.mark.slow) for seed in (0, *range(2, 8)))],
)
def test_kill_9_early_and_other_free_memory_change_nothing_where_memory_binds(
    tmp_path: Path,
    run_config: WriteRun,
    memory: MemoryModel,
    free: Free,
    monkeypatch: pytest.MonkeyPatch,
    shortage: bool,
    seed: int,
) -> None:
    if shortage:
        monkeypatch.setattr(training_trial, "train_adapter", train_with_a_shortage)
    standard = {"rank": 2, "alpha": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-3}
    if shortage:
        standard |= {"rank": 4, "dropout": 0.1}
    settings: dict[str, Any] = {"search": {"trials": 6}, "standard": standard}
    config = load_config(run_config(output="undisturbed", **settings))
    little = scarce(memory, config, 0.6 if shortage else 0.5)
    free(little)
    tune(config)
    failed = [kind for _, kind, _ in proposals(config.output) if kind is not None]
    assert (FailureKind.OUT_OF_MEMORY in failed) == shortage
    assert memory_binds(config)
    killed = config.model_copy(update={"output": tmp_path / "killed"})
    chance = random.Random(seed)
    # The first is killed in its first trial: before it a run keeps nothing, of its memory neither.
    kill_after(killed, records_that_begin(config) + 1)
    for room in chance.sample([14e9, 2 * little, 0.7 * little], k=2):
        free(room)
        kill_after(killed, chance.randint(2, 6))
    free(14e9)
    tune(killed)
    require_alike(killed.output, config.output)


def test_a_training_that_ran_out_of_memory_leaves_out_the_same_whatever_is_loaded(
    memory: MemoryModel, run_config: WriteRun
) -> None:
    """What a process holds before a training differs between sessions, and rounds differently."""
    space = build_space(load_config(run_config()).space)
    growths = memory.peaks(space, 1) - memory.loaded
    room = float(np.quantile(growths, 0.9))
    index = int(space.candidates[int(np.argsort(growths)[len(growths) // 2])])
    needed = memory.predict(space.config(index), 1)
    shortage = Failure(FailureKind.OUT_OF_MEMORY, "out of memory")
    history = History((Trial(0, index, Outcome(None, {"exceeded_growth_bytes": needed}, 1.0, shortage)),))
    history = History((*history.trials, Trial(1, int(space.candidates[0]), Outcome(1.0))))
    found = [
        allowed(replace(memory, room=room, loaded=loaded), space, history)
        for loaded in (0, 1_234_567_891, 98_765_432_109)
    ]
    row = int(np.flatnonzero(space.candidates == index)[0])
    assert not any(fits[row] for fits in found)
    assert all((fits == found[0]).all() for fits in found)


def test_free_memory_changes_no_proposal_of_a_run_in_a_database(
    tmp_path: Path, run_config: WriteRun, memory: MemoryModel, free: Free
) -> None:
    def run(name: str, sessions: list[tuple[float, int]]) -> Path:
        for room, trials in sessions:
            free(room)
            execution = {"workers": 0, "storage": f"sqlite:///{tmp_path}/{name}.db"}
            config = load_config(run_config(output=name, search={"trials": trials}, execution=execution))
            tune(config)
        return config.output

    little = scarce(memory, load_config(run_config()))
    undisturbed = run("undisturbed", [(little, 5)])
    require_alike(run("interrupted", [(little, 2), (14e9, 5)]), undisturbed)


def test_what_is_said_to_be_left_out_is_what_was_left_out_when_the_run_began(
    run_config: WriteRun, memory: MemoryModel, free: Free
) -> None:
    config = load_config(run_config(search={"trials": 1}))

    def said() -> list[str]:
        heard: list[Event] = []
        tune(config, heard.append)
        notices = [event.notice for event in heard if isinstance(event, Noticed)]
        return [notice.text for notice in notices if notice.name == "too_large"]

    free(scarce(memory, config))
    first = said()
    free(14e9)
    assert [text.split(" candidates")[0] for text in said()] == [first[0].split(" candidates")[0]]


def test_what_was_added_to_a_run_is_named_as_it_was_written(run_config: Callable[..., Path]) -> None:
    tune(load_config(run_config(search={"trials": 1})))
    added: dict[str, dict[str, Any]] = {
        r"this run began without guard, which it has now": {"guard": {"held": {"data": "train.jsonl"}}},
        r"this run began without training\.early_stopping, which it has now": {
            "training": {"early_stopping": {"patience": 2}}
        },
    }
    for said, changes in added.items():
        with pytest.raises(StudyError, match=said):
            tune(load_config(run_config(search={"trials": 1}, **changes)))


def test_a_metric_that_is_asked_for_too_late_is_said_to_be_missing(run_config: Callable[..., Path]) -> None:
    first = tune(load_config(run_config(search={"trials": 1})))
    assert "metrics_not_measured" not in [notice.name for notice in first.notices]
    later = {"metric": "loss", "metrics": ["perplexity", "token_f1"]}
    again = tune(load_config(run_config(search={"trials": 1}, scoring=later)))
    (told,) = [notice for notice in again.notices if notice.name == "metrics_not_measured"]
    assert told.text.startswith("perplexity, token_f1 (scoring.metrics): not measured, as the trainings")
