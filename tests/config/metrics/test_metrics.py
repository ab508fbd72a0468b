from __future__ import annotations

from pathlib import Path

import pytest
from places import PACKAGE

from loracle.config.loading import parse_config
from loracle.config.metrics import (
    METRICS,
    OWN_METRICS,
    Metric,
    known_metrics,
    metric_of,
    show_loss,
)
from loracle.config.metrics.settings import ScoringConfig
from loracle.errors import ConfigError


def test_scores_read_as_their_metric_does() -> None:
    less = {name for name in (*METRICS, *OWN_METRICS) if metric_of(name).read(-1.25) == 1.25}
    assert less == {"loss", "perplexity", "bits_per_byte", "cost"}
    shown = {name: metric_of(name).show(-0.125) for name in ("loss", "exact_match", "value", "cost")}
    assert shown == {"loss": "0.1250", "exact_match": "-12.5 %", "value": "-0.125", "cost": "0.125"}
    assert metric_of("choice_accuracy").title == "choice accuracy"
    assert (metric_of("bleu").title, metric_of("bleu").show(31.26)) == ("BLEU", "31.3")
    assert len(show_loss(1e300)) < 12
    shown_losses = [show_loss(x) for x in (0.0, 4.1e-5, 6e-5, 0.67214, 1e6, 1.2345e7, float("inf"))]
    assert shown_losses == ["0.0000", "4.1e-5", "0.0001", "0.6721", "1e6", "1.234e7", "inf"]
    with pytest.raises(KeyError):
        metric_of("accuracy")


def test_metrics_that_judge_say_how_right_an_answer_is() -> None:
    for name in ("exact_match", "choice_accuracy"):
        assert METRICS[name].judge("a", "a")
        assert not METRICS[name].judge("b", "a")
    assert not METRICS["exact_match"].judge(None, "a")
    with pytest.raises(NotImplementedError, match="loss judges no answers"):
        METRICS["loss"].judge("a", "a")


@pytest.mark.parametrize("metric", [*METRICS.values(), *OWN_METRICS.values()], ids=lambda metric: metric.name)
def test_every_metric_says_what_it_needs(metric: Metric) -> None:
    assert metric.judges == (metric.needs in ("writing", "choices"))
    assert (metric.needs == "nothing") == (metric.name in OWN_METRICS)
    assert bool(metric.unit) == (metric.name in METRICS)


@pytest.mark.parametrize(
    ("scoring", "said"),
    [
        ("{metric: accuracy}", "scoring.metric: there is no such metric; did you mean 'label_accuracy' or "),
        ("{metric: value}", "scoring.metric: input should be one of loss, perplexity, "),
        ("{metrics: [loss, rogue_l]}", "scoring.metrics.1: there is no such metric; did you mean 'rouge_l'?"),
        ("{metric: exact_match, normalise: [spaces]}", "scoring.normalise.0: input should be 'case', "),
        ("{normalise: [case]}", "scoring: normalise belongs to a metric that compares answers: exact_match"),
        ("{metric: macro_f1, labels: [a]}", "scoring: labels are two or more different texts; got ['a']"),
        ("{metric: loss, labels: [a, b]}", "scoring: labels belong to a metric of labels"),
        ("{answer_at: middle}", "scoring.answer_at: input should be 'first' or 'last'; got 'middle'"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(scoring: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f"model: m\ndata: {{train: t.jsonl}}\nscoring: {scoring}\n")
    assert str(caught.value).startswith(f"config:3: {said}")
    assert "\n" not in str(caught.value)


def test_a_metric_is_a_name() -> None:
    with pytest.raises(ValueError, match="input should be the name of a metric"):
        ScoringConfig.model_validate({"metric": 1})


def test_the_file_that_init_writes_names_metrics_and_where_all_are() -> None:
    template = (PACKAGE / "config" / "template.yaml").read_text(encoding="utf-8")
    (line,) = [line for line in template.splitlines() if line.startswith("  metric: loss")]
    named = line.partition("#")[2].partition(";")[0].split("|")
    assert [name.strip() in METRICS for name in named] == [True] * 4
    assert "docs/metrics.md" in line


# -- of other packages ------------------------------------------------------------------------------


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another package is installed that has entry points of the group: a metric, one under a wrong name, and
    one that cannot be imported."""
    about = tmp_path / "other-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: other\nVersion: 1.0\n")
    lines = ["length = other_metrics:Length", "width = other_metrics:Length", "depth = not_there:Depth"]
    (about / "entry_points.txt").write_text("\n".join(["[loracle.metrics]", *lines]) + "\n")
    (tmp_path / "other_metrics.py").write_text(
        "from loracle.config.metrics import Share\n"
        "class Length(Share):\n"
        "    name, needs = 'length', 'writing'\n"
        "    def judge(self, answer, reference):\n"
        "        return float(len(answer or '') == len(reference))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("brought")
def test_packages_bring_metrics_by_entry_points() -> None:
    assert ScoringConfig(metric="length").metric == "length"
    assert metric_of("length").judge("ab", "cd") == 1
    assert {"length", "loss"} <= set(known_metrics())
    with pytest.raises(ValueError, match="other_metrics:Length is no metric 'width'"):
        ScoringConfig(metric="width")
    with pytest.raises(ValueError, match=r"'depth' of not_there:Depth cannot be loaded: ModuleNotFoundError"):
        ScoringConfig(metric="depth")
