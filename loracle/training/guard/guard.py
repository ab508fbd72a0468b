"""One guard: questions for trials and others for final trainings, and what a training does to them.

Trials are scored on one half of the rows, final trainings on the other: the config was chosen by the first.
What the base model scores is measured once and kept in the run folder. A guard is broken where the paired
difference to the base model lies below the tolerance with the whole of its 95 % interval: beyond noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from loracle.config.metrics import Item, metric_of
from loracle.config.metrics.guard import GuardConfig, guards_of_rows
from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, DataError
from loracle.records.codec import json_text
from loracle.records.contents import text_hash
from loracle.records.notices import Notice
from loracle.records.trial import GuardReading
from loracle.text.files import write_atomically
from loracle.training.dataset.notices import FEW, about_guard_rows, least_difference
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokenizer import Reading
from loracle.training.guard.rows import guard_rows
from loracle.training.intervals import paired_difference
from loracle.training.scoring import Questions, check_scoring, prepare

_STREAM = 3  # of the run's seed; see `splits.py` for the others
_FINAL_TIMES = 4  # as many items as a trial has, at most, in a final training
_FEWEST = 4  # rows: two for trials and two for final trainings

Scorer = Callable[[Questions, GuardConfig], Sequence[Item]]


@dataclass(frozen=True)
class Guard:
    """What is watched, ready to be asked.

    Attributes:
        name, settings: as the config has them.
        questions: by split, `validation` for trials and `test` for final trainings.
        content: hash of its rows.
        dropped: rows left out for their length.
        folder: where what the base model gives is kept.
        examples: all its rows.
        told_of_rows: what is to be said of them.
    """

    name: str
    settings: GuardConfig
    questions: Mapping[str, Questions]
    content: str
    dropped: int
    folder: Path
    examples: tuple[Example, ...] = ()
    told_of_rows: tuple[Notice, ...] = ()

    @property
    def table(self) -> str:
        """Name of its per-item results in a trial's folder."""
        return f"guard-{self.name}"

    def base_items(self, split: str, fingerprint: str, ask: Scorer, *, keep: bool = True) -> Sequence[Item]:
        """Per-item results of the base model, measured where that was not done before.

        `ask` scores the model as it is, which has no adapter then; `fingerprint` is of the model; `keep`:
        whether what is measured is kept in the run folder.
        """
        path = self.folder / f"{self.name}-{split}.json"
        settings = self.settings.model_dump(mode="json", exclude={"data", "batch_size"})
        frame = self.questions[split].frame  # earlier versions took what it writes for a part of answers
        more = [asdict(frame)] if frame.marks else []
        made_of = text_hash(json.dumps([self.content, fingerprint, settings, self._positions(split), *more]))
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["made_of"] == made_of:
                return list(known["items"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not there, or damaged: it is measured
        items = ask(self.questions[split], self.settings)
        if not keep:
            return items
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json_text({"made_of": made_of, "items": list(items)}, None))
        return items

    def reading(self, base: Sequence[Item], trained: Sequence[Item]) -> GuardReading:
        """What a training did to it, against the base model on the same items."""
        metric = metric_of(self.settings.metric)
        values = [metric.score(items) for items in (base, trained)]
        found = paired_difference(trained, base, metric.name)
        assert found is not None  # `GuardConfig` and `check` let no other metric through
        assert values[0] is not None
        assert values[1] is not None
        allowed = self.settings.allowed(values[0])
        return GuardReading(metric.name, values[0], values[1], *found, allowed, len(base))

    def told(self) -> Iterator[Notice]:
        """What it costs, and what was left out."""
        trial, final = (len(self.questions[split]) for split in ("validation", "test"))
        yield Notice(
            "data",
            "guard",
            f"guard {self.name}: every trial is scored on {trial:,} more items and each final training on "
            f"{final:,} others, and the base model once on both",
            trial,
        )
        least_items = min(trial, final)
        if least_items < FEW:
            counts = f"{trial:,} items in trials and {final:,} in final trainings"
            least = least_difference(least_items, metric_of(self.settings.metric))
            text = (
                f"guard {self.name}: {counts} are few: a loss of less than {least}, beyond what may be lost, "
                "would most likely not show"
            )
            yield Notice("data", "few_guard_items", text, least_items)
        if self.dropped:
            text = f"guard {self.name}: {self.dropped:,} rows are longer than data.max_length and left out"
            yield Notice("data", "guard_rows_dropped", text, self.dropped)
        yield from self.told_of_rows

    def about_base(self, base: Sequence[Item]) -> Iterator[Notice]:
        """That nothing can break it, as the base model scores no more than may be lost; else nothing."""
        metric = metric_of(self.settings.metric)
        score = metric.score(base)
        if score is None or not metric.proportion or score > self.settings.allowed(score):
            return
        allowed = f"{metric.scale * self.settings.allowed(score):.3g} {metric.unit}"
        text = (
            f"guard {self.name}: nothing can break it: the base model scores {metric.show(score)} and "
            f"{allowed} may be lost; name rows that it can do, another metric such as loss, or a smaller "
            "tolerance"
        )
        yield Notice("data", "guard_cannot_break", text)

    def _positions(self, split: str) -> list[int]:
        return [int(i) for i in self.questions[split].encoded.positions]


def load_guards(config: RunConfig, texts: Reading, train: Sequence[Example]) -> tuple[Guard, ...]:
    """All guards of a run, whose training rows are `train`; `texts` is the tokenizer.

    Raises:
        DataError, ConfigError: rows that are missing or do not fit the metric, each with the guard's name.
    """
    return tuple(
        _load(name, guard, config, texts, train) for name, guard in guards_of_rows(config.guard).items()
    )


def _load(
    name: str, settings: GuardConfig, config: RunConfig, texts: Reading, train: Sequence[Example]
) -> Guard:
    told: list[Notice] = []
    examples = guard_rows(name, settings, config.data, texts, told)
    try:
        check_scoring(examples, settings)
        encoded = texts.encoded("guard", examples, config.data)
    except (ConfigError, DataError) as error:
        raise type(error)(_in_guard(name, error)) from None
    if len(encoded) < _FEWEST:
        raise DataError(
            f"guard.{name}: {len(encoded)} rows; half of them are for trials and half for the final "
            f"trainings, and {_FEWEST} are the least"
        )
    order = np.random.default_rng((_STREAM, config.search.seed)).permutation(len(encoded))
    half = len(encoded) // 2
    n_trial, n_final = min(settings.items, half), min(_FINAL_TIMES * settings.items, len(encoded) - half)
    chosen = {"validation": order[:n_trial], "test": order[half : half + n_final]}
    longest = texts.longest(config.data)
    questions = {}
    for split, rows in chosen.items():
        some = encoded.select(np.sort(rows).astype(np.int64))
        try:
            questions[split] = prepare(examples, some, texts, settings, longest)
        except (ConfigError, DataError) as error:
            raise type(error)(_in_guard(name, error)) from None
    content = text_hash(json.dumps([example.content for example in examples], default=str))
    told += about_guard_rows(name, examples, train)
    place = config.output / "guard"
    return Guard(name, settings, questions, content, encoded.dropped, place, examples, tuple(told))


def _in_guard(name: str, error: Exception) -> str:
    """What is wrong, with the names of the guard's own settings in place of those of `scoring`."""
    said = str(error)
    if said.startswith("scoring."):
        return f"guard.{name}.{said.removeprefix('scoring.')}"
    return f"guard.{name}: {said}"
