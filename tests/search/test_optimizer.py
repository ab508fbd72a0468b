"""Proposals: pure, never wasted, better than random, and quick on the published space."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from loracle.errors import ConfigError, LoracleError, SpaceError
from loracle.language.features import FixedFeatures
from loracle.records.space import Config, Knob, SearchSpace, default_space, paper_space
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.search.observations import suspects
from loracle.search.optimizer import Optimizer
from loracle.search.presets import GOOD_PRACTICE, PRESETS, Preset, get_preset, with_parameters
from loracle.search.propose import Beliefs, propose, ranking, recommend

SPACE = SearchSpace(
    (
        Knob("rank", (8, 16, 32), "log2"),
        Knob("alpha_ratio", (1, 2, 4), "log2"),
        Knob("batch_size", (8, 16, 32), "log2"),
        Knob("learning_rate", (1e-5, 1e-4, 1e-3), "log10"),
    ),
    constraints=("alpha * learning_rate < 0.1", "batch_size > 8"),
)
CANDIDATES = [int(index) for index in SPACE.candidates]
FEATURES = FixedFeatures(torch.randn(len(CANDIDATES), 6, generator=torch.Generator().manual_seed(0)))
NUMERIC, PAPER = PRESETS["numeric"], PRESETS["paper"]
UNSEEDED = replace(NUMERIC, seed_configs=())
CASES = [("paper", FEATURES), ("language", FEATURES), ("default", None), ("numeric", None)]


def failed(kind: FailureKind) -> Outcome:
    return Outcome(None, failure=Failure(kind, "it failed"))


def history(*outcomes: tuple[int, Outcome | float | None]) -> History:
    trials = []
    for number, (index, outcome) in enumerate(outcomes):
        trials.append(Trial(number, index, Outcome(outcome) if isinstance(outcome, float) else outcome))
    return History(tuple(trials))


def smooth(config: Config) -> float:
    return -abs(math.log10(config["learning_rate"]) + 4) - 0.1 * abs(math.log2(config["rank"]) - 4)


SOME = history(*((index, smooth(SPACE.config(index))) for index in CANDIDATES[::7]))


# -- crashes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FailureKind.CRASHED, FailureKind.LOST, FailureKind.TIMEOUT])
@pytest.mark.parametrize("name", ["default", "numeric"])
def test_a_value_that_always_crashes_is_not_asked_for_while_others_are_left(
    name: str, kind: FailureKind
) -> None:
    optimizer = Optimizer(SPACE, PRESETS[name])
    told: list[str] = []

    def tell(index: int) -> None:
        config = optimizer.space.config(index)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.tell(index, failed(kind) if config["rank"] == 16 else smooth(config))
        told.extend(str(one.message) for one in caught)

    of_rank_16 = [index for index in CANDIDATES if SPACE.config(index)["rank"] == 16]
    for _ in range(len(CANDIDATES) - len(of_rank_16) + 3):
        (index,) = optimizer.ask()
        tell(index)
    crashed = [trial for trial in optimizer.history.trials if trial.index in of_rank_16]
    assert len(crashed) == 3
    (said,) = told
    assert said.startswith("rank 16: all 3 trials with it failed (3 ")
    assert set(optimizer.ask(2)) < set(of_rank_16)  # nothing else is left


def test_a_divergence_or_one_success_clears_a_value() -> None:
    of_rank = {rank: [i for i in CANDIDATES if SPACE.config(i)["rank"] == rank] for rank in (8, 16)}
    crashed = [(index, failed(FailureKind.CRASHED)) for index in of_rank[16][:4]]
    fine = [(index, smooth(SPACE.config(index))) for index in of_rank[8][:3]]
    assert [suspect.values for suspect in suspects(SPACE, history(*crashed, *fine))] == [{"rank": 16}]
    for outcome in (0.5, failed(FailureKind.DIVERGED)):
        assert not suspects(SPACE, history(*crashed, *fine, (of_rank[16][5], outcome)))


def test_crashes_without_a_cause_blame_no_value() -> None:
    generator = np.random.default_rng(0)
    blamed = 0
    for _ in range(40):  # every third config crashes by chance
        drawn = generator.permutation(default_space().candidates)[:20].tolist()
        outcomes = [(i, failed(FailureKind.CRASHED) if generator.random() < 1 / 3 else 0.5) for i in drawn]
        blamed += bool(suspects(default_space(), history(*outcomes)))
    assert blamed <= 4


def test_the_first_crashes_are_followed_by_configs_that_share_nothing_with_them() -> None:
    (first, second) = [index for index in CANDIDATES if SPACE.config(index)["rank"] == 16][:2]
    crashed = history(*((index, failed(FailureKind.CRASHED)) for index in (first, second)))
    (third,) = propose(SPACE, crashed, PRESETS["default"])
    shared = SPACE.config(first).items() & SPACE.config(second).items()
    assert ("rank", 16) in shared
    assert not shared & SPACE.config(third).items()


# -- purity -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "features"), CASES)
def test_the_same_arguments_give_the_same_answer(name: str, features: FixedFeatures | None) -> None:
    preset, before = PRESETS[name], SOME.trials
    first = propose(SPACE, SOME, preset, features=features, n=4, seed=3)
    np.random.seed(5)
    torch.manual_seed(5)
    propose(SPACE, History(SOME.trials[1:]), preset, features=features)  # the last fit is kept
    assert propose(SPACE, SOME, preset, features=features, n=4, seed=3) == first
    assert SOME.trials == before
    again = SearchSpace(SPACE.knobs, SPACE.constraints)
    assert propose(again, History(tuple(SOME.trials)), preset, features=features, n=4, seed=3) == first


@pytest.mark.parametrize(("name", "features"), CASES)
def test_proposals_are_distinct_untried_candidates(name: str, features: FixedFeatures | None) -> None:
    tried = {trial.index for trial in SOME.trials}
    pending = [index for index in CANDIDATES if index not in tried][:3]
    lost = [index for index in CANDIDATES if index not in tried][3:7]
    known = (*((t.index, t.outcome) for t in SOME.trials), *((index, None) for index in pending))
    kinds = (FailureKind.OUT_OF_MEMORY, FailureKind.DIVERGED, FailureKind.CRASHED, FailureKind.LOST)
    past = history(*known, *((i, failed(kind)) for i, kind in zip(lost, kinds, strict=True)))
    chosen = propose(SPACE, past, PRESETS[name], features=features, n=10)
    assert len(set(chosen)) == 10
    assert set(chosen) <= set(CANDIDATES) - tried - set(pending) - set(lost)
    assert all(isinstance(index, int) for index in chosen)


def test_only_what_fits_into_memory_is_proposed() -> None:
    large = SPACE.index({"rank": 16, "alpha_ratio": 1, "batch_size": 16, "learning_rate": 1e-4})
    configs = {index: SPACE.config(index) for index in CANDIDATES}
    as_large = {i for i, one in configs.items() if one["rank"] >= 16 and one["batch_size"] >= 16}
    known = [(t.index, t.outcome) for t in SOME.trials]
    smaller = [(index, outcome) for index, outcome in known if index not in as_large]
    past = history(*smaller, (large, failed(FailureKind.OUT_OF_MEMORY)))
    free = {*CANDIDATES} - {t.index for t in past.trials}
    small = free - as_large
    assert set(propose(SPACE, past, UNSEEDED, n=len(small))) == small
    allowed = np.array([SPACE.config(i)["learning_rate"] < 1e-4 for i in CANDIDATES])
    rates = {SPACE.config(i)["learning_rate"] for i in propose(SPACE, past, UNSEEDED, n=5, allowed=allowed)}
    assert rates == {1e-5}
    with pytest.raises(SpaceError, match="fit into memory"):
        propose(SPACE, past, UNSEEDED, allowed=np.zeros(len(CANDIDATES), dtype=bool))


def test_pending_trials_drive_the_next_proposal_elsewhere() -> None:
    first = propose(SPACE, SOME, UNSEEDED)[0]
    known = [(t.index, t.outcome) for t in SOME.trials]
    assert (
        propose(SPACE, history(*known, (first, None)), UNSEEDED)[0] == propose(SPACE, SOME, UNSEEDED, n=2)[1]
    )


def test_seeds_choose_the_random_start() -> None:
    starts = {propose(SPACE, History(), UNSEEDED, seed=seed)[0] for seed in range(12)}
    assert len(starts) > 6
    assert starts <= set(CANDIDATES)


# -- what comes first ---------------------------------------------------------------------------------


def test_seed_configs_come_first_and_in_order() -> None:
    space = default_space()
    expected = [space.nearest(config) for config in GOOD_PRACTICE]
    assert propose(space, History(), NUMERIC, n=3) == expected
    assert propose(space, history((expected[0], None)), NUMERIC, n=1) == expected[1:2]
    # Even where one was tried out of turn, and where the run began with something else.
    assert propose(space, history((0, 0.5), (expected[1], 0.1)), NUMERIC, n=2) == [expected[0], expected[2]]


def test_seed_configs_that_fall_on_one_candidate_are_one() -> None:
    seeds = ({"rank": 8, "learning_rate": 1e-4}, {"rank": 9, "learning_rate": 1.1e-4})
    preset = replace(NUMERIC, seed_configs=seeds)
    first, second = propose(SPACE, History(), preset, n=2)
    assert SPACE.config(first)["rank"] == 8
    assert second != first


def test_seed_configs_may_lack_knobs_and_have_more() -> None:
    space = SearchSpace((Knob("rank", (8, 16)), Knob("extra", (1, 2, 3))))
    preset = replace(NUMERIC, seed_configs=({"rank": 16, "learning_rate": 1e-4},))
    assert space.config(propose(space, History(), preset)[0]) == {"rank": 16, "extra": 2}


def test_seed_configs_beyond_a_knobs_range_take_its_end() -> None:
    space = SearchSpace((Knob("rank", (8, 16)), Knob("dropout", (0.01, 0.1), "log10")))
    preset = replace(NUMERIC, seed_configs=({"rank": 999, "dropout": 0.0},))
    assert space.config(propose(space, History(), preset)[0]) == {"rank": 16, "dropout": 0.01}


def test_random_configs_until_something_is_observed() -> None:
    nothing = history((CANDIDATES[0], failed(FailureKind.CRASHED)), (CANDIDATES[1], None))
    chosen = propose(SPACE, nothing, PAPER, features=FEATURES, n=5)
    assert len(set(chosen)) == 5
    assert not {CANDIDATES[0], CANDIDATES[1]} & set(chosen)
    # Later positions draw something else.
    crashed = [(index, failed(FailureKind.CRASHED)) for index in CANDIDATES[:6]]
    drawn = [propose(SPACE, history(*crashed[:n]), PAPER, features=FEATURES)[0] for n in range(6)]
    assert len(set(drawn)) > 3


# -- failures -----------------------------------------------------------------------------------------


def test_interrupted_configs_are_free_again_and_change_nothing() -> None:
    first = propose(SPACE, SOME, UNSEEDED)[0]
    known = [(t.index, t.outcome) for t in SOME.trials]
    killed = history(*known, (first, failed(FailureKind.INTERRUPTED)))
    assert propose(SPACE, killed, UNSEEDED) == [first]
    # The random start too: a killed run goes on as if it had not been.
    undisturbed = history((80, failed(FailureKind.CRASHED)))
    disturbed = history((80, failed(FailureKind.INTERRUPTED)), (80, failed(FailureKind.CRASHED)))
    assert propose(SPACE, disturbed, UNSEEDED) == propose(SPACE, undisturbed, UNSEEDED)


@pytest.mark.parametrize("kind", [FailureKind.CRASHED, FailureKind.TIMEOUT])
def test_failures_that_say_nothing_about_the_score_are_only_left_out(kind: FailureKind) -> None:
    chosen = propose(SPACE, SOME, UNSEEDED, n=2)
    known = [(t.index, t.outcome) for t in SOME.trials]
    assert propose(SPACE, history(*known, (chosen[0], failed(kind))), UNSEEDED)[0] != chosen[0]
    far = next(i for i in CANDIDATES if i not in {t.index for t in SOME.trials} and i not in chosen)
    assert propose(SPACE, history(*known, (far, failed(kind))), UNSEEDED) == chosen[:1]


def test_diverged_configs_are_learnt_from() -> None:
    space = SearchSpace((Knob("learning_rate", tuple(10.0**-e for e in range(12, 0, -1)), "log10"),))
    safe = history((3, 0.5), (4, 0.51), (5, 0.52))
    diverged = history((3, 0.5), (4, 0.51), (5, 0.52), (8, failed(FailureKind.DIVERGED)))
    crashed = history((3, 0.5), (4, 0.51), (5, 0.52), (8, failed(FailureKind.CRASHED)))
    assert propose(space, safe, UNSEEDED) == propose(space, crashed, UNSEEDED)
    rows = np.arange(len(space.candidates))
    beliefs = [Beliefs.of(space, past, UNSEEDED, None, 0).mean(rows) for past in (safe, diverged)]
    assert beliefs[0][8] > beliefs[0][3]  # it looks promising ...
    assert beliefs[1][8] < beliefs[1][3]  # ... until it is known to diverge
    assert propose(space, diverged, UNSEEDED)[0] < 8


@pytest.mark.parametrize(("name", "features"), CASES)
def test_a_run_in_which_everything_diverged_goes_on(name: str, features: FixedFeatures | None) -> None:
    past = history(*((index, failed(FailureKind.DIVERGED)) for index in CANDIDATES[:4]))
    assert (
        propose(SPACE, past, replace(PRESETS[name], seed_configs=()), features=features)[0]
        not in CANDIDATES[:4]
    )


# -- refusals -----------------------------------------------------------------------------------------


def test_while_everything_diverges_the_next_has_a_tenth_of_the_rate() -> None:
    space, preset = default_space(), PRESETS["default"]
    first, diverged = propose(space, History(), preset), failed(FailureKind.DIVERGED)
    usual = space.config(first[0])
    (second,) = propose(space, history((first[0], diverged)), preset)
    assert (usual["learning_rate"], space.config(second)) == (2e-4, {**usual, "learning_rate": 3e-5})
    both = [(first[0], diverged), (second, diverged)]
    (third,) = propose(space, history(*both), preset)
    assert space.config(third)["learning_rate"] == space["learning_rate"].values[0]  # no lower one is left
    assert propose(space, history(*both, (third, diverged)), preset) != [third]
    crashed = propose(space, history((first[0], failed(FailureKind.CRASHED))), preset)
    ended = propose(space, history((first[0], diverged), (second, 0.5)), preset)
    running = propose(space, history((first[0], diverged), (second, None)), preset)
    for chosen in (
        crashed,
        ended,
        running,
    ):  # no divergence, a success, a gentler one at work
        assert space.config(chosen[0]) | {"learning_rate": 0} != usual | {"learning_rate": 0}


def test_an_exhausted_space_is_refused() -> None:
    all_tried = history(*((index, 0.1 * i) for i, index in enumerate(CANDIDATES)))
    with pytest.raises(SpaceError, match=f"1 configs are wanted, but only 0 of {len(CANDIDATES)} candidates"):
        propose(SPACE, all_tried, NUMERIC)
    almost = history(*((index, 0.1 * i) for i, index in enumerate(CANDIDATES[1:])))
    assert propose(SPACE, almost, NUMERIC) == CANDIDATES[:1]
    with pytest.raises(SpaceError, match="2 configs are wanted, but only 1 of"):
        propose(SPACE, almost, NUMERIC, n=2)


def test_a_history_of_another_space_is_refused() -> None:
    with pytest.raises(SpaceError, match="index 45359 is outside the space"):
        propose(SPACE, history((45_359, 0.5)), NUMERIC)


def test_trials_that_are_no_candidates_are_left_out() -> None:
    strange = next(i for i in range(SPACE.size) if i not in CANDIDATES)
    known = [(t.index, t.outcome) for t in SOME.trials]
    past = history(*known, (strange, 99.0))
    assert propose(SPACE, past, UNSEEDED) == propose(SPACE, SOME, UNSEEDED)
    assert recommend(SPACE, past, NUMERIC) in CANDIDATES


def test_presets_by_name() -> None:
    assert get_preset("default") is PRESETS["default"]
    assert get_preset("default", language=False) is PRESETS["default"]
    with pytest.raises(
        ConfigError, match="unknown preset 'papr'; there are default, thorough, numeric, language, paper"
    ):
        get_preset("papr")
    with pytest.raises(ConfigError, match="'paper' reads prompts; name a language model, or use 'default'"):
        get_preset("paper", language=False)


# -- recommendation -----------------------------------------------------------------------------------


def test_recommendation_by_observation_and_by_posterior_mean() -> None:
    space = SearchSpace((Knob("learning_rate", tuple(10.0**-e for e in range(12, 0, -1)), "log10"),))
    values = [0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.75, 0.6, 0.4, 0.3, 0.2, 0.1]
    lucky = dict(enumerate(values)) | {1: 0.81}  # one noisy value among bad neighbours
    past = history(*lucky.items())
    assert recommend(space, past, replace(NUMERIC, recommend="observed")) == 1
    assert recommend(space, past, NUMERIC) in (4, 5, 6)
    assert sorted(ranking(space, past, NUMERIC)) == list(range(12))
    assert ranking(space, past, NUMERIC)[0] == recommend(space, past, NUMERIC)


def test_ranking_names_each_success_once_and_no_failure() -> None:
    past = history(
        (CANDIDATES[0], 0.2),
        (CANDIDATES[1], failed(FailureKind.DIVERGED)),
        (CANDIDATES[2], 0.4),
        (CANDIDATES[0], 0.3),
        (CANDIDATES[3], None),
        (CANDIDATES[4], 0.4),
    )
    order = ranking(SPACE, past, PAPER, features=FEATURES)
    assert order == [CANDIDATES[2], CANDIDATES[4], CANDIDATES[0]]  # of equals, the earlier
    with pytest.raises(SpaceError, match="no trial has succeeded"):
        recommend(SPACE, history((CANDIDATES[1], failed(FailureKind.DIVERGED))), NUMERIC)


# -- ask and tell -------------------------------------------------------------------------------------


def test_ask_and_tell_keep_the_history() -> None:
    optimizer = Optimizer(SPACE, seed=1)
    first, second = optimizer.ask(2)
    assert [trial.index for trial in optimizer.history.pending] == [first, second]
    optimizer.tell(second, 0.7)
    optimizer.tell(first, failed(FailureKind.OUT_OF_MEMORY))
    assert [trial.number for trial in optimizer.history.succeeded] == [1]
    assert optimizer.ask() == propose(
        SPACE, History(optimizer.history.trials[:2]), PRESETS["default"], seed=1
    )
    assert optimizer.recommend() == SPACE.config(second)


def test_what_was_never_asked_for_can_be_told() -> None:
    optimizer = Optimizer(SPACE)
    optimizer.tell(CANDIDATES[5], 0.5)
    assert optimizer.history == history((CANDIDATES[5], 0.5))
    optimizer.tell(CANDIDATES[5], 0.6)  # a second training of one config
    assert len(optimizer.history.succeeded) == 2
    strange = next(i for i in range(SPACE.size) if i not in CANDIDATES)
    for index in (strange, SPACE.size, -1):
        with pytest.raises(SpaceError, match=f"index {index} is not a candidate"):
            optimizer.tell(index, 0.5)


@pytest.mark.parametrize(
    "index", [1.5, 5.0, True, "x", None, {"rank": 16}, [3], np.float64(5), np.array([5, 6]), 10**400]
)
def test_what_is_no_index_is_refused_in_one_line_and_nothing_is_stored(index: object) -> None:
    optimizer = Optimizer(SPACE)
    optimizer.ask()
    before = optimizer.history
    with pytest.raises(SpaceError, match=r"index of a candidate|is not a candidate") as caught:
        optimizer.tell(index, 0.5)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    assert optimizer.history == before


@pytest.mark.parametrize(
    "value",
    [
        *(
            math.nan,
            -math.inf,
            10**400,
            -(10**400),
            True,
            np.True_,
            "0.5",
            "a\nb" * 99,
            b"1",
            None,
            [0.5],
            1j,
        ),
        *(torch.tensor(math.nan), torch.tensor([0.1, 0.2]), np.float32("inf"), Outcome(True)),
    ],
)
def test_what_is_no_score_is_refused_in_one_line_and_nothing_is_stored(value: object) -> None:
    optimizer = Optimizer(SPACE)
    (index,) = optimizer.ask()
    before = optimizer.history
    with pytest.raises(LoracleError, match=r"must be finite, a number; got .* tell Outcome\(None") as caught:
        optimizer.tell(index, value)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    assert optimizer.history == before


def test_an_optimizer_takes_presets_by_name_and_refuses_what_it_cannot_use() -> None:
    assert Optimizer(SPACE, "numeric").ask(3) == Optimizer(SPACE, NUMERIC).ask(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown preset 'nmeric'; there are default, thorough, numeric"):
        Optimizer(SPACE, "nmeric")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match=r"searches a space, such as default_space\(\); got 'default'"):
        Optimizer("default")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="seed is a whole number; got 'x'"):
        Optimizer(SPACE, seed="x")  # type: ignore[arg-type]


def test_numbers_of_numpy_and_torch_are_told_as_pythons_own() -> None:
    index, told = CANDIDATES[5], Optimizer(SPACE)
    for one in (np.int64(index), np.array(index), torch.tensor(index)):
        told.tell(one, 0.5)  # type: ignore[arg-type]
    for value in (np.float64(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2), Decimal("0.5")):
        told.tell(index, value)  # type: ignore[arg-type]
    assert told.history == history(*[(index, 0.5)] * 8)
    assert {type(trial.index) for trial in told.history.trials} == {int}
    told.tell(index, 1)
    assert told.history.trials[-1].outcome == Outcome(1.0)


@pytest.mark.parametrize("n", [1.5, True, "2", None, -1])
def test_how_many_are_asked_for_is_a_whole_number(n: object) -> None:
    optimizer = Optimizer(SPACE)
    with pytest.raises(SpaceError, match="ask takes how many configs are wanted"):
        optimizer.ask(n)  # type: ignore[arg-type]
    assert optimizer.history == History()
    assert len(optimizer.ask(np.int64(2))) == 2  # type: ignore[arg-type]


# -- search quality -----------------------------------------------------------------------------------


SMALL = SearchSpace(
    (
        Knob("rank", (4, 8, 16, 32, 64, 128, 256), "log2"),
        Knob("alpha_ratio", (0.5, 1, 2, 4, 8, 16, 32), "log2"),
        Knob("learning_rate", (1e-5, 3e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 3e-3), "log10"),
    )
)


def cliff_and_plateau(config: Config, peak: tuple[float, float]) -> float:
    """A LoRA landscape in small: nothing below a step size, a cliff above, a peak on the plateau between."""
    step, size = math.log10(config["learning_rate"] * config["alpha"]), math.log2(config["rank"])
    if not -3.5 < step < -0.8:
        return 0.1 if step < -3 else 0.0
    return 0.6 + 0.1 * math.exp(-((step - peak[0]) ** 2) / 0.1 - (size - peak[1]) ** 2 / 4)


def shortfall(peak: tuple[float, float], choose: Callable[[History], int], trials: int = 20) -> float:
    """How far the best of some trials stays behind the best candidate."""
    past = History()
    for number in range(trials):
        index = choose(past)
        value = cliff_and_plateau(SMALL.config(index), peak)
        past = History((*past.trials, Trial(number, index, Outcome(value))))
    best = max(cliff_and_plateau(SMALL.config(int(index)), peak) for index in SMALL.candidates)
    return best - max(trial.outcome.value for trial in past.succeeded)  # type: ignore[union-attr,type-var]


@pytest.mark.parametrize("name", ["default", "numeric"])
def test_the_search_beats_random_search_from_the_same_start(name: str) -> None:
    preset = replace(PRESETS[name], seed_configs=GOOD_PRACTICE)
    start = propose(SMALL, History(), preset, n=3)
    ours, theirs = [], []
    for seed in range(4):
        generator = np.random.default_rng(seed)
        peak = (generator.uniform(-3, -1.3), generator.uniform(3, 8))
        ours.append(shortfall(peak, lambda past: propose(SMALL, past, preset)[0]))
        for _ in range(10):
            order = [*start, *generator.permutation(SMALL.candidates)]
            theirs.append(shortfall(peak, lambda past, order=order: int(order[len(past.trials)])))  # type: ignore[misc]
    assert np.mean(ours) < 0.5 * np.mean(theirs)


# -- scores of any size -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "features"), CASES)
@pytest.mark.parametrize("absurd", [1e160, 1e308, -1e308, 1e-320])
def test_a_run_goes_on_after_any_finite_score(
    name: str, features: FixedFeatures | None, absurd: float
) -> None:
    past = history(*((t.index, t.outcome) for t in SOME.trials), (CANDIDATES[1], absurd))
    chosen = propose(SPACE, past, PRESETS[name], features=features, n=3)
    assert len(set(chosen)) == 3
    best = recommend(SPACE, past, PRESETS[name], features=features)
    if absurd > 1:
        assert best == CANDIDATES[1]
    elif absurd < -1:
        assert best != CANDIDATES[1]


@pytest.mark.parametrize(("name", "features"), CASES)
@pytest.mark.parametrize("value", [0.0, 1e308, -1e308, 1e-320])
def test_a_run_of_equal_scores_goes_on(name: str, features: FixedFeatures | None, value: float) -> None:
    past = history(*((index, value) for index in CANDIDATES[:6]))
    assert propose(SPACE, past, PRESETS[name], features=features)[0] not in CANDIDATES[:6]
    assert recommend(SPACE, past, PRESETS[name], features=features) in CANDIDATES[:6]


# -- memory -------------------------------------------------------------------------------------------

MEASURE = """
import resource
from dataclasses import replace
from pathlib import Path
import numpy as np, torch
from loracle.language.features import FixedFeatures
from loracle.search.presets import PRESETS
from loracle.search.propose import propose
from loracle.records.space import paper_space
from loracle.records.trial import History, Outcome, Trial

