"""The run's storage: nothing is lost, nothing is mixed, and Optuna reads it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from loracle.errors import StudyError
from loracle.sampler import history_of
from loracle.space import Knob, SearchSpace, default_space, paper_space
from loracle.study import Study, open_study, read_history, run_lock
from loracle.trial import Failure, FailureKind, History, Outcome, Trial

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = SearchSpace(
    (
        Knob("rank", (4, 8, 16), "log2"),
        Knob("alpha_ratio", (0.5, 1, 2), "log2"),
        Knob("dropout", (0, 0.05)),
        Knob("learning_rate", (1e-5, 1e-4), "log10"),
    )
)


def failed(kind: FailureKind) -> Outcome:
    return Outcome(
        None, {"steps": 3.0}, 1.5, Failure(kind, "one line: 'quoted'", "Traceback\n  of two lines é")
    )


def reopened(folder: Path) -> Study:
    return open_study(folder, SPACE)


# -- round trip ---------------------------------------------------------------------------------------


def test_everything_that_a_trial_gave_comes_back_exactly(tmp_path: Path) -> None:
    outcomes = [
        Outcome(0.1 + 0.2, {"loss": 1 / 3, "perplexity": 1e300}, seconds=math.pi),
        *(failed(kind) for kind in FailureKind),
        Outcome(-5e-324),
    ]
    study = reopened(tmp_path)
    expected = []
    for number, outcome in enumerate(outcomes):
        assert study.start(number) == number
        study.finish(number, outcome)
        expected.append(Trial(number, number, outcome))
    pending = study.start(20)
    expected.append(Trial(pending, 20))
    assert study.history() == History(tuple(expected))
    assert reopened(tmp_path).history() == History(tuple(expected))


@settings(deadline=None, max_examples=20)
@given(value=st.floats(allow_nan=False, allow_infinity=False), metric=st.floats(allow_nan=False))
def test_floats_survive_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, value: float, metric: float
) -> None:
    folder = tmp_path_factory.mktemp("run")
    study = reopened(folder)
    study.finish(study.start(0), Outcome(value, {"metric": metric}))
    outcome = reopened(folder).history().trials[0].outcome
    assert outcome is not None
    assert outcome.value == value
    assert outcome.metrics == {"metric": metric}


@pytest.mark.parametrize("space", [default_space(), paper_space(), SPACE], ids=["default", "paper", "small"])
def test_every_config_of_a_space_can_be_recorded(space: SearchSpace, tmp_path: Path) -> None:
    study = open_study(tmp_path, space)
    ends = [0, space.size - 1, *(int(i) for i in space.candidates[:: max(1, len(space.candidates) // 7)])]
    for index in ends:
        study.start(index)
    assert [trial.index for trial in open_study(tmp_path, space).history().pending] == ends


def test_a_finished_trial_is_not_finished_twice(tmp_path: Path) -> None:
    study = reopened(tmp_path)
    study.finish(study.start(0), Outcome(0.5))
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        study.finish(0, Outcome(0.6))


# -- taking over --------------------------------------------------------------------------------------


def test_what_a_dead_process_left_is_interrupted_and_trained_again(tmp_path: Path) -> None:
    study = reopened(tmp_path)
    study.finish(study.start(3), Outcome(0.5))
    study.start(7)
    study = reopened(tmp_path)
    assert study.take_over() == [7]
    outcome = study.history().trials[1].outcome
    assert outcome is not None
    assert outcome.failure == Failure(FailureKind.INTERRUPTED, "the process ended during the trial")
    assert study.history().pending == ()
    assert study.take_over() == [7]  # until it has been trained
    study.start(7)
    assert reopened(tmp_path).take_over() == [7]  # died once more: once is enough
    study = reopened(tmp_path)
    study.finish(study.start(7), Outcome(0.6))
    assert study.take_over() == []


def test_interrupted_configs_come_back_in_order(tmp_path: Path) -> None:
    study = reopened(tmp_path)
    for index in (9, 2, 5):
        study.start(index)
    study.finish(1, failed(FailureKind.DIVERGED))
    assert study.take_over() == [9, 5]


# -- damage -------------------------------------------------------------------------------------------


def test_a_record_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    study = reopened(tmp_path)
    study.finish(study.start(3), Outcome(0.5))
    before, journal = study.history(), tmp_path / "journal.log"
    whole = journal.read_bytes()
    study.start(4)
    record = journal.read_bytes()[len(whole) :]
    assert record.endswith(b"\n")
    assert record.count(b"\n") == 1  # a trial begins in one atomic record
    for length in range(0, len(record), 25):
        journal.write_bytes(whole + record[:length])
        study = reopened(tmp_path)
        assert study.history() == before
        assert journal.read_bytes().startswith(whole)
        assert b'"op_code":4' not in journal.read_bytes()[len(whole) :]  # the record that was cut off
    assert study.start(4) == 1
    assert len(reopened(tmp_path).history().trials) == 2


def test_every_prefix_of_the_journal_can_be_continued(tmp_path: Path) -> None:
    study = reopened(tmp_path)
    study.finish(study.start(3), Outcome(0.5))
    study.finish(study.start(4), failed(FailureKind.CRASHED))
    journal = tmp_path / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    for count in range(len(lines) + 1):
        journal.write_bytes(b"".join(lines[:count]) + (lines[count][:9] if count < len(lines) else b""))
        study = reopened(tmp_path)
        again = study.take_over()
        assert study.history().pending == ()
        assert set(again) <= {3, 4}
        study.finish(study.start(5), Outcome(0.1))
        assert reopened(tmp_path).history().trials[-1].index == 5


@pytest.mark.parametrize("damage", [b"nonsense\n", b"\x00\x00\x00\n", b"{}\n", b"[1]\n"])
def test_damage_elsewhere_is_one_clear_line(damage: bytes, tmp_path: Path) -> None:
    study = reopened(tmp_path)
    study.finish(study.start(3), Outcome(0.5))
    journal = tmp_path / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], damage, *lines[2:]]))
    for opens in (open_study, read_history):
        with pytest.raises(StudyError, match=r"journal\.log: the journal is damaged") as error:
            opens(tmp_path, SPACE)
        assert "\n" not in str(error.value)
        assert "use another output" in str(error.value)


def test_a_run_can_be_read_while_another_process_writes(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is no run here"):
        read_history(tmp_path, SPACE)
    journal = tmp_path / "journal.log"
    journal.touch()
    assert read_history(tmp_path, SPACE) == History()
    study = reopened(tmp_path)
    study.finish(study.start(3), Outcome(0.5))
    study.start(4)
    journal.write_bytes(journal.read_bytes() + b'{"op_code":')  # a record that is being written
    before = journal.read_bytes()
    assert read_history(tmp_path, SPACE) == History((Trial(0, 3, Outcome(0.5)), Trial(1, 4)))
    assert journal.read_bytes() == before


def test_another_space_is_refused(tmp_path: Path) -> None:
    reopened(tmp_path)
    other = SearchSpace(SPACE.knobs, ("rank > 4",))
    with pytest.raises(StudyError, match="this run searched another space") as error:
        open_study(tmp_path, other)
    assert SPACE.fingerprint in str(error.value)
    assert other.fingerprint in str(error.value)
    assert reopened(tmp_path).history() == History()


def test_trials_of_another_program_are_refused(tmp_path: Path) -> None:
    study = reopened(tmp_path)
    study.optuna.add_trial(optuna.create_trial(value=1.0))
    with pytest.raises(StudyError, match="trial 0 of this run was written by another program"):
        study.history()


# -- Optuna reads it ----------------------------------------------------------------------------------


def test_optuna_alone_reads_the_journal(tmp_path: Path) -> None:
    study = reopened(tmp_path)
    index = SPACE.index({"rank": 8, "alpha": 16, "dropout": 0.05, "learning_rate": 1e-4})
    study.finish(study.start(index), Outcome(0.75, {"exact_match": 0.75}, 12.0))
    study.finish(study.start(0), failed(FailureKind.OUT_OF_MEMORY))
    study.start(1)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    loaded = optuna.load_study(study_name="loracle", storage=storage)
    assert loaded.best_value == 0.75
    assert loaded.best_params == {"rank": 8, "alpha_ratio": 2, "dropout": 0.05, "learning_rate": 1e-4}
    assert [trial.state for trial in loaded.trials] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    assert loaded.trials[0].user_attrs["alpha"] == 16
    assert len(loaded.trials) == 3
    theirs = history_of(loaded, SPACE)  # what `LoracleSampler` would make of it
    assert [trial.index for trial in theirs.trials] == [index, 0, 1]
    assert theirs.trials[1].outcome is not None
    assert theirs.trials[1].outcome.failure is not None
    assert theirs.trials[1].outcome.failure.kind is FailureKind.OUT_OF_MEMORY


# -- locks --------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from loracle.study import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StudyError) as error, run_lock(tmp_path):
            pass
        owner = f"another loracle process (pid {holder.pid}) works on this run"
        assert str(error.value) == f"{tmp_path}: {owner}; wait for it or stop it"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with run_lock(tmp_path):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()  # type: ignore[union-attr]


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), run_lock(tmp_path):
        raise RuntimeError
    with run_lock(tmp_path), pytest.raises(StudyError, match="another loracle process"), run_lock(tmp_path):
        pass


def test_threads_write_whole_records(tmp_path: Path) -> None:
    study = reopened(tmp_path)

    def work(first: int) -> None:
        for index in range(first, first + 5):
            study.finish(study.start(index), Outcome(float(index)))

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 5, 10, 15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trials = reopened(tmp_path).history().trials
    assert sorted(trial.index for trial in trials) == list(range(20))
    assert all(trial.outcome == Outcome(float(trial.index)) for trial in trials)
