"""The run's storage: nothing is lost, nothing is mixed, and Optuna reads it."""

from __future__ import annotations

import math
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from places import TESTS
from processes import PATIENCE
from sqlalchemy.exc import OperationalError

from loracle.errors import StudyError
from loracle.records.space import Knob, SearchSpace, default_space, paper_space
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.run.identity import Identity
from loracle.run.storage import database as databases
from loracle.run.storage.lock import run_lock
from loracle.run.storage.opening import open_study, read_history
from loracle.run.storage.storage import open_storage
from loracle.run.storage.study import Study, taken
from loracle.search.optuna_sampler.history import history_of

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
    assert not study.finish(0, Outcome(0.6))
    assert not study.finish(0, failed(FailureKind.CRASHED))
    assert study.history() == History((Trial(0, 0, Outcome(0.5)),))
    assert reopened(tmp_path).history() == study.history()


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


@pytest.mark.parametrize(
    "damage",
    [
        *(b"nonsense\n", b"\x00\x00\x00\n", b"\n", b"{}\n", b"[1]\n", b"[" * 100_000 + b"\n"),
        b'{"op_code":6,"worker_id":"","trial_id":7,"state":1,"values":[0.1]}\n',
        b'{"op_code":8,"worker_id":"","study_id":1,"user_attr":{"a":1}}\n',
        b'{"op_code":99,"worker_id":"","study_id":0}\n',
    ],
)
def test_damage_elsewhere_is_one_clear_line_and_changes_nothing(damage: bytes, tmp_path: Path) -> None:
    study = reopened(tmp_path)
    study.finish(study.start(3), Outcome(0.5))
    journal = tmp_path / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:4], damage, *lines[4:], b'{"cut off'])
    journal.write_bytes(damaged)
    for opens in (open_study, read_history):
        with pytest.raises(StudyError) as error:
            opens(tmp_path, SPACE)
        assert str(error.value) == f"{journal}:5: the journal is damaged; restore it or use another output"
    assert journal.read_bytes() == damaged


@pytest.mark.parametrize(
    ("written", "instead", "says"),
    [
        ('"loracle:index":3', '"loracle:index":30', "trial 0 of this run is damaged"),  # another config
        ('"loracle:index":3', '"loracle:index":3000', "trial 0 of this run is damaged"),
        ('"loracle:index":3', '"loracle:index":"a"', "trial 0 of this run is damaged"),
        ('"seconds":1.5', '"seconds":"a"', "trial 0 of this run is damaged"),
        ('"metrics":{', '"metrics":7,"m":{', "trial 0 of this run is damaged"),
        ('"values":[0.5]', '"values":["a"]', "trial 0 of this run is damaged"),
        ('"values":[0.5]', '"values":[NaN]', "trial 0 of this run is damaged"),
        ('"values":[0.5]', '"values":[0.5, 0.6]', "trial 0 of this run is damaged"),
        ('"values":[0.5]', '"values":null', "trial 0 of this run is damaged"),
        ('"study_name":"loracle"', '"study_name":"lor"', "journal.log:1: the journal is damaged"),
        ('"loracle:space"', '"loracle:spbce"', "this run searched another space (fingerprint None"),
    ],
)
def test_a_record_that_says_something_else_is_refused(
    written: str, instead: str, says: str, tmp_path: Path
) -> None:
    study = reopened(tmp_path)
    study.finish(study.start(3), Outcome(0.5, {"loss": 0.25}, 1.5))
    journal = tmp_path / "journal.log"
    damaged = journal.read_text().replace(written, instead, 1)
    assert damaged != journal.read_text()
    journal.write_text(damaged)
    with pytest.raises(StudyError) as error:
        reopened(tmp_path).history()
    assert says in str(error.value)
    assert journal.read_text() == damaged


def test_a_journal_without_a_whole_record_is_damaged_and_not_empty(tmp_path: Path) -> None:
    (tmp_path / "journal.log").write_text("garbage\n")
    for read in (read_history, open_study):
        with pytest.raises(StudyError, match=r"journal.log:1: the journal is damaged"):
            read(tmp_path, SPACE)
    assert (tmp_path / "journal.log").read_text() == "garbage\n"