space = paper_space()
features = FixedFeatures(torch.randn(len(space.candidates), 384, generator=torch.Generator().manual_seed(0)))
rows = np.random.default_rng(0).choice(space.size, 30, replace=False)
trials = tuple(Trial(i, int(row), Outcome(float(np.sin(row)))) for i, row in enumerate(rows))
for name in ("paper", "language", "default"):
    propose(space, History(trials), replace(PRESETS[name], seed_configs=()), features=features)
status = Path("/proc/self/status")
if status.exists():  # ru_maxrss would begin with the size of pytest, from which this process was forked
    peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak)
"""


def test_asking_on_the_published_space_takes_under_a_gigabyte() -> None:
    """45,360 candidates, 30 observations. What it takes in time is measured by `benchmarks/proposals.py`."""
    assert len(paper_space().candidates) == 45_360
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 1e6  # kB


def test_presets_are_data() -> None:
    assert all(isinstance(preset, Preset) for preset in PRESETS.values())
    assert PAPER.seed_configs == ()
    assert (PAPER.acquisition, PAPER.incumbent, PAPER.recommend) == ("expected_improvement",) + (
        "observed",
    ) * 2


def best_of(space: SearchSpace, preset: Preset, history: History) -> tuple[Config, float]:
    """What is proposed, and alpha x learning rate, the size of its steps (fact 19)."""
    (index,) = propose(space, history, preset)
    config = space.config(index)
    return config, float(config["alpha"]) * float(config["learning_rate"])


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_the_second_and_third_trial_of_a_large_model_are_not_reckless(value: float) -> None:
    """Typical of the best runs is .004 to .03; above .1 to .25 most degrade or diverge."""
    space, preset = default_space(), with_parameters(PRESETS["default"], 7e9)
    history = History()
    for number in range(3):
        config, size = best_of(space, preset, history)
        assert 0.001 < size < 0.1
        outcome = Outcome(value + number / 100)
        history = History((*history.trials, Trial(number, space.index(config), outcome)))


@pytest.mark.parametrize("at_a_time", [1, 4])
@pytest.mark.parametrize("make", [default_space, paper_space])
def test_the_first_ten_trials_are_ten_settings_whatever_their_dropout(
    make: Callable[[], SearchSpace], at_a_time: int
) -> None:
    space, known = make(), list[tuple[int, Outcome | float | None]]()
    while len(known) < 10:
        chosen = propose(space, history(*known), PRESETS["default"], n=min(at_a_time, 10 - len(known)))
        known += [(index, 0.4 if known else 0.5) for index in chosen]  # the usual settings are the best
    configs = [space.config(index) for index, _ in known]
    assert len({tuple(config[name] for name in space.names if name != "dropout") for config in configs}) == 10


def test_the_first_three_trials_differ_in_more_than_what_the_prior_knows_nothing_of() -> None:
    warmup, style = Knob("warmup_fraction", (0.0, 0.05, 0.1), "linear"), Knob("style", ("plain", "odd"))
    space, known = (
        SearchSpace((*default_space().knobs, warmup, style)),
        list[tuple[int, Outcome | float | None]](),
    )
    for value in (0.5, 0.4, 0.3):
        known.append((propose(space, history(*known), PRESETS["default"])[0], value))
    configs = [space.config(index) for index, _ in known]
    aside = ("dropout", "warmup_fraction")
    assert len({tuple(config[name] for name in space.names if name not in aside) for config in configs}) == 3
    alone = SearchSpace((Knob("width", (1, 2, 3, 4)),))  # nothing else is left to differ in
    (second,) = propose(alone, history((0, 0.5)), PRESETS["default"])
    assert second != 0


def test_where_dropout_is_all_that_is_left_it_is_searched() -> None:
    space = SearchSpace(
        (Knob("rank", (8,)), Knob("dropout", (0.0, 0.05, 0.1)), Knob("learning_rate", (1e-4,)))
    )
    optimizer = Optimizer(space)
    for value in (0.1, 0.2, 0.3):
        (index,) = optimizer.ask()
        optimizer.tell(index, value)
    assert {space.config(trial.index)["dropout"] for trial in optimizer.history.trials} == {0.0, 0.05, 0.1}


def test_nothing_reckless_where_the_size_of_the_model_is_not_known() -> None:
    space, history = default_space(), History()
    standard = propose(space, history, PRESETS["default"])[0]
    history = History((Trial(0, standard, Outcome(0.5)),))
    assert best_of(space, PRESETS["default"], history)[1] < 0.1


def test_the_size_of_a_model_changes_what_is_tried() -> None:
    space = default_space()
    history = History((Trial(0, propose(space, History(), PRESETS["default"])[0], Outcome(0.5)),))
    small, large = (best_of(space, with_parameters(PRESETS["default"], n), history)[1] for n in (1e5, 7e10))
    assert small > 2 * large
    numeric = PRESETS["numeric"]
    assert with_parameters(numeric, 7e9) == numeric  # it has no prior that could know
    for parameters in (-1, "7b"):
        with pytest.raises(ConfigError, match="parameters is how many"):
            Optimizer(space, parameters=parameters)  # type: ignore[arg-type]


def test_where_all_scores_are_equal_the_first_is_used() -> None:
    """A metric that is stuck at 0 says nothing for alpha 4096."""
    space = default_space()
    optimizer = Optimizer(space, parameters=7e9)
    for _ in range(5):
        (index,) = optimizer.ask()
        optimizer.tell(index, 0.0)
    usual = space.config(optimizer.history.trials[0].index)
    assert optimizer.recommend() == usual
    assert [usual["rank"], usual["alpha"]] == [16, 32]


@pytest.mark.parametrize("preset", ["language", "paper"])
def test_a_preset_that_reads_prompts_needs_features_from_the_start(preset: str) -> None:
    with pytest.raises(ConfigError, match=r"reads prompts: give features \(loracle.build_features\)"):
        Optimizer(SPACE, preset=preset)  # type: ignore[arg-type]
