"""What the search maximises: anything that trains one config and says what came of it; and its fake, a table.

A value depends on the config, the seed, the data and the model alone, so a resumed search sees what an
undisturbed one would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from loracle.errors import SpaceError
from loracle.records.contents import Beginning, Contents
from loracle.records.notices import Notice
from loracle.records.sizes import Sizes
from loracle.records.space import Config, SearchSpace
from loracle.records.trial import Failure, Outcome

Part = Literal["training", "scoring", "writing"]


class Progress(Protocol):
    """Takes how far a part of a trial is. Any call is a sign of life.

    `step` of `total` (0: not known) optimizer steps while training, with the `loss` where there is one;
    examples that are read while scoring, and then those for which the model has written its answer.
    """

    def __call__(self, step: int, total: int, loss: float | None, part: Part = "training", /) -> None: ...


@dataclass(frozen=True)
class Pace:
    """How fast trainings go on a machine, in seconds.

    Attributes:
        step: of an optimizer step, whatever is in its batch.
        example: of a training example, each time that it is seen.
        item_least, item_most: of a scored example.
        other: of a training, for what is neither: the adapter is put on and taken off.
    """

    step: float
    example: float
    item_least: float
    item_most: float
    other: float


@dataclass(frozen=True)
class Report:
    """What an objective says of itself once it is loaded: plain data, as it may be in another process.

    Attributes:
        has_final: whether a final training is more than a trial; else it would only repeat it.
        contents, fingerprint: hash of everything that its trainings are made of, by its name for people, and
            one of all; see `Contents`.
        notices: what the user must see about data and model.
        sizes: how many examples are used; None: the trainer is the user's own.
        memory: what a training needs and what there is, as `training/memory/plan.py` writes and reads it;
            None: not known.
        features: where the candidates' language features are, and what they are made of, as `run/reading.py`
            writes and reads it; None: they were not read here.
        pace: how fast trainings go; None: not known, as no trial need tell it, or trials have told already.
        parameters: how many the base model has; None: not known.
        fraction: of the data, that a trainer of the user's own is asked to use in a trial; None: it is not
            asked, or `sizes` say it.
        together: how many configs are to be trained in one forward pass, where that was found out: as many
            as pay, if that was to be measured, or 1 where several cannot be.
    """

    has_final: bool = True
    contents: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    notices: tuple[Notice, ...] = ()
    sizes: Sizes | None = None
    memory: Mapping[str, Any] | None = None
    features: Mapping[str, Any] | None = None
    pace: Pace | None = None
    parameters: int | None = None
    fraction: float | None = None
    together: int | None = None

    def beginning(self, run: str) -> Beginning:
        """What a run in this folder begins with, or goes on with once it was compared."""
        return Beginning(run, self.contents, self.fingerprint)

    @property
    def part(self) -> str | None:
        """What a trial trains on of what a final training does, as the contents of a run have it; None: not
        known."""
        if self.sizes is not None:
            return f"{self.sizes.proxy} of {self.sizes.train}"
        return None if self.fraction is None else f"{self.fraction:g} of 1"

    @property
    def n_rows(self) -> int | None:
        """Training examples of a trial, or blocks of them; None: the trainer is the user's own."""
        return None if self.sizes is None else self.sizes.trial_rows


class Objective(Protocol):
    """Anything that trains one config and says what came of it.

    Attributes:
        contents: everything that its trainings are made of: what this process has read, as it was then, and
            what each training reads anew, as it is now.
    """

    @property
    def contents(self) -> Contents: ...

    def report(self) -> Report:
        """What a run has to know of it before the first trial."""
        ...

    def run(self, config: Config, *, seed: int, folder: Path, progress: Progress | None = None) -> Outcome:
        """Runs one trial and writes its files into `folder`; its outcome is kept by who asked for it.

        A failed trial is an outcome, no error.
        """
        ...

    def final(
        self,
        config: Config,
        *,
        seed: int,
        folder: Path,
        adapter: Path | None = None,
        progress: Progress | None = None,
    ) -> Outcome:
        """Runs one final training, and saves what it made to `adapter` where it can."""
        ...


@dataclass(frozen=True)
class Asked:
    """A trial that is to be trained together with others, as `Objective.run` has it."""

    config: Config
    seed: int
    folder: Path
    progress: Progress | None = None


@runtime_checkable
class GroupObjective(Objective, Protocol):
    """One that trains several configs in one forward pass where it can."""

    def run_together(self, asked: Sequence[Asked], together: Sequence[Config]) -> list[Outcome]:
        """Runs trials that share their forward pass, and writes their files; an outcome for each.

        `together` are all configs that share it: those that are asked for, and others that have been trained
        so before, without which what is asked for would differ by rounding.
        """
        ...


class TableObjective:
    """Looks values up: for benchmarks and tests.

    Attributes:
        space: the space that indices belong to.
        values: value or failure of each index.
        contents: nothing, as a table does not change.
    """

    contents = Contents("", dict)

    def __init__(self, space: SearchSpace, values: Mapping[int, float | Failure]) -> None:
        self.space = space
        self.values = values

    def report(self) -> Report:
        """Nothing but that it is there."""
        return Report()

    def run(self, config: Config, *, seed: int, folder: Path, progress: Progress | None = None) -> Outcome:
        """The value in the table; `seed`, `folder` and `progress` are not used.

        Raises:
            SpaceError: the table holds nothing for this config.
        """
        index = self.space.index(config)
        if index not in self.values:
            raise SpaceError(f"the table holds no value for index {index} ({dict(config)})")
        found = self.values[index]
        return Outcome(None, failure=found) if isinstance(found, Failure) else Outcome(float(found))

    def final(
        self,
        config: Config,
        *,
        seed: int,
        folder: Path,
        adapter: Path | None = None,
        progress: Progress | None = None,
    ) -> Outcome:
        """The same value; nothing is saved."""
        return self.run(config, seed=seed, folder=folder)
