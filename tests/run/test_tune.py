from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import AutoPeftModelForCausalLM
from processes import PATIENCE
from transformers import LlamaForCausalLM

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, SpaceError, StudyError
from loracle.execution.executor import Done, InProcess, Job
from loracle.loaded_run import load_run
from loracle.records.events import Event, Expected, Noticed, PhaseStarted, Step, TrialFinished
from loracle.records.objective import TableObjective
from loracle.records.space import Config, Knob, SearchSpace
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.report.findings.search_cost import show_trainings
from loracle.report.verdict.stored import verdict_json
from loracle.run.folder import open_run
from loracle.run.search import Search
from loracle.run.storage.opening import begun_with, open_study, read_history
from loracle.run.tune import run_search, tune
from loracle.search import ensemble
from loracle.search.presets import PRESETS, EnsembleSettings

SPACE = SearchSpace((Knob("rank", (1, 2, 4, 8), "log2"), Knob("learning_rate", (1e-4, 1e-3, 1e-2), "log10")))


def finished(folder: Path, config: RunConfig) -> list[tuple[int, float | None]]:
    """What counts of a run: configs and values, in order."""
    _, space = open_run(folder)
    return [(t.index, t.outcome.value if t.outcome else None) for t in read_history(folder, space).counted]


def test_a_run_leaves_everything_a_user_needs(run_config: Callable[..., Path]) -> None:
    events: list[Event] = []
    config = load_config(run_config())
    result = tune(config, events.append)
    assert [len(result.history.counted), result.stopped] == [5, "all 5 trials are done"]
    assert sum(isinstance(event, TrialFinished) for event in events) == 5
    assert any(isinstance(event, Step) and event.loss is not None for event in events)
    assert "searching: ends after 5 trials (search.trials)" in [
        event.text for event in events if isinstance(event, PhaseStarted)
    ]
    folder = config.output
    model = AutoPeftModelForCausalLM.from_pretrained(folder / "best")
    assert model.peft_config["default"].r == result.comparison.winner["rank"]
    modes = {path.stat().st_mode for path in (folder / "best").iterdir() if path.suffix != ".md"}
    assert len(modes) == 1  # who can read the settings can read the weights
    recipe = yaml.safe_load((folder / "best" / "recipe.yaml").read_text())
    assert recipe["lora"]["lora_alpha"] == result.comparison.winner["alpha"]
    sizes = recipe["training"]
    assert (
        sizes["per_device_train_batch_size"] * sizes["gradient_accumulation_steps"]
        == (result.comparison.winner["batch_size"])
    )
    for number in range(5):
        names = {path.name for path in (folder / "trials" / f"{number:04d}").iterdir()}
        assert {"outcome.json", "items.jsonl", "log.txt", "provenance.json"} <= names
    report = (folder / "report.md").read_text()
    assert "standard" in report
    assert "| 4 |" in report
    assert (folder / "progress.png").stat().st_size > 1000
    assert load_config(folder / "config.yaml").search == config.search


def test_what_the_search_cost_is_the_same_everywhere(run_config: Callable[..., Path]) -> None:
    events: list[Event] = []
    config = load_config(run_config())
    result = tune(config, events.append)
    (*_, last) = [event for event in events if isinstance(event, TrialFinished)]
    assert last.trainings is not None
    found = verdict_json(config, result.space, result.finished, result.history, result.notices)["cost"]
    assert found["trainings"] == last.trainings
    tokens = found["trained"] + found["read"] + found["generated"]
    assert found["trainings"] == pytest.approx(tokens / found["one_training"])
    shown = show_trainings(last.trainings)
    assert f"The search cost {shown}" in (config.output / "report.md").read_text()
    assert shown in (config.output / "report.html").read_text()
    cost = load_run(config.output).findings.cost
    assert cost is not None
    assert cost.search is not None
    assert cost.search.trainings == last.trainings
    (expected, *_) = [event for event in events if isinstance(event, Expected)]
    assert expected.trainings == pytest.approx(last.trainings, rel=0.2)  # told before: by examples


