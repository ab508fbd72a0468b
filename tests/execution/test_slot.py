"""A worker's place, driven by events: no process, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loracle.execution.executor import Done, Job
from loracle.execution.retry_policy import ATTEMPTS, FAILED_STARTS, POLICY
from loracle.execution.slot import Again, Attempt, JobQueue, Limits, Slot, State
from loracle.records.trial import Failure, FailureKind, Outcome
from loracle.records.trial_files import read_outcome

JOB = Job(3, {"rank": 8}, 0, Path("0003"))
SUCCESS = Outcome(0.5, {}, 4.0)
LOST = Failure(FailureKind.LOST, "gone")
LIMITS = Limits(trial=100.0, silence=10.0, growth=1000.0)
EVENTS = ("start", "load", "ready", "give", "done", "end")


def failed(kind: FailureKind) -> Outcome:
    return Outcome(None, {}, 4.0, Failure(kind, "no"))


def idle(**options: bool) -> Slot:
    slot = Slot(0, LIMITS, **options)
    slot.start(0.0)
    slot.load(0.0)
    slot.ready(0.0)
    return slot


def busy(attempt: int = 1, job: Job = JOB, **options: bool) -> Slot:
    slot = idle(**options)
    slot.give([Attempt(job, attempt)], 0.0)
    return slot


# -- the states -------------------------------------------------------------------------------------


def test_a_worker_loads_and_does_job_after_job() -> None:
    slot = Slot(0, LIMITS)
    seen = [slot.state]
    slot.start(0.0)
    seen.append(slot.state)
    slot.load(1.0)
    seen.append(slot.state)
    slot.ready(2.0)
    for _ in range(2):
        seen.append(slot.state)
        slot.give([Attempt(JOB)], 3.0)
        seen.append(slot.state)
        assert slot.done([SUCCESS], 4.0) == [Done(JOB, SUCCESS)]
        assert not slot.attempts
        assert not slot.spent
    assert seen == ["empty", "starting", "loading", "idle", "busy", "idle", "busy"]


@pytest.mark.parametrize(
    ("state", "due"),
    [
        (State.EMPTY, {"start", "end"}),
        (State.STARTING, {"load", "ready", "end"}),
        (State.LOADING, {"ready", "end"}),
        (State.IDLE, {"load", "give", "end"}),
        (State.BUSY, {"done", "end"}),
    ],
)
def test_what_is_not_due_is_told_and_refused(state: State, due: set[str]) -> None:
    def make() -> Slot:
        slot = busy() if state is State.BUSY else Slot(0, LIMITS)
        slot.state = state
        return slot

    events = {
        "start": lambda slot: slot.start(1.0),
        "load": lambda slot: slot.load(1.0),
        "ready": lambda slot: slot.ready(1.0),
        "give": lambda slot: slot.give([Attempt(JOB)], 1.0),
        "done": lambda slot: slot.done([SUCCESS], 1.0),
        "end": lambda slot: slot.end(1.0),
    }
    assert {event for event in EVENTS if make().due(event)} == due
    for event, happens in events.items():
        if event in due:
            happens(make())
        else:
            with pytest.raises(AssertionError):
                happens(make())


@given(st.lists(st.sampled_from([*EVENTS, "lost"]), max_size=40))
def test_a_job_is_never_lost_and_never_doubled(events: list[str]) -> None:
    """Whatever happens in whatever order: each job that is given ends once, or is to be tried again once."""
    slot, given_out, settled, now = Slot(0, Limits(None, 10.0)), 0, 0, 0.0
    for event in events:
        now += 1.0
        verdicts: Sequence[Done | Again] = ()
        if event == "lost":
            verdicts = slot.lost(LOST, now)
        elif not slot.due(event):
            continue
        elif event == "give":
            slot.give([Attempt(JOB)], now)
            given_out += 1
        elif event == "done":
            verdicts = slot.done([SUCCESS], now)
        elif event == "end":
            settled += len(slot.attempts)  # on purpose
            slot.end(now)
        else:
            getattr(slot, event)(now)
        settled += len(verdicts)
        assert len(slot.attempts) == (slot.state is State.BUSY)
        assert given_out - settled == (slot.state is State.BUSY)


# -- failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(FailureKind))
def test_a_failure_that_a_worker_tells_of_is_treated_as_the_policy_says(kind: FailureKind) -> None:
    slot = busy()
    (verdict,) = slot.done([failed(kind)], 5.0)
    again = POLICY[kind] == "again"
    assert slot.spent == again  # its state may be damaged
    assert verdict == (Again(Attempt(JOB, 2), failed(kind)) if again else Done(JOB, failed(kind)))
    last = busy(ATTEMPTS)
    (verdict,) = last.done([failed(kind)], 5.0)
    assert isinstance(verdict, Done)
    assert verdict.outcome.failure == failed(kind).failure
    assert verdict.outcome.metrics == {"attempts": ATTEMPTS}


@pytest.mark.parametrize("kind", list(FailureKind))
def test_what_was_tried_again_where_the_worker_is_is_not_tried_here(kind: FailureKind) -> None:
    slot = busy(retries=False)
    assert slot.done([failed(kind)], 5.0) == [Done(JOB, failed(kind))]
    assert not slot.spent


def test_a_lost_worker_costs_an_attempt_and_its_seconds() -> None:
    slot = busy()
    (verdict,) = slot.lost(LOST, 7.0)
    assert verdict == Again(Attempt(JOB, 2), Outcome(None, {}, 7.0, LOST))
    assert (slot.state, slot.attempts) == (State.EMPTY, ())
    (verdict,) = busy(ATTEMPTS).lost(LOST, 7.0)
    assert verdict == Done(JOB, Outcome(None, {"attempts": ATTEMPTS}, 7.0, LOST))
    assert idle().lost(LOST, 7.0) == []  # between two jobs


def test_attempts_of_the_trainer_and_of_the_worker_add_up() -> None:
    (verdict,) = busy(2).done([Outcome(0.5, {"attempts": 3.0}, 1.0)], 5.0)
    assert isinstance(verdict, Done)
    assert verdict.outcome.metrics["attempts"] == 4
    (first,) = busy().done([Outcome(0.5, {"attempts": 3.0}, 1.0)], 5.0)
    assert first == Done(JOB, Outcome(0.5, {"attempts": 3.0}, 1.0))


@pytest.mark.parametrize("loading", [False, True])
def test_workers_that_do_not_start_are_given_up_in_the_end(loading: bool) -> None:
    slot = Slot(0, LIMITS)
    for number in range(1, FAILED_STARTS + 1):
        slot.start(0.0)
        if loading:
            slot.load(0.0)
        assert slot.lost(LOST, 1.0) == []
        assert slot.hopeless == (number == FAILED_STARTS)


def test_a_start_that_succeeds_forgets_those_that_failed() -> None:
    slot = Slot(0, LIMITS)
    for _ in range(3):
        for _ in range(FAILED_STARTS - 1):
            slot.start(0.0)
            slot.lost(LOST, 1.0)
        slot.start(0.0)
        slot.ready(0.0)
        slot.lost(LOST, 1.0)
        assert not slot.hopeless


# -- limits -----------------------------------------------------------------------------------------


def test_a_trial_has_a_limit_however_much_life_it_shows() -> None:
    slot = busy()
    slot.sign(100.0)
    assert slot.late(100.0) is None
    failure = slot.late(100.1)
    assert failure == Failure(FailureKind.TIMEOUT, "took longer than execution.time_limit, 100 s")
    assert isinstance(slot.lost(failure, 100.1)[0], Done)  # it would take as long again


def test_a_final_training_has_no_limit() -> None:
    slot = busy(job=Job(-1, {}, 0, Path("winner"), final=True))
    slot.sign(1e6)
    assert slot.late(1e6 + 10) is None


def test_silence_is_a_loss_in_every_state_in_which_something_should_happen() -> None:
    starting, loading = Slot(0, LIMITS), Slot(0, LIMITS)
    starting.start(0.0)
    loading.start(0.0)
    loading.load(0.0)
    for slot in (starting, loading, busy()):
        assert slot.late(10.0) is None
        failure = slot.late(10.1)
        assert failure == Failure(FailureKind.LOST, "no sign of life for 10 s (execution.stall_limit)")
        slot.sign(10.1)
        assert slot.late(20.0) is None
    for slot in (Slot(0, LIMITS), idle()):
        assert slot.late(1e6) is None


def test_a_place_on_a_cluster_waits_for_room_and_its_answers_travel() -> None:
    slot = Slot(0, Limits(None, 10.0, grace=5.0, start=False))
    slot.start(0.0)
    assert slot.late(1e6) is None
    slot.load(0.0)
    assert slot.late(15.0) is None
    failure = slot.late(15.1)
    assert failure is not None
    assert failure.message == "no sign of life for 15 s (execution.stall_limit and 5 s)"


def test_a_worker_that_grows_is_spent() -> None:
    slot = idle()
    for used, spent in ((5000, False), (6000, False), (3000, False), (6001, True)):
        slot.give([Attempt(JOB)], 0.0)
        slot.done([SUCCESS], 1.0, used)
        assert slot.spent == spent
    slot.end(2.0)
    assert not slot.spent
    slot.start(3.0)
    slot.ready(3.0)
    slot.give([Attempt(JOB)], 4.0)
    slot.done([SUCCESS], 5.0, 9000)  # the first of the next worker
    assert not slot.spent


# -- several that train together --------------------------------------------------------------------

CONFIGS = ({"rank": 8}, {"rank": 16}, {"rank": 4})
GROUP = [Job(i, config, 0, Path(f"{i:04d}"), together=CONFIGS) for i, config in enumerate(CONFIGS)]
ALONE = [replace(job, together=()) for job in GROUP]


def busy_with_a_group() -> Slot:
    slot = idle()
    slot.give([Attempt(job) for job in GROUP], 0.0)
    return slot


def test_a_group_that_is_lost_is_tried_once_more_each_alone() -> None:
    slot = busy_with_a_group()
    each = Outcome(None, {}, 3.0, LOST)  # a third of the time
    assert slot.lost(LOST, 9.0) == [Again(Attempt(job, 2), each) for job in ALONE]
    slot = busy_with_a_group()
    slot.sign(300.1)
    assert slot.late(300.0) is None  # three times as long as one may take
    failure = slot.late(300.1)
    assert failure is not None
    assert failure.message == (
        "took longer than execution.time_limit, 100 s for each of the 3 that train together"
    )
    assert all(isinstance(verdict, Again) for verdict in slot.lost(failure, 300.1))


def test_in_a_group_each_has_its_own_outcome() -> None:
    slot, diverged, crashed = busy_with_a_group(), failed(FailureKind.DIVERGED), failed(FailureKind.CRASHED)
    verdicts = slot.done([SUCCESS, diverged, crashed], 5.0)
    assert verdicts == [
        Done(GROUP[0], SUCCESS),
        Done(GROUP[1], diverged),
        Again(Attempt(ALONE[2], 2), crashed),
    ]
    assert slot.spent


def test_what_is_tried_again_comes_first_and_in_order(tmp_path: Path) -> None:
    queue = JobQueue()
    queue.submit(JOB)
    again = [Attempt(replace(job, folder=tmp_path / job.folder), 2) for job in ALONE]
    queue.settle([Again(attempt, failed(FailureKind.LOST)) for attempt in again])
    assert list(queue.waiting) == [*((attempt,) for attempt in again), (Attempt(JOB),)]
    assert all((attempt.job.folder / "attempt-1.json").exists() for attempt in again)


# -- the queue --------------------------------------------------------------------------------------


def test_an_attempt_that_failed_is_kept_and_comes_before_new_jobs(tmp_path: Path) -> None:
    queue, folder = JobQueue(), tmp_path / "0003"
    first = Job(3, {"rank": 8}, 0, folder)
    queue.submit(first)
    queue.submit(JOB)
    assert queue.waiting.popleft() == (Attempt(first),)
    queue.settle([Again(Attempt(first, 2), failed(FailureKind.CRASHED))])
    assert list(queue.waiting) == [(Attempt(first, 2),), (Attempt(JOB),)]
    (folder / "attempt-1.json").rename(folder / "outcome.json")
    assert read_outcome(folder, {"rank": 8}) == failed(FailureKind.CRASHED)
    queue.settle([])
    assert not queue.any_ended
    queue.settle([Done(first, SUCCESS)])
    assert queue.any_ended
    assert queue.take() == [Done(first, SUCCESS)]
    assert queue.take() == []
