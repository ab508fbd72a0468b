from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loracle.config.loading import load_config
from loracle.config.settings import TrainingConfig
from loracle.errors import ConfigError
from loracle.records.space import SearchSpace, default_space
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.run.search import Search
from loracle.run.tune import tune
from loracle.search.presets import PRESETS
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.memory.counting import build_memory_model
from loracle.training.memory.equations import Sizes, scoring_growth
from loracle.training.memory.plan import (
    MemoryModel,
    Observation,
    allowed,
    describe,
    halvings,
    learnt,
    observed,
)
from loracle.training.model.base_model import Base

SPACE = default_space()
CONFIG = {"rank": 16, "alpha": 32, "dropout": 0.05, "batch_size": 16, "learning_rate": 2e-4}
HUGE = CONFIG | {"rank": 4096}


@pytest.fixture(scope="module")
def encoded(base: Base) -> Encoded:
    rows = [Example(f"t:{i}", prompt="x" * i, completion="y" * (1 + i % 5)) for i in range(1, 40)]
    return encode(rows, base.tokenizer, 64, stop_ids=base.stop_ids)


@pytest.fixture(scope="module")
def model(base: Base, encoded: Encoded) -> MemoryModel:
    return build_memory_model(base, TrainingConfig(micro_batch=8), encoded)


def with_room(model: MemoryModel, config: dict[str, float], micro_batch: int) -> MemoryModel:
    """Room for exactly this micro-batch of this config."""
    return replace(model, room=model.predict(config, micro_batch))


# -- planning -----------------------------------------------------------------------------------------


def test_where_memory_suffices_nothing_changes(model: MemoryModel) -> None:
    assert model.micro_batch(CONFIG) == 8
    assert model.micro_batch(CONFIG | {"batch_size": 6}) == 6
    assert model.fits(SPACE).all()
    assert replace(model, room=None).micro_batch(HUGE) == 8
    assert replace(model, largest=None).micro_batch(CONFIG) == 16  # no faster with fewer


@pytest.mark.parametrize("fitting", [1, 2, 4, 8])
def test_the_largest_micro_batch_that_fits_is_chosen(model: MemoryModel, fitting: int) -> None:
    tight = with_room(model, CONFIG, fitting)
    assert tight.micro_batch(CONFIG) == fitting
    assert tight.peak(CONFIG) <= tight.limit  # type: ignore[operator]
    assert tight.micro_batch(HUGE) == 1  # tried all the same


def test_a_given_micro_batch_is_the_most_and_changes_nothing_else(base: Base, encoded: Encoded) -> None:
    found = []
    for micro_batch in ("auto", 1, 12):
        given = build_memory_model(base, TrainingConfig(micro_batch=micro_batch), encoded)
        assert micro_batch == "auto" or given.micro_batch(CONFIG) == micro_batch
        tight = with_room(given, CONFIG, 1)
        assert tight.micro_batch(CONFIG) == 1
        found.append(tight.fits(SPACE))
    assert not found[0].all()
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_candidates_fit_as_each_does_alone(model: MemoryModel) -> None:
    tight = with_room(model, CONFIG, 1)
    fits = tight.fits(SPACE)
    assert 0 < fits.sum() < len(fits)
    for row in range(0, len(fits), 499):
        config = SPACE.config(int(SPACE.candidates[row]))
        assert fits[row] == (tight.predict(config, 1) <= tight.room)  # type: ignore[operator]


def test_scoring_batches_shrink_too(model: MemoryModel, encoded: Encoded) -> None:
    assert model.scoring_batch(encoded, CONFIG, 100, written=0) == 100
    tight = replace(model, room=with_room(model, CONFIG, 1).room)
    assert tight.scoring_batch(encoded, CONFIG, 100, written=64) in halvings(100)[1:]
    assert replace(model, room=0.0).scoring_batch(encoded, CONFIG, 100, written=64) == 1
    narrow = replace(model, room=scoring_growth(model.footprint, Sizes.of(encoded), 16, 64, 0))
    assert narrow.scoring_batch(encoded, CONFIG, 64, written=0) == 64
    assert narrow.scoring_batch(encoded, CONFIG, 64, written=0, continued=True) < 64


