from __future__ import annotations

import pytest
from places import PACKAGE

from loracle.config.loading import parse_config
from loracle.config.metrics import METRICS, OWN_METRICS, Metric, metric_of, show_loss
from loracle.config.settings import ScoringConfig
from loracle.errors import ConfigError


def test_scores_read_as_their_metric_does() -> None:
    read = {name: metric_of(name).read(-1.25) for name in (*METRICS, *OWN_METRICS)}
    assert read == {
        "loss": 1.25,
        "exact_match": -1.25,
        "choice_accuracy": -1.25,
        "value": -1.25,
        "cost": 1.25,
    }
    shown = {name: metric_of(name).show(-0.125) for name in ("loss", "exact_match", "value", "cost")}
    assert shown == {"loss": "0.1250", "exact_match": "-12.5 %", "value": "-0.125", "cost": "0.125"}
    assert metric_of("choice_accuracy").title == "choice accuracy"
    assert len(show_loss(1e300)) < 12
    with pytest.raises(KeyError):
        metric_of("accuracy")


def test_metrics_that_judge_say_how_right_an_answer_is() -> None:
    for name in ("exact_match", "choice_accuracy"):
        assert METRICS[name].judge("a", "a")
        assert not METRICS[name].judge("b", "a")
    assert not METRICS["exact_match"].judge(None, None)
    with pytest.raises(NotImplementedError, match="loss judges no answers"):
        METRICS["loss"].judge("a", "a")


@pytest.mark.parametrize("metric", [*METRICS.values(), *OWN_METRICS.values()], ids=lambda metric: metric.name)
def test_every_metric_says_what_it_needs(metric: Metric) -> None:
    assert metric.judges == (metric.needs in ("writing", "choices"))
    assert (metric.needs == "nothing") == (metric.name in OWN_METRICS)
    assert bool(metric.unit) == (metric.name in METRICS)


def test_a_metric_that_is_not_there_is_refused_with_those_that_are() -> None:
    text = "model: m\ndata: {train: t.jsonl}\nscoring: {metric: accuracy}\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    said = "config:3: scoring.metric: input should be 'loss', 'exact_match' or 'choice_accuracy'"
    assert str(caught.value) == f"{said}; got 'accuracy'"
    with pytest.raises(ValueError, match="input should be"):
        ScoringConfig.model_validate({"metric": 1})


def test_the_file_that_init_writes_lists_all() -> None:
    template = (PACKAGE / "config" / "template.yaml").read_text(encoding="utf-8")
    assert f"# {' | '.join(METRICS)}\n" in template
