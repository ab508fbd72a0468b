from __future__ import annotations

from pathlib import Path

import pytest

from loracle.config.metrics.settings import ScoringConfig
from loracle.errors import ConfigError
from loracle.training.judging import mathematics
from loracle.training.judging.mathematics import MathJudge

pytest.importorskip("math_verify")


@pytest.fixture(scope="module")
def judge() -> MathJudge:
    return MathJudge(ScoringConfig(metric="math_equivalence"))


def test_answers_are_compared_as_mathematics(judge: MathJudge) -> None:
    pairs = [
        ("1/2", "0.5", 1),
        (r"\frac{1}{2}", "0.5", 1),
        ("x^2 + 2*x + 1", "(x+1)^2", 1),
        (r"The answer is $\sqrt{8}$.", r"$2\sqrt{2}$", 1),
        ("1,000", "1000", 1),
        ("3", "4", 0),
        ("", "4", 0),
        ("no idea", "4", 0),
        ("(((", "4", 0),
    ]
    found = judge.rate([a for a, _, _ in pairs], [b for _, b, _ in pairs], [{}] * len(pairs))
    assert found == [float(right) for _, _, right in pairs]


def test_what_takes_for_ever_is_wrong_and_the_next_is_compared(
    judge: MathJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mathematics, "SECONDS", 3.0)
    assert judge.rate(["9^{9^{9^{9}}}", "2/4"], ["4", "1/2"], [{}] * 2) == [0, 1]


def test_the_package_is_tried_before_anything_is_trained(
    judge: MathJudge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    judge.check([{"reference": "1/2"}])
    broken = tmp_path / "program.py"
    broken.write_text("import not_there_at_all")
    monkeypatch.setattr(mathematics, "PROGRAM", broken)
    with pytest.raises(ConfigError, match="the package math-verify cannot be loaded"):
        MathJudge(ScoringConfig(metric="math_equivalence")).check([])