def test_workers_share_a_cpu(base: Base, encoded: Encoded, model: MemoryModel) -> None:
    shared = build_memory_model(base, TrainingConfig(), encoded, workers=4)
    assert shared.room < model.room / 3  # type: ignore[operator]


@given(st.integers(1, 500))
def test_halvings_are_powers_of_two_below(largest: int) -> None:
    found = halvings(largest)
    assert found[0] == largest
    assert found[-1] == 1
    assert all(size & (size - 1) == 0 for size in found[1:])
    assert found == sorted(set(found), reverse=True)


# -- correction ---------------------------------------------------------------------------------------


def grown(model: MemoryModel, config: dict[str, float], ratio: float, m: int = 8) -> Observation:
    return Observation(model.predict(config, m), ratio * model.predict(config, m))


def growth(model: MemoryModel, config: dict[str, float], m: int = 8) -> float:
    return float(model.growth(config["rank"], m, config["dropout"]))


def test_predictions_follow_what_was_observed(model: MemoryModel) -> None:
    seen = [grown(model, CONFIG | {"rank": rank}, 1.5) for rank in (2, 8, 32)]
    learnt = model.learn(seen)
    assert growth(learnt, CONFIG) == pytest.approx(1.5 * growth(model, CONFIG))
    assert growth(model.learn(seen[::-1]), CONFIG) == growth(learnt, CONFIG)


def test_one_outlier_changes_little_but_is_never_undercut(model: MemoryModel) -> None:
    seen = [grown(model, CONFIG | {"rank": rank}, 1.1) for rank in (2, 8, 32, 64)]
    seen.append(grown(model, CONFIG | {"rank": 128}, 3.0))
    learnt = model.learn(seen)
    assert growth(learnt, CONFIG) == pytest.approx(1.1 * growth(model, CONFIG))
    assert growth(learnt, CONFIG | {"rank": 128}) == pytest.approx(3 * growth(model, CONFIG | {"rank": 128}))


@given(st.lists(st.tuples(st.sampled_from([1, 4, 16, 64]), st.floats(0.3, 3)), min_size=1, max_size=8))
def test_no_prediction_is_below_what_was_observed(model: MemoryModel, seen: list[tuple[int, float]]) -> None:
    learnt = model.learn([grown(model, CONFIG | {"rank": rank}, ratio) for rank, ratio in seen])
    for rank, ratio in seen:
        config = CONFIG | {"rank": rank}
        assert growth(learnt, config) >= 0.999999 * ratio * growth(model, config)


def test_what_ran_out_of_memory_does_not_fit_and_nor_does_more(model: MemoryModel) -> None:
    roomy = with_room(model, HUGE, 8)
    assert roomy.micro_batch(CONFIG) == 8
    learnt = roomy.learn([Observation(roomy.predict(CONFIG, 8), None)])
    assert learnt.micro_batch(CONFIG) < 8
    assert learnt.micro_batch(CONFIG | {"rank": 64}) < 8


def test_observations_come_from_the_metrics_of_outcomes() -> None:
    took = {"memory_growth_bytes": 3.0, "predicted_growth_bytes": 2.0}
    failure = Failure(FailureKind.OUT_OF_MEMORY, "no memory")
    outcomes = [
        Outcome(0.5, took),
        Outcome(0.5, took | {"exceeded_growth_bytes": 4.0}),
        Outcome(None, {"exceeded_growth_bytes": 2.0}, failure=failure),
        Outcome(0.1, {"loss": 1.0}),
    ]
    found = [(one.predicted, one.observed) for one in observed(outcomes)]
    assert found == [(2, 3), (2, 3), (4, None), (2, None)]


# -- for the search, and for people -------------------------------------------------------------------


def history_of(space: SearchSpace, config: dict[str, float], metrics: dict[str, float]) -> History:
    return History((Trial(0, space.nearest(config), Outcome(0.5, metrics)),))


