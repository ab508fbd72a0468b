"""All that a user must see of the rows of a run, as they are read, cut, learnt and scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loracle.config.metrics import Metric
from loracle.records.notices import Notice
from loracle.training.dataset.notices import (
    Parts,
    about_blocks,
    about_lengths,
    about_limit,
    about_references,
    about_sizes,
    about_tokens,
    about_trials,
)
from loracle.training.dataset.tokens import Encoded
from loracle.training.dataset.trial_size import TrialSize


def about_data(
    parts: Parts,
    encoded: Mapping[str, Encoded],
    size: TrialSize,
    metric: Metric,
    *,
    max_length: int,
    remedy: str,
    writes: bool,
    rows: tuple[Encoded, Encoded] | None,
) -> Iterator[Notice]:
    """What is to be said of rows beyond those of `Splits`.

    Args:
        parts: examples by the name of their split.
        encoded: the same as tokens; those of more than `max_length` may be left out or not.
        size: what a trial has.
        metric: that is optimised.
        max_length, remedy: tokens that a row may have, and what is advised against longer ones.
        writes: whether some metric needs what the model writes.
        rows: what the batches of all trainings, and of trials, are made of; None: that is not known.
    """
    fits: dict[str, Any] = {name: own.lengths <= max_length for name, own in encoded.items()}
    used = {name: int(own.sum()) for name, own in fits.items()}
    scored = {"validation": size.scored, "test": used["test"]}
    dropped = {name: len(parts[name]) - n for name, n in used.items()}
    yield from about_lengths(dropped, parts, max_length, remedy)
    yield from about_tokens({name: part.remarks for name, part in encoded.items()}, parts)
    if writes:
        going_on = {name: int((encoded[name].goes_on & fits[name]).sum()) for name in scored}
        yield from about_references(going_on, parts)
    yield from about_sizes(used["train"], {name: n for name, n in scored.items() if n}, metric)
    if size.cost is None:
        yield from about_limit(size.scored, used["validation"])
    else:
        yield from about_trials(size.trained, used["train"], size.scored, used["validation"], size.price)
    if rows is not None and rows[0].parts is not None:
        yield about_blocks(*rows, max_length)