def test_winner_and_standard_are_scored_on_the_same_test_items(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config())
    comparison = tune(config).comparison
    assert comparison.standard["alpha_ratio"] == 2
    assert comparison.difference is not None
    assert comparison.low is not None
    assert comparison.high is not None
    assert comparison.low <= comparison.difference <= comparison.high
    expected = (comparison.winner_outcome.value or 0) - (comparison.standard_outcome.value or 0)
    assert comparison.difference == pytest.approx(expected, abs=1e-6)


def test_the_same_command_adds_trials_and_repeats_none(run_config: Callable[..., Path]) -> None:
    path = run_config()
    first = load_config(path)
    tune(first)
    before = finished(first.output, first)
    more = first.model_copy(update={"search": first.search.model_copy(update={"trials": 7})})
    tune(more)
    after = finished(first.output, first)
    assert after[:5] == before
    assert len(after) == len({index for index, _ in after}) == 7


def test_the_standard_settings_of_the_user_are_tried_first(run_config: Callable[..., Path]) -> None:
    standard = {"rank": 4, "alpha": 4, "dropout": 0.1, "batch_size": 8, "learning_rate": 1e-2}
    config = load_config(run_config(search={"trials": 1}, standard=standard))
    result = tune(config)
    (trial,) = result.history.trials
    assert {k: v for k, v in result.space.config(trial.index).items() if k != "alpha_ratio"} == standard


@pytest.mark.slow  # that a worker's values are the same is seen where runs are killed, below
def test_isolated_trials_give_the_same_values_and_the_driver_holds_no_model(
    run_config: Callable[..., Path], tmp_path: Path
) -> None:
    plain = load_config(run_config(search={"trials": 3}))
    tune(plain)
    held: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrialFinished):
            held.append(models())

    def models() -> int:
        gc.collect()
        return sum(type(thing) is LlamaForCausalLM for thing in gc.get_objects())

    execution = plain.execution.model_copy(update={"workers": 1})
    isolated = plain.model_copy(update={"output": tmp_path / "isolated", "execution": execution})
    before = models()
    result = tune(isolated, listen)
    assert held == [before] * 3
    assert finished(isolated.output, isolated) == finished(plain.output, plain)
    adapters = [
        (folder / "best" / "adapter_model.safetensors").read_bytes()
        for folder in (plain.output, isolated.output)
    ]
    assert adapters[0] == adapters[1]
    assert result.comparison.difference is not None


@pytest.mark.parametrize("model", ["same", "minilm"])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_language_models_guide_the_search(run_config: Callable[..., Path], preset: str, model: str) -> None:
    config = load_config(
        run_config(language={"model": model, "prompt": "plain-v1"}, search={"trials": 3, "preset": preset})
    )
    assert len(tune(config).history.counted) == 3


def test_a_changed_setting_is_refused_and_nothing_is_lost(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config(search={"trials": 2}))
    tune(config)
    journal = (config.output / "journal.log").read_bytes()
    changed = load_config(run_config(search={"trials": 2}, training={"epochs": 2}))
    with pytest.raises(StudyError, match=r"training.epochs=1.0, now 2.0"):
        tune(changed)
    assert (config.output / "journal.log").read_bytes() == journal


def test_knobs_that_the_trainer_does_not_have_are_refused_first(run_config: Callable[..., Path]) -> None:
    space = {"base": "default", "knobs": {"lr": {"values": [1e-4]}}}
    with pytest.raises(ConfigError, match="lr"):
        tune(load_config(run_config(space=space)))


def test_impossible_batches_are_refused(run_config: Callable[..., Path]) -> None:
    space = {"base": "default", "knobs": {"batch_size": {"values": [512, 1024]}}}
    with pytest.raises(SpaceError, match="impossible batch"):
        tune(load_config(run_config(space=space)))


# -- the loop, on a table ---------------------------------------------------------------------------


def values() -> dict[int, float | Failure]:
    """Better with rank, best at the middle rate."""
    coordinates = SPACE.coordinates(SPACE.candidates)
    return {i: float(c[0] - 2 * (c[1] - 0.5) ** 2) for i, c in enumerate(coordinates)}


