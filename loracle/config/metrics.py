"""The metrics that trials are scored by, one small object each. A new metric is a new object in `METRICS`.

A metric says what it `needs` of the trained model; `training/scoring.py` provides that for every example, and
asks the metric to `judge` it. Everything that writes a score asks the metric to `show` it. Inside the code a
score is larger where it is better; a metric that is better when it is less shows it without the sign.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Needs = Literal["loss", "writing", "choices", "nothing"]

_LARGE = 1e6  # from here on, powers of ten


class Metric:
    """What a score means.

    Attributes:
        name: as settings and results spell it.
        needs: of the trained model: `loss`, that of the references alone; `writing`, what it writes in their
            place; `choices`, the likeliest of several; `nothing`, where a trainer of the user's own scores.
        less_is_better: whether it reads without the sign of the score.
        whole: whether an answer that departs from the reference gets nothing, so that the rest need not be
            written.
        scale, unit: by how much a difference of scores is multiplied for people, and what it then is.
        axis: of a figure.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]
    less_is_better: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    scale: ClassVar[float] = 1.0
    unit: ClassVar[str] = ""

    @property
    def judges(self) -> bool:
        """Whether answers are judged, each by itself; then a value is the mean of what they get."""
        return self.needs in ("writing", "choices")

    @property
    def title(self) -> str:
        """Its name for people: `exact match`."""
        return self.name.replace("_", " ")

    @property
    def axis(self) -> str:
        """What stands at the axis of a figure."""
        return self.title

    def judge(self, answer: str | None, reference: str | None) -> float:
        """How right an answer is, from 0 to 1, or whether it is; None: none was found in what was written."""
        raise NotImplementedError(f"{self.name} judges no answers")

    def read(self, value: float) -> float:
        """A score as the metric reads."""
        return -value if self.less_is_better else value

    def show(self, value: float) -> str:
        """A score in words, with its unit."""
        return self.number(self.read(value))

    def number(self, reading: float) -> str:
        """What the metric reads, without its unit."""
        return f"{reading:.6g}"


class Loss(Metric):
    """Mean loss over the tokens that count, in nats."""

    name, needs, less_is_better, unit = "loss", "loss", True, "nats a token"

    @property
    def axis(self) -> str:
        return "validation loss"

    def number(self, reading: float) -> str:
        return show_loss(reading)


class _Share(Metric):
    """A mean of what answers get, in per cent."""

    scale, unit = 100.0, "points"

    def show(self, value: float) -> str:
        return f"{self.number(value)} %"

    def number(self, reading: float) -> str:
        return f"{100 * reading:.1f}"


class ExactMatch(_Share):
    """The share of predictions whose answer is that of the reference."""

    name, needs, whole = "exact_match", "writing", True

    def judge(self, answer: str | None, reference: str | None) -> bool:
        return answer is not None and answer == reference


class ChoiceAccuracy(_Share):
    """The share of examples whose reference is the likeliest of its choices.

    That is the choice of the highest total log-likelihood, end-of-sequence included: the one that sampling
    would give most often.
    """

    name, needs = "choice_accuracy", "choices"

    def judge(self, answer: str | None, reference: str | None) -> bool:
        return answer == reference


class OwnValue(Metric):
    """What a trainer of the user's own gives, shown as it is."""

    name, needs = "value", "nothing"


class OwnCost(OwnValue):
    """The same, where less is better."""

    name, less_is_better = "cost", True


METRICS: dict[str, Metric] = {metric.name: metric for metric in (Loss(), ExactMatch(), ChoiceAccuracy())}
OWN_METRICS: dict[str, Metric] = {metric.name: metric for metric in (OwnValue(), OwnCost())}


def metric_of(name: str) -> Metric:
    """The metric of a run, see `RunConfig.metric`. Raises KeyError where there is none of that name."""
    return METRICS[name] if name in METRICS else OWN_METRICS[name]


def show_loss(loss: float, decimals: int = 4) -> str:
    """A loss with its decimals; a huge one as a power of ten."""
    return f"{loss:.{decimals}f}" if abs(loss) < _LARGE else f"{loss:.4g}"