def test_a_journal_of_an_earlier_version_is_continued(tmp_path: Path) -> None:
    shutil.copy(TESTS / "journals" / "version-0.1.0.log", tmp_path / "journal.log")
    study = reopened(tmp_path)
    left = Failure(FailureKind.INTERRUPTED, "the process ended during the trial")
    nan = Failure(FailureKind.DIVERGED, "the loss is nan", "Traceback")
    assert study.history().trials == (
        Trial(0, 3, Outcome(0.5, {"loss": 0.25}, 1.5)),
        Trial(1, 4, Outcome(None, {}, 2.0, nan)),
        Trial(2, 5, Outcome(None, failure=left)),
        Trial(3, 5),
    )
    assert study.take_over() == [5]


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    study = reopened(tmp_path)
    study.finish(study.start(3), Outcome(0.5))
    before, journal = study.history(), tmp_path / "journal.log"
    size = journal.stat().st_size
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, allowed[1]))  # room for a part of a record
    try:
        with pytest.raises(
            StudyError, match=r"journal\.log: File too large; nothing that was finished is lost"
        ):
            study.start(4)
        assert journal.stat().st_size == size + 100
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
        signal.signal(signal.SIGXFSZ, handler)
    assert study.start(4) == 1  # the very same process may go on, too
    assert reopened(tmp_path).history() == History((*before.trials, Trial(1, 4)))


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
    study = reopened(tmp_path)
    study.finish(study.start(7), Outcome(0.5))
    other = SearchSpace(SPACE.knobs, ("rank > 4",))
    with pytest.raises(StudyError, match="this run searched another space") as error:
        open_study(tmp_path, other)
    assert SPACE.fingerprint in str(error.value)
    assert other.fingerprint in str(error.value)
    assert [trial.index for trial in reopened(tmp_path).history().succeeded] == [7]


def test_trials_of_another_program_are_refused(tmp_path: Path) -> None:
    study = reopened(tmp_path)
    study.optuna.add_trial(optuna.create_trial(value=1.0))
    with pytest.raises(StudyError, match="trial 0 of this run is damaged or was written by another prog"):
        study.history()


# -- many processes ---------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(databases, "BEAT_SECONDS", 0.1)
    return f"sqlite:///{tmp_path}/trials.db"


def a_day_passes(folder: Path) -> None:
    """All signs of life are a day older, to the database."""
    with closing(sqlite3.connect(folder / "trials.db")) as connection, connection:
        connection.execute("update trial_heartbeats set heartbeat = datetime(heartbeat, '-1 day')")


def signs_of_life(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "trials.db")) as connection:
        return [when for (when,) in connection.execute("select heartbeat from trial_heartbeats")]


def test_of_processes_that_take_one_config_the_first_keeps_it(tmp_path: Path, database: str) -> None:
    with open_study(tmp_path, SPACE, database) as one, open_study(tmp_path, SPACE, database) as two:
        assert one.shared
        assert one.claim(3) == 0
        assert two.claim(3) is None
        assert len(one.history().trials) == 1  # and it left no trace
        assert two.claim(4) == 1
        # At the very same time: both have looked, and both start.
        assert (one.start(5), two.start(5)) == (2, 3)
        assert taken(two.history().trials[:3], 5, None)
        assert not taken(one.history().trials[:2], 5, None)


def test_a_budget_holds_for_all_processes_together(tmp_path: Path, database: str) -> None:
    with open_study(tmp_path, SPACE, database) as one, open_study(tmp_path, SPACE, database) as two:
        assert one.claim(3, budget=2) == 0
        assert two.claim(4, budget=2) == 1
        assert one.claim(5, budget=2) is None
        two.finish(1, Outcome(None, failure=Failure(FailureKind.INTERRUPTED, "stopped by the user")))
        assert one.take_over() == [4]
        assert one.claim(4, budget=2) == 2


RACE = """
import sys
from pathlib import Path
from loracle.records.space import paper_space
from loracle.run.storage.opening import open_study
from loracle.records.trial import Outcome
with open_study(Path(sys.argv[1]), paper_space(), sys.argv[2]) as study:
    print("ready", flush=True)
    sys.stdin.readline()
    for index in range(6):
        number = study.claim(index)
        if number is not None:
            study.finish(number, Outcome(float(index)))
"""


def test_racing_processes_train_each_config_once(tmp_path: Path, database: str) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path), database]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for racer in racers:  # they also made the tables at the same time
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.communicate("go\n", timeout=PATIENCE)
        assert racer.returncode == 0
    trials = read_history(tmp_path, paper_space(), database).trials
    assert sorted(trial.index for trial in trials if not trial.interrupted) == list(range(6))
    assert all(trial.outcome is not None for trial in trials)
    with open_study(tmp_path, paper_space(), database) as study:
        assert study.take_over() == []  # who came too late does not count


def test_a_silent_process_is_taken_over_and_its_result_refused(tmp_path: Path, database: str) -> None:
    with open_study(tmp_path, SPACE, database) as one, open_study(tmp_path, SPACE, database) as two:
        number = one.claim(3)
        assert number == 0
        a_day_passes(tmp_path)
        old = signs_of_life(tmp_path)
        end = time.monotonic() + PATIENCE
        while signs_of_life(tmp_path) == old and time.monotonic() < end:
            time.sleep(0.05)
        assert two.take_over() == []  # it shows life
        one.close()
        a_day_passes(tmp_path)
        assert two.take_over() == [3]
        assert not one.finish(number, Outcome(0.5, {"loss": 0.1}))
        assert two.claim(3) == 1
        two.finish(1, Outcome(0.5))
        left = Failure(FailureKind.INTERRUPTED, "the process ended during the trial")
        expected = History((Trial(0, 3, Outcome(None, failure=left)), Trial(1, 3, Outcome(0.5))))
        assert one.history() == two.history() == expected
        assert two.take_over() == []


