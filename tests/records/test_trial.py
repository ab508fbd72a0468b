"""The records that the two halves exchange."""

from __future__ import annotations

import dataclasses

import pytest

from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial

LOST = Failure(FailureKind.LOST, "the machine went away")


def test_an_outcome_is_a_value_or_a_failure() -> None:
    assert Outcome(0.5).failure is None
    assert Outcome(None, failure=LOST).value is None
    for value, failure in ((None, None), (0.5, LOST)):
        with pytest.raises(ValueError, match="either a value or a failure"):
            Outcome(value, failure=failure)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_is_finite(value: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Outcome(value)


def test_history_sorts_trials_by_state_and_keeps_their_order() -> None:
    trials = (
        Trial(0, 7, Outcome(0.1)),
        Trial(1, 3),
        Trial(2, 5, Outcome(None, failure=LOST)),
        Trial(3, 4, Outcome(0.0)),
    )
    history = History(trials)
    assert history.pending == (trials[1],)
    assert history.finished == (trials[0], trials[2], trials[3])
    assert history.succeeded == (trials[0], trials[3])


def test_records_cannot_be_changed() -> None:
    for record in (Trial(0, 0), Outcome(1.0), LOST, History()):
        name = dataclasses.fields(record)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, None)