def test_the_search_is_told_what_cannot_fit(model: MemoryModel) -> None:
    roomy = with_room(model, CONFIG | {"rank": 512}, 1)
    assert allowed(roomy, SPACE).all()
    bad = CONFIG | {"rank": 64}
    failed = Outcome(
        None,
        {"exceeded_growth_bytes": roomy.predict(bad, 1)},
        failure=Failure(FailureKind.OUT_OF_MEMORY, "no memory"),
    )
    fits = allowed(roomy, SPACE, History((Trial(0, SPACE.nearest(bad), failed),)))
    assert not fits[SPACE.values(SPACE.candidates)["rank"] > 64].any()
    assert fits[SPACE.values(SPACE.candidates)["rank"] < 8].all()


def test_what_successful_trials_took_changes_no_proposal(model: MemoryModel) -> None:
    """It depends on micro-batch and machine: a run that goes on elsewhere would choose otherwise."""
    tight = with_room(model, CONFIG, 1)
    took = {
        "memory_growth_bytes": 3 * tight.predict(CONFIG, 8),
        "predicted_growth_bytes": tight.predict(CONFIG, 8),
    }
    again = took | {"attempts": 2.0, "exceeded_growth_bytes": tight.predict(CONFIG, 8)}
    for metrics in (took, again):
        history = history_of(SPACE, CONFIG, metrics)
        assert np.array_equal(allowed(tight, SPACE, history), allowed(tight, SPACE))
        assert learnt(tight, history).micro_batch(CONFIG) == 1
        lines = describe(tight, SPACE, None, history)
        assert any(line.startswith(f"{(~tight.fits(SPACE)).sum():,} of") for line in lines)


def test_nothing_that_fits_is_an_error_before_the_first_trial(model: MemoryModel) -> None:
    nothing = replace(model, room=0.0)
    with pytest.raises(ConfigError, match=r"no candidate fits into memory: .* rank 4 .*max_length"):
        allowed(nothing, SPACE)
    assert not allowed(nothing, SPACE, history_of(SPACE, CONFIG, {})).any()


def test_the_description_is_short_and_complete(model: MemoryModel) -> None:
    (line,) = describe(model, SPACE, CONFIG)
    assert "(smallest config)" in line
    assert "(standard)" in line
    assert "to use; micro-batches of 8" in line
    took = {
        "memory_growth_bytes": 2 * model.predict(CONFIG, 8),
        "predicted_growth_bytes": model.predict(CONFIG, 8),
    }
    tight = with_room(model, CONFIG, 4)
    _, left_out, seen = describe(tight, SPACE, None, history_of(SPACE, CONFIG, took))
    number = int((~allowed(tight, SPACE, history_of(SPACE, CONFIG, took))).sum())
    assert left_out.startswith(f"{number:,} of {len(SPACE.candidates):,} candidates are left out: rank ")
    assert "trainings grew 2.00 times as much" in seen
    unknown = replace(model, room=None)
    assert "to use" not in describe(unknown, SPACE, CONFIG)[0]


def test_a_search_proposes_nothing_that_cannot_fit(model: MemoryModel) -> None:
    tight = with_room(model, CONFIG, 1)
    search = Search(SPACE, PRESETS["default"], None, 0, tight)
    seen: tuple[Trial, ...] = ()
    for number in range(4):
        index = search.next(History(seen))
        assert index is not None
        assert tight.fits(SPACE)[np.searchsorted(SPACE.candidates, index)]
        seen = (*seen, Trial(number, index, Outcome(float(number))))


def test_a_run_reports_its_memory(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config(search={"trials": 3}))
    result = tune(config)
    lines = (result.folder / "report.md").read_text().splitlines()
    assert any(line.startswith("- Predicted peaks ") and "micro-batches of" in line for line in lines)
    for trial in result.history.trials:
        assert trial.outcome is not None
        assert trial.outcome.metrics["micro_batch"] in (4, 8)
    if "peak_memory_bytes" in trial.outcome.metrics:
        assert any(line.startswith("- Observed peaks up to ") for line in lines)
        assert trial.outcome.metrics["memory_growth_bytes"] < trial.outcome.metrics["peak_memory_bytes"]