def test_a_process_that_died_before_its_first_sign_is_taken_over(tmp_path: Path, database: str) -> None:
    with open_study(tmp_path, SPACE, database) as one, open_study(tmp_path, SPACE, database) as two:
        one.beat = lambda: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            one.start(3)
        assert two.take_over() == []
        two.first_seen[0] -= databases.GRACE_SECONDS + 1  # it has been seen like this for so long
        assert two.take_over() == [3]


def test_an_outage_takes_over_nobody(tmp_path: Path, database: str) -> None:
    with open_study(tmp_path, SPACE, database) as one, open_study(tmp_path, SPACE, database) as two:
        one.claim(3)
        one.close()
        a_day_passes(tmp_path)
        two.storage.last_outage = time.monotonic()  # the others could not show life either
        assert two.take_over() == []
        two.storage.last_outage -= databases.GRACE_SECONDS + 1
        assert two.take_over() == [3]


def test_another_run_of_the_same_name_is_refused(tmp_path: Path, database: str) -> None:
    with open_study(
        tmp_path / "run",
        SPACE,
        database,
        identity=Identity({}, {"training.variant": "lora", "training.epochs": 1.0}),
    ):
        pass
    with open_study(
        tmp_path / "run",
        SPACE,
        database,
        identity=Identity({}, {"training.epochs": 1.0, "training.variant": "lora"}),
    ):
        pass
    with pytest.raises(
        StudyError, match=r"run 'loracle:run' was begun with training.variant='lora', here it is 'dora'"
    ):
        open_study(
            tmp_path / "run",
            SPACE,
            database,
            identity=Identity({}, {"training.variant": "dora", "training.epochs": 1.0}),
        )
    with pytest.raises(StudyError, match="searched another space"):
        open_study(tmp_path / "run", SearchSpace(SPACE.knobs, ("rank > 4",)), database)
    with open_study(
        tmp_path / "other", SPACE, database, identity=Identity({}, {"training.variant": "dora"})
    ) as other:
        assert other.history() == History()


# psycopg2 is among the requirements of the tests; the other may be installed as well.
_NO_PSYCOPG = (
    "cannot be used: conn"
    if find_spec("psycopg")
    else r"storage: postgresql\+psycopg:// names the driver psycopg, which is not installed: "
    "pip install psycopg; or write postgresql:// for psycopg2, which is there$"
)


def test_an_outage_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also where several questions meet it, as after each of many connections was cut."""
    opened = open_storage(tmp_path, f"sqlite:///{tmp_path}/runs.db")
    for _ in range(3):
        answers = [OperationalError("", None, Exception("server closed the connection")), None]

        def ask(answers: list[Exception | None] = answers) -> str:
            if error := answers.pop(0):
                raise error
            return "here"

        assert opened.ask(ask) == "here"
    (said,) = [one.getMessage() for one in caplog.records if "trying again" in one.getMessage()]
    assert said.endswith("does not answer; trying again: server closed the connection")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://host/name", "is no database; give postgresql://user@host/name or sqlite:///file"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/x", _NO_PSYCOPG),
        ("runs.db", "'runs.db' is no database"),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:///:memory:", "SQLite needs a file"),
        ("sqlite:////no/such/folder/runs.db", "cannot be used: unable to open database file"),
        (
            "postgresql://me:secret@127.0.0.1:1/x",
            r"me:\*\*\*@127.0.0.1:1/x: the storage cannot be used: conn",
        ),
        ("postgresql://me:secret@127.0.0.1:port/x", r"postgresql://\*\*\* cannot be understood; write"),
        ("postgresql://me:se{cr}et@127.0.0.1:1/x", "the storage cannot be used: connection"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_clear_line(url: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=says) as error:
        open_study(tmp_path, SPACE, url)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_reading_makes_no_database(tmp_path: Path, database: str) -> None:
    with pytest.raises(StudyError, match=r"there is no run here \(no trials\.db\)"):
        read_history(tmp_path, SPACE, database)
    assert not (tmp_path / "trials.db").exists()
    with open_study(tmp_path, SPACE, database):
        pass
    assert read_history(tmp_path, SPACE, database) == History()
    with pytest.raises(StudyError, match="there is no run 'loracle:other' here"):
        read_history(tmp_path / "other", SPACE, database)


def test_nothing_in_a_database_is_a_pickle(tmp_path: Path, database: str) -> None:
    with open_study(tmp_path, SPACE, database) as study:
        study.finish(study.start(3), Outcome(0.5, {"loss": 0.25}, 1.5))
        study.finish(study.start(4), failed(FailureKind.CRASHED))
    with closing(sqlite3.connect(tmp_path / "trials.db")) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type='table'")]
        cells = [
            cell for table in tables for row in connection.execute(f"select * from {table}") for cell in row
        ]
    assert len(cells) > 50
    assert not any(isinstance(cell, bytes) for cell in cells)


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
from loracle.run.storage.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
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
