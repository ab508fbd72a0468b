"""What a user must see about the search before it begins: configs that were moved, merged or left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from loracle.config.settings import RunConfig
from loracle.records.notices import Notice
from loracle.records.space import SearchSpace, Value, with_alpha
from loracle.report.wording import show_config, show_value
from loracle.search.presets import get_preset
from loracle.search.propose import seed_indices
from loracle.training.memory.plan import MemoryModel, left_out

TOO_LARGE = "too_large"


def search_notices(config: RunConfig, space: SearchSpace, memory: MemoryModel | None) -> tuple[Notice, ...]:
    """All of them.

    Args:
        config: of the run.
        space: that is searched, for trials of the size that they have.
        memory: says what fits; None where that is not known.
    """
    return (*_moved(config, space), *_merged(space), *about_memory(space, memory))


def _moved(config: RunConfig, space: SearchSpace) -> Iterator[Notice]:
    """Configs that the user wants to be tried and that the space does not hold."""
    given = config.search.seed_configs
    if given is None:
        reads_standard = get_preset(config.search.preset).seed_configs
        if config.standard is None or not reads_standard or _holds(space, config.standard):
            return
        nearest = space.config(seed_indices(space, [config.standard])[0])
        text = (
            "the standard settings are no candidate of the space, so the nearest one is tried first: "
            f"{show_config(nearest)}. At the end, they are trained as they are"
        )
        yield Notice("search", "standard_not_in_space", text)
        return
    missing = [seed for seed in given if not _holds(space, seed)]
    if missing:
        nearest = space.config(space.nearest(missing[0]))
        text = (
            f"{len(missing)} of {len(given)} search.seed_configs are no candidates of the space, so the "
            f"nearest are tried: {show_config(nearest)} in the place of {show_config(with_alpha(missing[0]))}"
        )
        yield Notice("search", "seed_configs_moved", text, len(missing))


def _holds(space: SearchSpace, config: Mapping[str, Value]) -> bool:
    """Whether a candidate has all values of the config, in the knobs that the space has."""
    full, nearest = with_alpha(config), space.config(seed_indices(space, [config])[0])
    return all(math.isclose(full[name], nearest[name], rel_tol=1e-9) for name in space.names if name in full)


def _merged(space: SearchSpace) -> Iterator[Notice]:
    """Batches larger than a trial's data: in a trial they train alike."""
    limit = space.batch_limit
    if limit is None or "batch_size" not in space.names:
        return
    values = space["batch_size"].values
    larger = [value for value in values if value > limit]
    if larger:
        which, n = ", ".join(map(show_value, larger)), len(values)
        text = (
            f"{len(larger)} of {n} values of batch_size ({which}) are more than the {limit:,} examples "
            "of a trial, where they train like a batch of all; raise data.proxy, or leave them out"
        )
        yield Notice("search", "batches_merged", text, len(larger))


def about_memory(space: SearchSpace, memory: MemoryModel | None) -> Iterator[Notice]:
    """What is left out for want of memory; `memory` is None where that is not known."""
    found = None if memory is None else left_out(memory, space)
    if found is not None:
        yield Notice("search", TOO_LARGE, found[1], found[0])
