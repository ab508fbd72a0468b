"""The metrics that there are, by name: those of Loracle, and those that other packages bring.

A package brings a metric by an entry point of the group `loracle.metrics`, whose name is the metric's and
which is a class, or an object, of the kind of `Metric`.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points

from loracle.config.metrics.answers import ChoiceAccuracy, ExactMatch, JsonFields, JsonValid, RougeL, TokenF1
from loracle.config.metrics.corpus import Bleu, ChoiceMacroF1, ChrF, LabelAccuracy, MacroF1
from loracle.config.metrics.elsewhere import JudgeRating, MathEquivalence, PassAt1, elsewhere
from loracle.config.metrics.metric import Metric
from loracle.config.metrics.of_loss import BitsPerByte, Loss, Perplexity
from loracle.config.metrics.trainers import OwnCost, OwnValue
from loracle.config.metrics.weighted import weighted
from loracle.errors import ConfigError
from loracle.records.failures import raised

GROUP = "loracle.metrics"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *(Loss(), Perplexity(), BitsPerByte()),
        *(ExactMatch(), ChoiceAccuracy(), TokenF1(), RougeL(), Bleu(), ChrF()),
        *(LabelAccuracy(), MacroF1(), ChoiceMacroF1()),
        *(JsonValid(), JsonFields(), MathEquivalence(), PassAt1(), JudgeRating()),
    )
}
OWN_METRICS: dict[str, Metric] = {metric.name: metric for metric in (OwnValue(), OwnCost())}


def metric_of(name: str) -> Metric:
    """The metric of a run, see `RunConfig.metric`. Raises KeyError where there is none of that name."""
    found = METRICS.get(name) or OWN_METRICS.get(name) or weighted(name, metric_of)
    found = found or elsewhere(name) or _of_package(name)
    if found is None:
        raise KeyError(name)
    return found


@lru_cache(maxsize=100)
def _of_package(name: str) -> Metric | None:
    """The metric of that name that another package brings; None where none does.

    Raises:
        ConfigError: it cannot be loaded, or is no metric.
    """
    for entry in entry_points(group=GROUP, name=name):
        try:
            found = entry.load()
            metric = found() if isinstance(found, type) else found
        except Exception as error:  # foreign code: whatever keeps it from loading is told
            raise ConfigError(
                f"scoring: the metric {name!r} of {entry.value} cannot be loaded: {raised(error)}"
            ) from None
        if not isinstance(metric, Metric) or metric.name != name:
            raise ConfigError(
                f"scoring: {entry.value} is no metric {name!r}; it is made of loracle.config.metrics.Metric"
            )
        return metric
    return None


def known_metrics() -> list[str]:
    """Names of all metrics of trained models."""
    return list(dict.fromkeys([*METRICS, *(entry.name for entry in entry_points(group=GROUP))]))