def search(
    folder: Path, objective: Any, budget: int, listen: Callable[[Event], None] = lambda event: None
) -> str:
    folder.mkdir(exist_ok=True)
    chooser = Search(SPACE, PRESETS["numeric"], None, 0)
    executor = InProcess(lambda: objective)
    return run_search(chooser, open_study(folder, SPACE), executor, folder, budget, listen)


def test_stops_when_every_candidate_is_tried(tmp_path: Path) -> None:
    assert search(tmp_path, TableObjective(SPACE, values()), 50) == "all 12 candidates are tried"
    best = Search(SPACE, PRESETS["numeric"], None, 0).leader(read_history(tmp_path, SPACE))
    assert best is not None
    assert SPACE.config(best.index)["rank"] == 8


def test_the_best_so_far_never_gets_worse_and_what_would_be_trained_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise gives the luckiest score to another config than the one that the belief is highest for."""
    noise = random.Random(5)
    table: dict[int, float | Failure] = {
        i: value + noise.gauss(0, 1.0) for i, value in values().items() if isinstance(value, float)
    }
    table[0] = Failure(FailureKind.DIVERGED, "loss is NaN")
    chooser = Search(SPACE, PRESETS["numeric"], None, 0)
    fits: list[int] = []
    fit = ensemble.fit_ensemble

    def counting(*arguments: Any) -> Any:
        fits.append(1)
        return fit(*arguments)

    monkeypatch.setattr(ensemble, "fit_ensemble", counting)
    shown: list[TrialFinished] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrialFinished):
            shown.append(event)

    executor = InProcess(lambda: TableObjective(SPACE, table))
    with open_study(tmp_path, SPACE) as study:
        run_search(chooser, study, executor, tmp_path, 12, listen)
        history = study.history()
    assert len(fits) <= 12  # the choice of the next config uses the same fit
    luckiest = 0
    for event in shown:
        so_far = History(history.trials[: event.done])
        if so_far.succeeded:
            assert event.best is not None
            assert event.best.outcome is not None
            assert event.recommended is not None
            assert event.recommended.index == chooser.ranking(so_far)[0]
            best_score = max(t.outcome.value for t in so_far.succeeded if t.outcome and t.outcome.value)
            assert event.best.outcome.value == best_score
            luckiest += event.best.index == event.recommended.index
        else:
            assert event.best is event.recommended is None
    assert luckiest < len(shown)  # else this test shows nothing


def test_failures_are_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    table = values()
    for index in range(0, SPACE.size, 3):
        table[index] = Failure(FailureKind.DIVERGED, "loss is NaN", "tail")
    search(tmp_path, TableObjective(SPACE, table), SPACE.size)
    history = read_history(tmp_path, SPACE)
    failures = [t for t in history.finished if t.outcome and t.outcome.failure]
    assert {t.index for t in failures} == set(range(0, SPACE.size, 3))
    assert failures[0].outcome is not None
    assert failures[0].outcome.failure == Failure(FailureKind.DIVERGED, "loss is NaN", "tail")


@pytest.mark.parametrize("kind", [FailureKind.CRASHED, FailureKind.LOST])
def test_stops_when_every_trial_crashes_and_goes_on_when_that_is_mended(
    tmp_path: Path, kind: FailureKind
) -> None:
    failure = Failure(kind, "ImportError: no module named x")
    objective = TableObjective(SPACE, dict.fromkeys(range(SPACE.size), failure))
    with pytest.raises(StudyError, match=r"the last 5 trials crashed or were lost.*no module named x"):
        search(tmp_path, objective, 30)
    crashed = [trial.index for trial in read_history(tmp_path, SPACE).trials]
    search(tmp_path, TableObjective(SPACE, values()), 8)
    # No config is to blame, so all are run again, in their order, and none of the budget is used up.
    assert [trial.index for trial in read_history(tmp_path, SPACE).succeeded][:5] == crashed
    assert len(read_history(tmp_path, SPACE).succeeded) == 8


def crashing(*ranks: int) -> TableObjective:
    """Every config of these ranks crashes."""
    failure = Failure(FailureKind.CRASHED, "RuntimeError: no such kernel")
    bad = {i: failure for i in range(SPACE.size) if SPACE.config(i)["rank"] in ranks}
    return TableObjective(SPACE, values() | bad)


@pytest.mark.parametrize(
    ("ranks", "crashed", "what", "why"),
    [
        ((8,), 3, "rank 8: all 3", "all 12 candidates are tried"),  # there were three of it
        ((4, 8), 4, "rank 4 or more: all 4", "10 candidates are tried, and the others have what every trial"),
    ],
)
def test_a_value_that_always_crashes_is_told_and_left_alone(
    tmp_path: Path, ranks: tuple[int, ...], crashed: int, what: str, why: str
) -> None:
    """Few crashes say so; the search ends with the candidates that do not have it, and the run goes on."""
    told: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Noticed):
            told.append(event.notice.text)

    stopped = search(tmp_path, crashing(*ranks), 50, listen)
    done = 12 - 3 * len(ranks)
    history = read_history(tmp_path, SPACE)
    assert len(history.succeeded) == done
    assert len(history.counted) == done + crashed
    assert stopped.startswith(why)
    (said,) = told
    assert said.startswith(
        f"{what} trials with it failed ({crashed} crashed; the last one with: RuntimeError"
    )


def test_what_crashes_every_time_is_left_out_also_after_a_kill(tmp_path: Path) -> None:
    space = SearchSpace((Knob("rank", (4, 8), "log2"), Knob("dropout", tuple(i / 10 for i in range(8)))))
    bad = Failure(FailureKind.CRASHED, "RuntimeError: no such kernel")
    table = {i: bad if space.config(i)["rank"] == 8 else float(i % 5) for i in range(space.size)}
    chooser = Search(space, PRESETS["default"], None, 0)

    def go(folder: Path, *budgets: int) -> str:
        folder.mkdir(exist_ok=True)
        for budget in budgets:  # each from what the journal holds
            executor = InProcess(lambda: TableObjective(space, table))
            with open_study(folder, space) as study:
                said = run_search(chooser, study, executor, folder, budget, lambda event: None)
        return said

    stopped = go(tmp_path / "whole", 30)
    assert stopped == "11 candidates are tried, and the others have what every trial crashed with"
    assert go(tmp_path / "parts", *range(1, 13)) == stopped
    whole, parts = (read_history(tmp_path / name, space).trials for name in ("whole", "parts"))
    assert [trial.index for trial in whole] == [trial.index for trial in parts]


def test_crashes_that_no_value_explains_end_a_run_that_has_begun_well(tmp_path: Path) -> None:
    class Outage(TableObjective):
        calls = 0

        def run(self, config: Config, **arguments: Any) -> Outcome:
            self.calls += 1
            if self.calls > 2:
                return Outcome(None, failure=Failure(FailureKind.CRASHED, "the server is gone"))
            return super().run(config, **arguments)

    with pytest.raises(StudyError, match=r"the last 5 trials crashed or were lost, .*the server is gone"):
        search(tmp_path, Outage(SPACE, values()), 30)
    assert len(read_history(tmp_path, SPACE).counted) == 2


def test_ctrl_c_records_the_trial_and_the_run_continues_with_it(tmp_path: Path) -> None:
    class Stopped(TableObjective):
        calls = 0

        def run(self, config: Config, **arguments: Any) -> Outcome:
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return super().run(config, **arguments)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "a", Stopped(SPACE, values()), 8)
    search(tmp_path / "a", TableObjective(SPACE, values()), 8)
    search(tmp_path / "b", TableObjective(SPACE, values()), 8)
    histories = [read_history(tmp_path / name, SPACE).counted for name in ("a", "b")]
    assert [t.index for t in histories[0]] == [t.index for t in histories[1]]
    kinds = [
        t.outcome.failure.kind
        for t in read_history(tmp_path / "a", SPACE).finished
        if t.outcome and t.outcome.failure
    ]
    assert kinds == [FailureKind.INTERRUPTED]


class Scripted:
    """Runs several jobs at a time; which one ends next is drawn from a seed."""

    def __init__(self, objective: Any, capacity: int, seed: int) -> None:
        self.capacity = capacity
        self._objective, self._chance = objective, random.Random(seed)
        self.running: list[Job] = []
        self.most = 0

    def submit(self, job: Job) -> None:
        assert len(self.running) < self.capacity
        self.running.append(job)
        self.most = max(self.most, len(self.running))

    def wait(self, seconds: float, progress: Any) -> list[Done]:
        job = self.running.pop(self._chance.randrange(len(self.running)))
        return [Done(job, self._objective.run(job.config, seed=job.seed, folder=job.folder))]

    def close(self) -> None:
        pass


def test_free_room_is_filled_at_once_and_the_order_of_completion_decides(tmp_path: Path) -> None:
    def run(name: str, seed: int) -> list[Trial]:
        (tmp_path / name).mkdir()
        executor = Scripted(TableObjective(SPACE, values()), 3, seed)
        chooser = Search(SPACE, PRESETS["numeric"], None, 0)
        ended: list[int] = []

        def listen(event: Event) -> None:
            if isinstance(event, TrialFinished):
                ended.append(event.trial.number)
                assert len(executor.running) == min(2, 10 - event.done)  # the third is chosen now

        with open_study(tmp_path / name, SPACE) as study:
            run_search(chooser, study, executor, tmp_path / name, 10, listen)
            history = study.history()
        assert executor.most == 3
        assert sorted(ended) == list(range(10))
        assert len({trial.index for trial in history.trials}) == 10  # what runs is not chosen again
        return list(history.trials)

    first, again, other = run("a", 1), run("b", 1), run("c", 2)
    assert first == again
    assert [trial.index for trial in first[:3]] == [trial.index for trial in other[:3]]
    assert first != other


# -- kill -9 ----------------------------------------------------------------------------------------


def start(path: Path, output: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "loracle", "tune", str(path), "--output", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def kill_when(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it ended before it was killed: {errors.decode()}"


def test_kill_9_at_several_moments_changes_nothing(run_config: Callable[..., Path], tmp_path: Path) -> None:
    path = run_config(search={"trials": 5}, execution={"workers": 1})
    config = load_config(path)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    in_process = config.execution.model_copy(update={"workers": 0})
    expected = tune(config.model_copy(update={"output": undisturbed, "execution": in_process}))

    def records(n: int) -> Callable[[], bool]:
        journal = killed / "journal.log"
        return lambda: journal.exists() and journal.read_bytes().count(b"\n") >= n

    # A trial makes three records: it starts (with its config), it says what it gave, it is finished.
    moments = [records(6), records(12), lambda: (killed / "final" / "winner" / "log.txt").exists()]
    for moment in moments:
        kill_when(start(path, killed), moment)
    result = tune(config.model_copy(update={"output": killed}))

    assert finished(killed, config) == finished(undisturbed, config)
    assert result.comparison.winner == expected.comparison.winner
    assert result.comparison.winner_outcome.value == expected.comparison.winner_outcome.value


def test_a_second_process_on_the_same_run_is_refused(run_config: Callable[..., Path], tmp_path: Path) -> None:
    path = run_config(search={"trials": 30})
    output = tmp_path / "run"
    first = start(path, output)
    deadline = time.monotonic() + PATIENCE
    while not (output / "journal.log").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # so that it is not done before the second has begun
    with pytest.raises(StudyError, match=rf"another loracle process \(pid {first.pid}\)"):
        tune(load_config(path))
    first.kill()
    first.communicate()


def test_a_run_knows_how_large_its_model_is_and_so_does_its_report(run_config: Callable[..., Path]) -> None:
    """The search starts from what is good for a model of that size, and a report of the run as well."""
    config = load_config(run_config(search={"trials": 1}))
    tune(config)
    told = begun_with(config.output, None)
    model = LlamaForCausalLM.from_pretrained(config.model)
    assert told["parameters of the base model"] == str(model.num_parameters())
    surrogate = load_run(config.output).preset.surrogate
    assert isinstance(surrogate, EnsembleSettings)
    assert surrogate.parameters == model.num_parameters()
