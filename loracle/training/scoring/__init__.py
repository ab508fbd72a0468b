"""How a trained model is scored: questions made ready, and answered."""

from __future__ import annotations

from loracle.training.scoring.answers import answer, answer_pattern, comparable
from loracle.training.scoring.measuring import Score, score
from loracle.training.scoring.questions import (
    Questions,
    check_scoring,
    check_splits,
    ends_with_reference,
    frame_of_answers,
    needs_of,
    prepare,
)

__all__ = [
    "Questions",
    "Score",
    "answer",
    "answer_pattern",
    "check_scoring",
    "check_splits",
    "comparable",
    "ends_with_reference",
    "frame_of_answers",
    "needs_of",
    "prepare",
    "score",
]
