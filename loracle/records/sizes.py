"""How many examples a run trains and scores on: asked for, left out, used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Overlap:
    """Test examples that the run has seen before it was scored on them, each counted once.

    Attributes:
        items: all test examples that are used.
        rows: those of them that were trained on.
        prompts: others whose prompt was trained on, with another answer.
        chosen: others that the settings were chosen by, or others of the same prompt.
    """

    items: int = 0
    rows: int = 0
    prompts: int = 0
    chosen: int = 0


@dataclass(frozen=True)
class Sizes:
    """Numbers of examples.

    Attributes:
        train: training examples that are used, by the final trainings all of them.
        proxy: how many of those a trial trains on.
        validation: validation examples that are used.
        scored: how many of those score a trial.
        test: test examples that are used.
        dropped: examples left out, by split.
        overlap: test examples that were seen before.
        trial_cost: in full trainings, by which a trial has fewer examples than it else would; None: it has
            as many as the settings say.
        expected: what a trial is expected to cost, in full trainings; None: of runs begun before.
        expected_ends: what it costs at least and at most; None: of runs begun before.
        costs: by the batch size, and the epochs where they are a knob, of a config: these, and what a trial
            of it is expected to cost; empty: of runs begun before.
        blocks: rows of several examples that all training examples make, and those of a trial
            (data.packing); None: each example is a row.
        chats: whether training rows were given as whole chats, and not as prompts and completions.
    """

    train: int
    proxy: int
    validation: int
    scored: int
    test: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    overlap: Overlap = field(default_factory=Overlap)
    trial_cost: float | None = None
    expected: float | None = None
    expected_ends: tuple[float, float] | None = None
    costs: tuple[tuple[float, ...], ...] = ()
    blocks: tuple[int, int] | None = None
    chats: bool = False

    @property
    def rows(self) -> int:
        """What the batches of a training on all examples are made of: examples, or blocks of them."""
        return self.train if self.blocks is None else self.blocks[0]

    @property
    def trial_rows(self) -> int:
        """The same of a trial."""
        return self.proxy if self.blocks is None else self.blocks[1]

    def trials(self, share: float) -> str:
        """What a trial trains on and is scored on, in one sentence without a full stop.

        `share` is what data.proxy asks for.
        """
        text = f"Each trial trained on {self.proxy:,} of {self.train:,} training examples"
        text += f" ({_percent(self.proxy, self.train)})"
        if self.trial_cost is None and self.proxy > math.ceil(share * self.train - 1e-9):
            text += f", as data.proxy_minimum asks for: data.proxy alone would be {100 * share:g} %"
        if self.blocks is not None:
            text += f", packed into {self.trial_rows:,} of {self.rows:,} blocks"
        text += f"; it was scored on {self.scored:,} of {self.validation:,} validation examples"
        if self.trial_cost is not None:
            about = f"about {self.expected:.3g}" if self.expected else f"{self.trial_cost:g}"
            return (
                f"{text}, which cost {about} full trainings in tokens (data.trial_cost {self.trial_cost:g})"
            )
        if self.scored < self.validation:
            text += " (data.validation_limit)"
        return text

    def finals(self) -> str:
        """What a final training trains on and is scored on, in one phrase."""
        train = f"all {self.train:,} training examples"
        if self.dropped.get("train"):
            train = f"{self.train:,} of {self.train + self.dropped['train']:,} training examples"
        test = f"{self.test:,} test examples"
        if self.dropped.get("test"):
            test = f"{self.test:,} of {self.test + self.dropped['test']:,} test examples"
        left_out = (
            ", the others being too long" if self.dropped.get("train") or self.dropped.get("test") else ""
        )
        return f"trained on {train} and scored once on {test}{left_out}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %"
