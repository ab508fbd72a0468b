"""What a metric is: what it needs of a model, what an answer gets, how a score comes of it, how it is shown.

Inside the code a score is larger where it is better; a metric that is better when it is less shows it without
the sign. A score is made of sums over items, so that an interval can draw the items anew: a metric gives each
item some numbers (`statistics`) and makes the score of their sums (`combine`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Item = Mapping[str, Any]
Needs = Literal["loss", "writing", "choices", "harness", "parts", "nothing"]

_LARGE = 1e6  # from here on, powers of ten


class Metric:
    """What a score means.

    Attributes:
        name: as settings and results spell it.
        needs: of the trained model: `loss`, that of the references alone; `writing`, what it writes in their
            place; `choices`, the likeliest of several; `harness`, answers to the tasks of lm-evaluation-
            harness; `parts`, what the metrics need that it is the sum of; `nothing`, where a trainer of the
            user's own scores.
        less_is_better: whether it reads without the sign of the score.
        whole: whether an answer that departs from the reference gets nothing, so that the rest need not be
            written.
        normalises: whether answers are compared as `scoring.normalise` has them.
        imitates: whether only what is as long as the reference can be as good.
        labels: whether references are labels, of which there are few.
        proportion: whether a score is a share from 0 to 1.
        has_zero: whether 0 stands for nothing at all, so that one score can be so many times another.
        counts_bytes: whether items need the `bytes` of the text of their tokens that count.
        package: of Python, that it needs beside Loracle's own, and the extra that brings it.
        judge_module: where its answers are judged, under `loracle.training.judging`; empty: by itself.
        table: whose items it is about; empty: the rows of the data.
        scale, unit: by how much a difference of scores is multiplied for people, and what it then is.
        axis: of a figure.
    """

    name: str
    needs: ClassVar[Needs]
    less_is_better: bool = False
    whole: ClassVar[bool] = False
    normalises: ClassVar[bool] = False
    imitates: ClassVar[bool] = True
    labels: ClassVar[bool] = False
    proportion: ClassVar[bool] = False
    has_zero: ClassVar[bool] = True
    counts_bytes: ClassVar[bool] = False
    package: ClassVar[tuple[str, str] | None] = None
    judge_module: ClassVar[str] = ""
    table: str = ""
    scale: ClassVar[float] = 1.0
    unit: ClassVar[str] = ""

    @property
    def judges(self) -> bool:
        """Whether answers are judged, each by itself."""
        return self.needs in ("writing", "choices")

    @property
    def title(self) -> str:
        """Its name for people: `exact match`."""
        return self.name.replace("_", " ")

    @property
    def axis(self) -> str:
        """What stands at the axis of a figure."""
        return self.title

    # -- of answers ---------------------------------------------------------------------------------

    def judge(self, answer: str | None, reference: str) -> float:
        """How right an answer is, from 0 to 1, or whether it is; None: none was found in what was written."""
        raise NotImplementedError(f"{self.name} judges no answers")

    def rate(
        self, answers: Sequence[str | None], references: Sequence[str], labels: Sequence[str] = ()
    ) -> list[Any]:
        """What each answer gets, as `statistics` reads it, in plain JSON data.

        `labels`: those that there are, for metrics of labels.
        """
        return [self.judge(*pair) for pair in zip(answers, references, strict=True)]

    def reference_problem(self, reference: str) -> str | None:
        """What keeps a reference from being compared with, in a few words."""
        return None

    # -- of scores ----------------------------------------------------------------------------------

    def statistics(self, items: Sequence[Item]) -> Floats | None:
        """Numbers of each item, (n, k); None where a score is no matter of items.

        Those of a mean: what the item got, and 1.
        """
        return np.array([(float(rating_of(item, self.name)), 1.0) for item in items])

    def combine(self, sums: Floats) -> Floats:
        """Scores (larger is better) of sums of statistics, (..., k) to (...)."""
        found: Floats = sums[..., 0] / sums[..., 1]
        return found

    def score(self, items: Sequence[Item]) -> float | None:
        """The score of these items; None where it is no matter of items."""
        statistics = self.statistics(items)
        return None if statistics is None else float(self.combine(statistics.sum(axis=0)))

    # -- for people ---------------------------------------------------------------------------------

    def read(self, value: float) -> float:
        """A score as the metric reads."""
        return (-value if self.less_is_better else value) + 0.0  # no zero has a sign

    def show(self, value: float) -> str:
        """A score in words, with its unit."""
        return self.number(self.read(value))

    def number(self, reading: float) -> str:
        """What the metric reads, without its unit."""
        return f"{reading:z.6g}"


class Share(Metric):
    """A mean of what answers get, in per cent."""

    proportion, scale, unit = True, 100.0, "points"

    def show(self, value: float) -> str:
        return f"{self.number(value)} %"

    def number(self, reading: float) -> str:
        return f"{100 * reading:z.1f}"


def note_rating(item: dict[str, Any], name: str, rating: Any, *, optimised: bool) -> None:
    """Writes what an item got by a metric where `rating_of` finds it."""
    if optimised and isinstance(rating, bool | int | float):
        item["correct"] = rating
    else:
        item.setdefault("scores", {})[name] = rating


def rating_of(item: Item, name: str) -> Any:
    """What an item got by a metric. `correct` is what it got by the one that is optimised."""
    scores = item.get("scores", {})
    return scores[name] if name in scores else item["correct"]


def show_loss(loss: float, decimals: int = 4) -> str:
    """A loss with its decimals; a huge one, or one that they would make zero, as a power of ten."""
    if 0.5 * 10**-decimals <= abs(loss) < _LARGE or loss == 0 or not math.isfinite(loss):
        return f"{loss:z.{decimals}f}"
    mantissa, exponent = f"{loss:.{1 if abs(loss) < 1 else 3}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
