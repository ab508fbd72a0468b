"""The kinds of adapters that a run trains: one, or one for each variant and targets that its knobs name.

Each is tried on the model before anything is trained (`probe.py`), and has a memory plan of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from loracle.config.knobs import ADAPTER, MEMORY, without_adapter
from loracle.config.settings import RunConfig, build_space
from loracle.config.training.plan import settings_with
from loracle.config.training.settings import TrainingConfig
from loracle.errors import ConfigError, ModelError
from loracle.records.notices import Notice, gathered
from loracle.records.space import Config, Value
from loracle.training.model.base_model import Base
from loracle.training.model.batching import Tokens, check_blocks
from loracle.training.model.probe import Probed, probe
from loracle.training.model.targets import resolved_targets
from loracle.training.optimizer import check_optimizer

_MOST = 24  # kinds: each takes some steps, a saved adapter and a count of memory

Names = tuple[tuple[str, str], ...]  # knob and name, of the knobs that a space has


@dataclass(frozen=True)
class Kinds:
    """What a run's adapters are like, by the names that its knobs have.

    Attributes:
        by_names: what the probe found of each kind.
        base: with `reading`, `writing`, `continuing` and `packing` as the model allows them.
        notices: what the user must see of all of them.
        adapted: names of what has an adapter in any of them.
    """

    by_names: Mapping[Names, Probed]

    @property
    def base(self) -> Base:
        return next(iter(self.by_names.values())).base

    @property
    def notices(self) -> tuple[Notice, ...]:
        return gathered(*(found.notices for found in self.by_names.values()))

    @property
    def adapted(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for found in self.by_names.values() for name in found.adapted))

    def settings(self, config: Mapping[str, Value]) -> TrainingConfig:
        """The settings of a config's training, with the targets that its model has for them."""
        found = self.by_names[names_of(config, ADAPTER)].settings
        return settings_with(found, without_adapter(config))

    def for_memory(self, config: RunConfig) -> Iterator[tuple[Names, TrainingConfig, bool]]:
        """Settings that differ in what they take of memory, and whether their adapters can have dropout."""
        names = named(config, MEMORY)
        for own in names:
            found = self.by_names[tuple(pair for pair in own if pair[0] in ADAPTER)]
            others: Config = {name: value for name, value in own if name not in ADAPTER}
            yield own, settings_with(found.settings, others), found.dropout


def names_of(config: Mapping[str, Value], knobs: tuple[str, ...]) -> Names:
    """Those names of a config that these knobs have."""
    return tuple((knob, str(config[knob])) for knob in knobs if knob in config)


def named(config: RunConfig, knobs: tuple[str, ...]) -> list[Names]:
    """The combinations of names of these knobs that the candidates and the standard settings have.

    One that is empty where the space has none of the knobs.

    Raises:
        ConfigError: there are too many to be tried.
    """
    space = build_space(config.space)
    there = [knob for knob in knobs if knob in space.names]
    if not there:
        return [()]
    places = dict(zip(space.names, space.positions(space.candidates), strict=True))
    found = {
        tuple((knob, str(space[knob].values[i])) for knob, i in zip(there, row, strict=True)): None
        for row in sorted(set(zip(*(places[knob].tolist() for knob in there), strict=True)))
    }
    standard = names_of(config.standard or {}, tuple(there))
    found = {**({standard: None} if len(standard) == len(there) else {}), **found}
    if knobs == ADAPTER and len(found) > _MOST:
        raise ConfigError(
            f"space: {len(found)} combinations of {' and '.join(there)} are more than the {_MOST} that are "
            "tried before the first trial; leave some out"
        )
    return list(found)


def try_kinds(base: Base, config: RunConfig, tokens: Tokens, *, writes: bool, chooses: bool) -> Kinds:
    """Tries each kind of adapter that a run may train; the arguments are those of `probe`.

    Raises:
        ConfigError, ModelError: of the first that cannot be trained, with its names; see `probe`.
    """
    found: dict[Names, Probed] = {}
    dropout = _largest_dropout(config)
    for own in named(config, ADAPTER):
        with _named_in_errors(own):
            settings = resolved_targets(base, settings_with(config.training, dict(own)))
            found[own] = probe(
                base,
                settings,
                tokens,
                dropout=dropout,
                writes=writes,
                chooses=chooses,
                packs=config.data.packing,
            )
        base = found[own].base
    return Kinds(found)


def _largest_dropout(config: RunConfig) -> float:
    """Of all that a trial or the standard may have."""
    space = build_space(config.space)
    standard = config.standard or {}
    knob = space["dropout"].values if "dropout" in space.names else ()
    return max([float(standard.get("dropout", 0.0)), *map(float, knob)])


def check_kinds(base: Base, config: RunConfig) -> None:
    """Raises ConfigError where the model lacks the targets of a trial, or a package its optimizer, and
    ModelError where it cannot read blocks as long as the run's."""
    for own in named(config, ADAPTER):
        with _named_in_errors(own):
            resolved_targets(base, settings_with(config.training, dict(own)))
    check_optimizers(config)
    if config.data.packing:
        check_blocks(base, base.texts.longest(config.data))


def check_optimizers(config: RunConfig) -> None:
    """Raises ConfigError where the package of an optimizer that a trial may have is not installed."""
    for own in named(config, ("optimizer",)):
        check_optimizer(settings_with(config.training, dict(own)))


@contextmanager
def _named_in_errors(names: Names) -> Iterator[None]:
    """Puts the names of knobs, if there are some, before what went wrong with them."""
    try:
        yield
    except (ConfigError, ModelError) as error:
        if not names:
            raise
        kind = ModelError if isinstance(error, ModelError) else ConfigError
        raise kind(f"space: {', '.join(map(' '.join, names))}: {error}") from None
