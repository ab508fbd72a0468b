"""Knobs whose values are names: the space treats them as equally far from each other, and texts as texts."""

from __future__ import annotations

import pytest

from loracle.errors import OutcomeError, SpaceError
from loracle.records.codec import from_plain, to_plain
from loracle.records.events import TrialStarted
from loracle.records.space import Knob, SearchSpace
from loracle.search.optimizer import Optimizer

SCHEDULE = Knob("schedule", ("cosine", "linear", "constant"), about={"cosine": "falls along half a wave"})
TARGETS = Knob("targets", ("all-linear", "attention"))
RATE = Knob("learning_rate", (1e-4, 3e-4, 1e-3), "log10")
SPACE = SearchSpace((SCHEDULE, RATE, TARGETS))


def test_index_and_config_are_the_same_config() -> None:
    for index in SPACE.candidates:
        assert SPACE.index(SPACE.config(int(index))) == index
    assert SPACE.config(0) == {"schedule": "cosine", "learning_rate": 1e-4, "targets": "all-linear"}


def test_any_two_names_are_equally_far_whatever_their_order() -> None:
    at = SPACE.coordinates([SPACE.index(SPACE.config(0) | {"schedule": name}) for name in SCHEDULE.values])
    distances = {round(float(((a - b) ** 2).sum()), 12) for i, a in enumerate(at) for b in at[:i]}
    assert distances == {1.0}


def test_neighbours_have_another_name_or_the_next_number() -> None:
    around = [SPACE.config(index) for index in SPACE.neighbours(0)]
    assert [config["schedule"] for config in around] == ["linear", "constant", "cosine", "cosine"]
    assert [config["learning_rate"] for config in around] == [1e-4, 1e-4, 3e-4, 1e-4]


def test_the_nearest_has_the_name_and_any_stands_for_one_that_the_space_lacks() -> None:
    wanted = {"schedule": "linear", "learning_rate": 2.9e-4, "targets": "attention"}
    assert SPACE.config(SPACE.nearest(wanted)) == wanted | {"learning_rate": 3e-4}
    assert SPACE.config(SPACE.nearest(wanted | {"schedule": "wave"}))["schedule"] == "cosine"


def test_constraints_compare_names() -> None:
    rule = "schedule != 'constant' or (targets == 'attention' and learning_rate < 5e-4)"
    space = SearchSpace(SPACE.knobs, (rule,))
    left = [space.config(int(index)) for index in space.candidates]
    assert len(left) == 14
    assert all(c["targets"] == "attention" for c in left if c["schedule"] == "constant")


def test_the_sentences_and_the_order_of_names_are_part_of_what_a_space_is() -> None:
    plain = SearchSpace((Knob("schedule", SCHEDULE.values), RATE, TARGETS))
    turned = SearchSpace((Knob("schedule", SCHEDULE.values[::-1]), RATE, TARGETS))
    assert len({SPACE.fingerprint, plain.fingerprint, turned.fingerprint}) == 3
    assert hash(SPACE) == hash(SearchSpace((SCHEDULE, RATE, TARGETS)))


def test_records_keep_names_as_they_are() -> None:
    event = TrialStarted(0, 3, SPACE.config(5), 0)
    assert from_plain(TrialStarted, to_plain(event)) == event


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("a", "a"), "'a' is given twice"),
        (("a", 1), "numbers or names, not both"),
        (("a", ""), "a text without spaces around it"),
        (("a", "1e-4"), "does not read as a number"),
        (("a", "nan"), "does not read as a number"),
        (("a", "x\ny"), "without control characters"),
        (("a", "\x1b[31mred"), "without control characters"),
        (("a", "\u202eright to left"), "without control characters"),
        (("a", "x" * 10_000), "at most 100 characters"),
        (tuple(f"n{i}" for i in range(65)), "65 names are more than 64"),
    ],
)
def test_what_is_no_name_is_refused_in_one_line(values: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        Knob("x", values)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_names_and_configs_together_stay_within_memory() -> None:
    many = Knob("own", tuple(f"n{i}" for i in range(64)))
    numbers = [Knob(f"x{i}", tuple(range(30))) for i in range(3)]
    with pytest.raises(SpaceError, match="1,728,000 configs and 64 names; with so many names, 1,562,500"):
        SearchSpace((many, *numbers))
    assert SearchSpace((many, *numbers[:2])).size == 57_600


@pytest.mark.parametrize("name", ["rank", "alpha", "dropout", "batch_size", "learning_rate"])
def test_what_has_an_order_takes_no_names(name: str) -> None:
    with pytest.raises(SpaceError, match="values are numbers in order; got 'high'"):
        Knob(name, ("high", "low"))


def test_a_name_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(SpaceError, match="did you mean 'cosine'"):
        SPACE.index(SPACE.config(0) | {"schedule": "cosin"})
    with pytest.raises(SpaceError, match="learning_rate is a number; got 'high'"):
        SPACE.nearest(SPACE.config(0) | {"learning_rate": "high"})
    with pytest.raises(SpaceError, match="rank is a number; got 'high'"):
        SearchSpace((Knob("rank", (1, 2)), Knob("alpha", (1, 2)))).index({"rank": "high", "alpha": 1})


@pytest.mark.parametrize("preset", ["default", "numeric"])
def test_a_search_finds_the_best_names(preset: str) -> None:
    """Which of 24 combinations of names is best shows after half of them, whatever their order."""
    letters = tuple("abcdef")
    worth = dict(zip(letters, (0.1, 0.9, 0.3, 0.2, 0.4, 0.0), strict=True))
    space = SearchSpace((Knob("own", letters), Knob("other", ("p", "q", "r", "s"))))
    optimizer = Optimizer(space, preset)  # type: ignore[arg-type]
    for _ in range(12):
        (index,) = optimizer.ask()
        config = space.config(index)
        optimizer.tell(index, worth[str(config["own"])] + 0.3 * (config["other"] == "r"))
    assert optimizer.recommend() == {"own": "b", "other": "r"}
    with pytest.raises(OutcomeError):
        optimizer.tell(0, "b")  # type: ignore[arg-type]
