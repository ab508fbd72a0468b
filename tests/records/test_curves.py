"""Learning curves: bounded whatever the length of a training, kept in outcomes, read where there are none."""

from __future__ import annotations

import io
import json
import math

from loracle.records.codec import from_plain, to_plain
from loracle.records.curves.recorder import CurveRecorder, Point
from loracle.records.trial import Outcome


def test_a_training_of_a_hundred_thousand_steps_keeps_a_few_kilobytes() -> None:
    recorder = CurveRecorder()
    for step in range(1, 100_001):
        recorder.add(Point(step, 5 / step, 1e-4, 1.0, 512 * step))
    recorder.validated(100_000, 0.5)
    curve = recorder.curve()
    assert curve is not None
    assert curve.steps[-1] == 100_000
    assert curve.tokens[-1] == 51_200_000
    assert curve.losses[0] > curve.losses[-1]
    outcome = Outcome(0.5, curve=curve)
    plain = to_plain(outcome)
    assert len(json.dumps(plain)) < 5_000
    assert from_plain(Outcome, plain) == outcome
    table = io.StringIO()
    recorder.write(table)
    assert len(table.getvalue()) < 100_000
    assert table.getvalue().endswith("# validation loss after step 100000: 0.5\n")


def test_what_an_earlier_version_wrote_has_no_curve() -> None:
    plain = to_plain(Outcome(0.5))
    del plain["curve"]
    assert from_plain(Outcome, plain) == Outcome(0.5)
    recorder = CurveRecorder()
    recorder.add(Point(1, 2.0))
    kept = Outcome(0.5, curve=recorder.curve())
    plain = to_plain(kept)
    del plain["curve"]["left_out"]
    assert from_plain(Outcome, plain) == kept


def test_a_curve_ends_where_the_loss_is_no_number_and_steps_only_increase() -> None:
    recorder = CurveRecorder()
    for step, loss in ((1, 3.0), (2, 2.0), (2, 9.0), (3, math.nan), (4, 1.0)):
        recorder.add(Point(step, loss))
    curve = recorder.curve()
    assert curve is not None
    assert (curve.steps, curve.losses) == ((1, 2), (3.0, 2.0))
    assert (curve.tokens, curve.learning_rates, curve.validation_steps) == ((), (), ())
    assert curve.left_out == 1
    assert CurveRecorder().curve() is None
