"""The data of a run as it would be learnt: rows as rendered, lengths, counts, and what is wrong with them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from loracle.config.data.sources import described
from loracle.config.metrics import metric_of
from loracle.config.settings import NO_DATA, RunConfig
from loracle.errors import ConfigError, LoracleError, SpaceError, StudyError
from loracle.records.notices import Notice, gathered
from loracle.records.notices import as_json as notices_as_json
from loracle.run.folder import as_begun
from loracle.run.search import check_values, run_preset, search_space
from loracle.training.dataset.blocks import rows_of
from loracle.training.dataset.notices import labels_of, least_difference, require_enough
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.splits import Splits, load_splits, proxy_positions
from loracle.training.dataset.tokenizer import Reading, load_reading
from loracle.training.dataset.tokens import Encoded
from loracle.training.dataset.told import about_data
from loracle.training.dataset.trial_size import TrialSize, expected_tokens, trial_cost, trial_size
from loracle.training.guard import Guard, load_guards
from loracle.training.memory.kinds import check_optimizers
from loracle.training.scoring import check_splits, needs_of, prepare

_SHOWN = 400  # tokens of a row that is shown: its beginning and its end

Piece = tuple[str, bool]  # a stretch of text, and whether its tokens count in the loss


@dataclass(frozen=True)
class Shown:
    """A row as rendered.

    Attributes:
        split, source: where it is, and where it is from.
        tokens, counted: how many it has, and how many of them count in the loss.
        pieces: its text, in stretches that count or do not.
        left_out: tokens in its middle that are not shown.
    """

    split: str
    source: str
    tokens: int
    counted: int
    pieces: tuple[Piece, ...]
    left_out: int = 0


@dataclass(frozen=True)
class Part:
    """Numbers of a split.

    Attributes:
        rows, used: rows that it has, and those that are short enough.
        tokens, counted: of the rows that are used, in all, and those that count in the loss.
        shortest, median, high, longest: tokens of a row, of all; `high` is not exceeded by 90 % of them.
        repeated: rows that are copies of others in it.
        difference: the least difference that it shows (percentage points, or standard deviations of a row's
            difference in the metric); None for the training rows.
    """

    rows: int
    used: int
    tokens: int
    counted: int
    shortest: int
    median: int
    high: int
    longest: int
    repeated: int
    difference: str | None = None


@dataclass(frozen=True)
class DataView:
    """What there is to see of the data of a run.

    Attributes:
        source: of the training rows, in words.
        shapes: rows by shape.
        max_length: tokens that a row may have.
        metric: which rows are scored by.
        parts: by the name of their split.
        rows: the first ones as rendered.
        guards: by name, its rows by shape; its numbers are in `parts`, as `guard NAME`.
        labels: by split, how often each completion occurs, where they are few.
        notices: what `tune` and the report will say.
        refused: why `tune` would not begin; None: it would.
    """

    source: str
    shapes: dict[str, int]
    max_length: int
    metric: str
    parts: dict[str, Part]
    rows: tuple[Shown, ...]
    labels: dict[str, dict[str, int]]
    notices: tuple[Notice, ...]
    guards: dict[str, dict[str, int]] = field(default_factory=dict)
    refused: str | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        plain = asdict(self)
        rows = [
            {**row, "pieces": [{"text": text, "in_loss": counted} for text, counted in row["pieces"]]}
            for row in plain["rows"]
        ]
        return {**plain, "rows": rows, "notices": notices_as_json(self.notices)}


def view_data(config: RunConfig, n_rows: int) -> DataView:
    """Reads the rows and tokenises them as a run does, with the first `n_rows` of each split to be shown.

    Raises:
        LoracleError: the data or the tokenizer cannot be read, or a row cannot be learnt whole.
    """
    if config.objective is not None and config.data == NO_DATA:
        raise ConfigError("the trainer of this run is your own, and the config names no data")
    with contextlib.suppress(StudyError):  # of which `tune` tells
        config = as_begun(config)
    splits = load_splits(config.data, config.search.seed)
    reading = load_reading(config)
    limit = reading.longest(config.data)
    encoded = {name: reading.every(part, config.data) for name, part in splits.parts.items()}
    guards: tuple[Guard, ...] = ()
    try:
        guards, problem = load_guards(config, reading, splits.train), None
    except LoracleError as error:
        problem = str(error)
    size, batched = _trial_size(config, splits, encoded, limit, guards)
    scored = {"validation": size.scored, "test": int((encoded["test"].lengths <= limit).sum())}
    refused = _refusal(config, splits, reading, encoded, size, batched) or problem
    watched = {f"guard {guard.name}": guard.examples for guard in guards}
    every = encoded | {name: reading.every(part, config.data) for name, part in watched.items()}
    parts = splits.parts | watched
    rows = tuple(
        _shown(name, parts[name][i], every[name], i, reading.tokenizer)
        for name in every
        for i in range(min(n_rows, len(every[name])))
    )
    examples = [example for part in splits.parts.values() for example in part]
    return DataView(
        source=described(config.data.train),
        shapes=dict(Counter(example.shape for example in examples)),
        max_length=limit,
        metric=config.scoring.metric,
        parts={
            name: _part(part, every[name], limit, scored.get(name), config) for name, part in parts.items()
        },
        rows=rows,
        labels={name: dict(own.most_common()) for name, own in labels_of(splits.parts).items()},
        notices=gathered(
            splits.notices,
            _notices(config, splits, encoded, size, reading, batched),
            (notice for guard in guards for notice in guard.told()),
        ),
        guards={guard.name: dict(Counter(one.shape or "text" for one in guard.examples)) for guard in guards},
        refused=refused,
    )


def _shown(split: str, example: Example, encoded: Encoded, i: int, tokenizer: Any) -> Shown:
    tokens = encoded.tokens[encoded.starts[i] : encoded.ends[i]]
    counted = encoded.counted[encoded.starts[i] : encoded.ends[i]]
    left_out = max(0, len(tokens) - _SHOWN)
    half = _SHOWN // 2
    stretches = [(tokens, counted)]
    if left_out:
        stretches = [(tokens[:half], counted[:half]), (tokens[-half:], counted[-half:])]
    pieces: list[Piece] = []
    for number, (own, flags) in enumerate(stretches):
        if number:
            pieces.append((f"\n[... {left_out:,} more tokens ...]\n", False))
        bounds = [0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(own)]
        for start, end in pairwise(bounds):
            text = tokenizer.decode(own[start:end].tolist(), skip_special_tokens=False)
            pieces.append((str(text), bool(flags[start])))
    return Shown(split, example.source, len(tokens), int(counted.sum()), tuple(pieces), left_out)


def _part(
    part: Sequence[Example], encoded: Encoded, limit: int, scored: int | None, config: RunConfig
) -> Part:
    lengths, fits = encoded.lengths, encoded.lengths <= limit
    low, median, high, longest = np.percentile(lengths, (0, 50, 90, 100), method="inverted_cdf").tolist()
    metric = metric_of(config.scoring.metric)
    return Part(
        rows=len(part),
        used=int(fits.sum()),
        tokens=int(lengths[fits].sum()),
        counted=int(encoded.counts[fits].sum()),
        shortest=int(low),
        median=int(median),
        high=int(high),
        longest=int(longest),
        repeated=len(part) - len({example.content for example in part}),
        difference=least_difference(scored, metric) if scored else None,
    )


def _trial_size(
    config: RunConfig,
    splits: Splits,
    encoded: Mapping[str, Encoded],
    limit: int,
    guards: Sequence[Guard],
) -> tuple[TrialSize, tuple[Encoded, Encoded]]:
    """How many examples a trial has, or would have; and what the batches of all trainings, and of trials, are
    made of."""
    fits = {name: part.select(np.flatnonzero(part.lengths <= limit)) for name, part in encoded.items()}
    train, validation = fits["train"], fits["validation"]
    if not len(train) or not len(validation):  # all are too long, which is told elsewhere
        return TrialSize(len(train), len(validation)), (train, train)
    rows = rows_of(train, config.data, limit)
    tokens = expected_tokens(config, train, validation, splits.validation, guards, len(rows))
    size = trial_size(config.data, tokens)
    chosen = proxy_positions(len(train), size.trained / len(train), 1, config.search.seed)
    batched = (rows, rows_of(train.select(chosen), config.data, limit))
    try:
        cost, _ = trial_cost(config, tokens, size, (len(rows), len(batched[1])))
    except SpaceError:  # no candidate can be trained, which is told elsewhere
        return size, batched
    return replace(size, expected=cost.likely), batched


def _notices(
    config: RunConfig,
    splits: Splits,
    encoded: dict[str, Encoded],
    size: TrialSize,
    reading: Reading,
    batched: tuple[Encoded, Encoded],
) -> Iterator[Notice]:
    """What a run says of these data when it begins."""
    limit = reading.longest(config.data)
    return about_data(
        splits.parts,
        encoded,
        size,
        metric_of(config.scoring.metric),
        max_length=limit,
        remedy=reading.remedy(config.data),
        writes="writing" in needs_of(config.scoring),
        rows=batched,
    )


def _refusal(
    config: RunConfig,
    splits: Splits,
    reading: Reading,
    encoded: dict[str, Encoded],
    size: TrialSize,
    batched: tuple[Encoded, Encoded],
) -> str | None:
    """Why a run would not begin, as far as can be known without the model: in the order of `doctor`."""
    limit = reading.longest(config.data)
    try:
        check_values(config)
        check_splits(splits.parts, config.scoring)
        used = {
            name: reading.encoded(name, part, config.data)
            if int(encoded[name].lengths.max()) > limit
            else encoded[name]
            for name, part in splits.parts.items()
        }
        require_enough("validation", size.scored, f"data.validation_limit is {size.scored}")
        if config.objective is None:
            check_optimizers(config)
            for name in ("validation", "test"):
                prepare(splits.parts[name], used[name], reading, config.scoring, limit)
        search_space(config, None if config.objective is not None else len(batched[1]))
        run_preset(config)
    except LoracleError as error:
        return str(error)
    return None
