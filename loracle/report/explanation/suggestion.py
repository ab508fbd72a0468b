"""A suggestion in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

from loracle.report.wording import show_config
from loracle.search.prior import LARGEST, SMALLEST
from loracle.search.suggestion.answer import Suggestion
from loracle.text.quantities import show_count


def sentences(found: Suggestion) -> Iterator[str]:
    """The config, what else to try, and what it rests on; a line each."""
    yield f"start with {show_config(found.config)}"
    for other in found.alternatives:
        worse = f"trusted more than {math.floor(100 * other.better_than)} % of all"
        yield f"  {other.name}: {show_config(other.config)} ({worse})"
    data = "" if found.examples is None else f" and {found.examples:,} examples"
    yield (
        f"For a model of {show_count(found.parameters)} parameters{data}. Learnt from {found.landscapes} "
        "landscapes of other models and data: nothing of yours has been trained, and the metric is not asked "
        "for."
    )
    if found.examples is not None:
        yield (
            "How many examples there are decides the batches alone: on small models the best learning rate "
            "fell by a half for ten times as many, but answers that were moved by it were no better."
        )
    if not found.known_size:
        yield (
            f"No model of this size is among them: they have {show_count(SMALLEST)} to {show_count(LARGEST)}."
        )
    if found.within is not None and found.typical is not None:
        yield (
            f"How near that comes: of {found.families} families of models that the prior had not seen, half "
            f"were within {found.typical:.2f} and nine of ten within {found.within:.2f} of the best config, "
            "where the median config is at 1."
        )
    yield "loracle tune finds out what is best for your data."
