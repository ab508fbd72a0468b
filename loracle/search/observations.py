"""What a history says about the candidates of a space: which are open, which may fit, which crash, what was
observed.

Notation: N candidates, n observations. Everything that is listed by candidate has a row a candidate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product, takewhile

import numpy as np
import numpy.typing as npt

from loracle.errors import SpaceError
from loracle.records.failures import kinds_of
from loracle.records.space import NUMERIC, Config, Indices, SearchSpace, Value, number
from loracle.records.trial import FailureKind, History, Trial

Mask = npt.NDArray[np.bool_]

_LEAST = 3  # configs that crashed with a value before it is believed to be the cause
_CHANCE, _DOUBT = 0.01, 0.05  # that as many crash by chance: less has to be said, or to be stayed away from
_SIDES = {0: "", 1: " or more", -1: " or less"}
_RATE = "learning_rate"
_CRASHES = (FailureKind.CRASHED, FailureKind.LOST, FailureKind.TIMEOUT)  # say nothing about the score


@dataclass(frozen=True)
class Observations:
    """What trials said about the score.

    Attributes:
        rows: (n,) of the candidates that were tried; a row may repeat.
        values: (n,) their scores, NaN where the training diverged.
        diverged: (n,).
    """

    rows: Indices
    values: npt.NDArray[np.float64]
    diverged: Mask


def rows_of(space: SearchSpace, indices: Sequence[int]) -> tuple[Indices, Mask]:
    """Rows of some indices, and which of them are candidates."""
    wanted = np.asarray(indices, dtype=np.int64)
    rows = np.searchsorted(space.candidates, wanted).clip(max=len(space.candidates) - 1)
    return rows, space.candidates[rows] == wanted


def row_of(space: SearchSpace, index: int) -> int:
    """The row of a candidate. Raises SpaceError if the index is none."""
    if 0 <= index < space.size:
        (row,), (known,) = rows_of(space, [index])
        if known:
            return int(row)
    shown = str(index) if abs(index) <= 10**18 else "beyond 1e18"  # str refuses more than 4,300 digits
    raise SpaceError(f"index {shown} is not a candidate of this space")


def rows_along(space: SearchSpace, config: Config, name: str) -> tuple[list[Value], Indices]:
    """The values of one knob and the rows of the candidates that have them, all else as in `config`."""
    own = {other: config[other] for other in space.names}
    changed = [space.index(own | {name: value}) for value in space[name].values]
    rows, known = rows_of(space, space.canonical(changed).tolist())
    values = [value if isinstance(value, str) else float(value) for value in space[name].values]
    return [value for value, is_one in zip(values, known, strict=True) if is_one], rows[known]


def untried(space: SearchSpace, history: History) -> Mask:
    """Which candidates are free, (N,). Interrupted trials said nothing, so their configs are free again."""
    for trial in history.trials:
        if not 0 <= trial.index < space.size:
            space.config(trial.index)  # refuses a history of another space
    rows, known = rows_of(space, [trial.index for trial in history.trials if not trial.interrupted])
    free = np.ones(len(space.candidates), dtype=bool)
    free[rows[known]] = False
    return free


def without(free: Mask, worse: Mask) -> Mask:
    """The free ones that are none of the worse; all of them where there is no other."""
    good = free & ~worse
    return good if good.any() else free


def fitting(space: SearchSpace, history: History) -> Mask:
    """Which candidates may fit into memory, (N,): no config that ran out of it was at most as large, names
    being equal.

    Memory grows with the rank and, up to the micro-batch, with the batch. Where all candidates have the same
    of both, none is smaller, and where one at least as large has been trained, something else had the memory
    for a while: then only the config itself is not tried again.
    """
    fits = np.ones(len(space.candidates), dtype=bool)
    large = {trial.index for trial in history.finished if _failed(trial) is FailureKind.OUT_OF_MEMORY}
    if not large:
        return fits
    values = space.values(space.candidates)
    sizes = [n for n in ("rank", "batch_size") if n in values and np.ptp(values[n]) > 0]
    if not sizes:
        return fits
    named = [knob for knob in space.knobs if knob.texts]
    trained, known = rows_of(space, [trial.index for trial in history.succeeded])
    for config in map(space.config, sorted(large)):
        same = [values[knob.name] == knob.position(config[knob.name]) for knob in named]
        as_large = np.all([*same, *(values[name] >= number(config[name]) for name in sizes)], axis=0)
        if not as_large[trained[known]].any():
            fits &= ~as_large
    return fits


def twins(space: SearchSpace, rows: Sequence[int], *, early: bool = False) -> Mask:
    """Which candidates are, but for their dropout, one of some rows, (N,).

    Of all knobs dropout moves the score least (fact 32 of docs/lora-facts.md): what such a candidate
    scores is known nearly as well as what the other scored.

    Args:
        early: numbers of which the prior knows nothing are left aside, too, where there are others: the same
            settings with a little more warm-up are no second trial.
    """
    aside = {"dropout"}
    if early and any(knob.name in NUMERIC and len(knob.values) > 1 for knob in space.knobs):
        aside |= {knob.name for knob in space.knobs if not knob.named and knob.name not in NUMERIC}
    alike = space.candidates
    for place, (name, positions) in enumerate(zip(space.names, space.positions(alike), strict=True)):
        if name in aside:
            alike = alike - positions * math.prod(space.shape[place + 1 :])
    return np.isin(alike, alike[list(rows)])


def smaller_step(space: SearchSpace, history: History, free: Mask) -> list[int]:
    """Row of the free candidate that is the gentlest config that diverged with about a tenth of its learning
    rate; none once a training has succeeded, or while a gentler one is running, or where there is none.

    Where everything diverges nothing is known of the scores, and only one thing of the configs: their steps
    are too large.
    """
    diverged = [trial for trial in history.finished if _failed(trial) is FailureKind.DIVERGED]
    if history.succeeded or not diverged or _RATE not in space.names:
        return []
    config = min((space.config(trial.index) for trial in diverged), key=lambda one: number(one[_RATE]))
    rates, rows = rows_along(space, config, _RATE)
    smaller = [(number(rate), int(row)) for rate, row in zip(rates, rows, strict=True)]
    smaller = [(rate, row) for rate, row in smaller if rate < number(config[_RATE])]
    running, _ = rows_of(space, [trial.index for trial in history.pending])
    left = [(rate, row) for rate, row in smaller if free[row]]
    if not left or {row for _, row in smaller} & {*running.tolist()}:
        return []
    tenth = number(config[_RATE]) / 10
    return [min(left, key=lambda one: (abs(math.log(one[0] / tenth)), one[0]))[1]]


@dataclass(frozen=True)
class Suspect:
    """What configs that crashed have in common and no config that ran has.

    Attributes:
        values: by knob; several where no trial tells which of them is to blame.
        trials: with these values, all of which crashed.
        side: 1 where all larger values of its one knob are meant, too, -1 where all smaller ones are; then
            the first of the trials is the one with that value.
        ends: of a side, the position of the outermost value that ran.
    """

    values: Mapping[str, Value]
    trials: tuple[Trial, ...]
    side: int = 0
    ends: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        """What it is about, the same while more trials move where it begins."""
        return (*self.values, self.side) if self.side else tuple(self.values.items())

    def having(self, space: SearchSpace) -> Mask:
        """Which candidates have it, (N,); of a side, those also that are nearer to it than to what ran, so
        that where it begins is found by halves."""
        first = self.trials[0].index
        if not self.side:
            return np.asarray(np.all(_having(space, first, self.values), axis=0))
        of_all, own = _columns(space, space.candidates), _columns(space, [first])
        (name,) = self.values
        return np.asarray(2 * self.side * of_all[name] >= self.side * (self.ends + own[name][0]))

    def said(self, values: str) -> str:
        """What a user is told; `values` are those of the suspect as people write them."""
        values += _SIDES[self.side]
        failures = [trial.outcome.failure for trial in self.trials if trial.outcome and trial.outcome.failure]
        which, last = "it", "it comes after all others"
        if len(self.values) > 1:
            which, last = "these together", "they come together after all others"
        messages = [failure.message for failure in failures if failure.message]
        cause = f"; the last one with: {messages[-1]}" if messages else ""
        leave = "narrow the range" if self.side else "leave the value out"
        return (
            f"{values}: all {len(failures)} trials with {which} failed ({kinds_of(failures)}{cause}), and "
            f"trials without ran; so {last}. Mend the cause, or {leave}"
        )


def suspects(space: SearchSpace, history: History, chance: float = _CHANCE) -> list[Suspect]:
    """Values with which every training crashes; the one that explains most crashes first.

    A score says nothing of them, and the search would go on with them where the prior likes them. At least
    three configs must have crashed with a value, none have run with it, and some have run without it. A crash
    that one value explains speaks against no other, and crashes that are some of those on a side of another
    knob speak against no value. What crashes too often without any of them may have crashed with them by
    chance, which has to be less likely than `chance`.
    """
    crashed, ran = _told_apart(history)
    if not ran or len(crashed) < _LEAST:
        return []
    columns, innocent = _columns(space, list(crashed)), _columns(space, ran)
    larger = [
        (side, {t.index for t in side.trials}) for _, side in _one_sided(space, [*crashed.values()], ran)
    ]
    left, found = np.ones(len(crashed), dtype=bool), list[Suspect]()
    while True:
        alike: dict[bytes, tuple[Mask, list[str]]] = {}  # knobs whose values the same configs have
        for name, column in columns.items():
            for value in np.setdiff1d(column[left], innocent[name]):
                same = column == value
                having, these = left & same, {i for i, has in zip(crashed, same, strict=True) if has}
                if any(these < beyond and name not in side.values for side, beyond in larger):
                    continue
                if having.sum() >= _LEAST:
                    alike.setdefault(having.tobytes(), (having, []))[1].append(name)
        if not alike:
            without = (left.sum() + 1) / (left.sum() + len(ran) + 2)  # how likely a crash is, without them
            found = [suspect for suspect in found if without ** len(suspect.trials) < chance]
            explained = {trial.index for suspect in found for trial in suspect.trials}
            other = [trial for trial in crashed.values() if trial.index not in explained]
            looks = 2 * len(_ordered(space))
            sides = [
                side for by_chance, side in _one_sided(space, other, ran)[:1] if by_chance * looks <= _DOUBT
            ]
            return [*found, *sides]
        having, names = max(alike.values(), key=lambda one: int(one[0].sum()))
        trials = [trial for trial, is_one in zip(crashed.values(), having, strict=True) if is_one]
        config = space.config(trials[0].index)
        found.append(Suspect({name: config[name] for name in names}, tuple(trials)))
        left &= ~having


def _told_apart(history: History) -> tuple[dict[int, Trial], list[int]]:
    """Trials that crashed, the last of each config by its index, and indices of those that did not."""
    crashed = {trial.index: trial for trial in history.counted if _crashed(trial)}
    return crashed, [trial.index for trial in history.counted if not _crashed(trial)]


def crashing(space: SearchSpace, history: History, chance: float = _CHANCE) -> Mask:
    """Which candidates have what every training crashed with, (N,); `chance` as in `suspects`."""
    found = np.zeros(len(space.candidates), dtype=bool)
    for suspect in suspects(space, history, chance):
        found |= suspect.having(space)
    return found


def next_to_crashes(space: SearchSpace, history: History) -> Mask:
    """Which candidates are left for a while, (N,): those on a side of a knob where two or more trials crashed
    lately, beyond all that ran, and those nearer to them than to what ran.

    A crash is likely next to crashes, long before it is unlikely that they lie so by chance. So the next
    trials, one fewer than have crashed there, are at most half way from what ran to the first that crashed:
    bisection. Then the side is as open as any. Where no config is to blame, these few trials are all that it
    costs.
    """
    crashed, ran = _told_apart(history)
    found = np.zeros(len(space.candidates), dtype=bool)
    for _, side in _one_sided(space, list(crashed.values()), ran, least=2):
        last = max(trial.number for trial in side.trials)
        since = sum(trial.number > last for trial in history.counted)
        if since < len(side.trials) - 1:
            found |= side.having(space)
    return found


def _one_sided(
    space: SearchSpace, crashed: Sequence[Trial], ran: Sequence[int], least: int = _LEAST
) -> list[tuple[float, Suspect]]:
    """Sides of a knob where trials crashed, `least` or more, beyond all that ran; the likeliest first.

    With each, how likely it is by chance: if c crashes and m that ran had nothing to do with the knob, the k
    outermost of them were all crashes with probability C(c, k) / C(c + m, k).
    """
    columns, others = _columns(space, [trial.index for trial in crashed]), _columns(space, ran)
    found = []
    for name, side in product(_ordered(space) if ran else (), (1, -1)):
        ends = side * int((side * others[name]).max())
        outer = np.flatnonzero(side * columns[name] > side * ends)
        if len(outer) >= least:
            by_chance = math.comb(len(crashed), len(outer)) / math.comb(len(crashed) + len(ran), len(outer))
            trials = [crashed[i] for i in outer[np.argsort(side * columns[name][outer], kind="stable")]]
            value = space.config(trials[0].index)[name]
            found.append((by_chance, Suspect({name: value}, tuple(trials), side, ends)))
    return sorted(found, key=lambda one: one[0])


def _ordered(space: SearchSpace) -> list[str]:
    """Knobs whose values have sides."""
    return [knob.name for knob in space.knobs if not knob.named and len(knob.values) > 2]


def in_common(space: SearchSpace, history: History, crashed: Iterable[int]) -> dict[str, Value]:
    """Values that crashed configs, given by their indices, have in common, no config that ran has, and some
    candidate lacks."""
    indices = list(dict.fromkeys(crashed))
    _, ran = _told_apart(history)
    columns, innocent, all_values = (_columns(space, some) for some in (indices, ran, space.candidates))
    config = space.config(indices[0])
    return {
        name: config[name]
        for name, column in columns.items()
        if (column == column[0]).all()
        and column[0] not in innocent[name]
        and (all_values[name] != column[0]).any()
    }


def doubtful(space: SearchSpace, history: History) -> Mask:
    """Which candidates are likely to crash, (N,): they come after all others.

    As long as no config ran, that is what all that crashed have in common, two or more: so it shows whether
    any config is to blame.
    """
    crashed = list({trial.index for trial in history.counted if _crashed(trial)})
    none = np.zeros(len(space.candidates), dtype=bool)
    if len(crashed) < 2:
        return none
    if all(map(_crashed, history.counted)):
        return np.asarray(
            np.any([*_having(space, crashed[0], in_common(space, history, crashed)), none], axis=0)
        )
    return crashing(space, history, _DOUBT) | next_to_crashes(space, history)


def crashed_in_a_row(ended: Sequence[Trial]) -> list[Trial]:
    """The last of some trials, as long as they crashed or were lost; in order."""
    kinds = (FailureKind.CRASHED, FailureKind.LOST)
    row = takewhile(lambda trial: _failed(trial) in kinds, reversed(ended))
    return list(row)[::-1]


def blame(
    space: SearchSpace,
    history: History,
    row: Sequence[Trial],
    many: int,
    show: Callable[[int, Collection[str]], str],
) -> str | None:
    """Why a search ends whose last trials, in a `row`, crashed; None where it goes on.

    So many in a row are the fault of no config, unless these have values in common that no config that ran
    has: then the search stays away from them (`doubtful`), or learns in a few trials more that it has to.

    Args:
        space, history: of the search.
        row: trials that crashed, one after the other.
        many: how many are too many.
        show: some of the values of a config, by its index and their knobs, as people write them.
    """
    if len(row) < many:
        return None
    indices = [trial.index for trial in row[-many:]]
    rows, known = rows_of(space, indices)
    common = in_common(space, history, indices)
    if known.all() and crashing(space, history)[rows].all():
        return None
    _, ran = _told_apart(history)
    sides = [side for by_chance, side in _one_sided(space, row[-many:], ran) if by_chance <= _DOUBT]
    sides = [side for side in sides if len(side.trials) == many]
    if common:
        those = np.any(_having(space, indices[0], common), axis=0)
        shown = show(indices[0], common)
    elif sides:
        those = sides[0].having(space)
        shown = show(sides[0].trials[0].index, sides[0].values) + _SIDES[sides[0].side]
    else:
        return "with nothing in common that other configs lack, so the cause is hardly the config"
    others = untried(space, history) & ~those
    return None if len(row) < 2 * many and others.any() else f"all of them with {shown}"


def _crashed(trial: Trial) -> bool:
    return _failed(trial) in _CRASHES


def _failed(trial: Trial) -> FailureKind | None:
    return trial.outcome.failure.kind if trial.outcome and trial.outcome.failure else None


def _columns(space: SearchSpace, indices: npt.ArrayLike) -> dict[str, Indices]:
    """Positions of the values of some configs, (n,) for each knob."""
    return dict(zip(space.names, space.positions(indices), strict=True))


def _having(space: SearchSpace, index: int, names: Iterable[str]) -> list[Mask]:
    """Which candidates have the values of a config, for each of some knobs."""
    of_all, own = _columns(space, space.candidates), _columns(space, [index])
    return [of_all[name] == own[name][0] for name in names]


def tells(trial: Trial) -> bool:
    """Whether a trial says something about the score: it has one, or diverged."""
    failure = trial.outcome.failure if trial.outcome else None
    return trial.outcome is not None and (failure is None or failure.kind is FailureKind.DIVERGED)


def observed(space: SearchSpace, history: History) -> Observations:
    """All trials that say something about the score.

    A diverged trial is worse than any success. Out of memory, timeout, crash and loss say nothing about the
    score: their configs are only not tried again.
    """
    telling = [trial for trial in history.trials if tells(trial)]
    rows, known = rows_of(space, [trial.index for trial in telling])
    values = [np.nan if trial.outcome and trial.outcome.failure else value_of(trial) for trial in telling]
    scores = np.array(values, dtype=np.float64)[known]
    return Observations(rows[known], scores, np.isnan(scores))


def value_of(trial: Trial) -> float:
    """Of a trial that has succeeded."""
    assert trial.outcome is not None
    assert trial.outcome.value is not None
    return trial.outcome.value
