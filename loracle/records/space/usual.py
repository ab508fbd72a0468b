"""The spaces that Loracle has: the published one, and the one that published evidence supports."""

from __future__ import annotations

from loracle.records.space.knob import Knob
from loracle.records.space.search_space import SearchSpace


def paper_space() -> SearchSpace:
    """The published space of arXiv 2602.11171: 45,360 configs."""
    return SearchSpace(
        (
            Knob("rank", (1, 2, 4, 8, 16, 32, 64, 128, 256), "log2"),
            Knob("alpha_ratio", (0.5, 1, 2, 4, 8, 16, 32, 64, 128), "log2"),
            Knob("dropout", (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)),
            Knob("batch_size", (2, 4, 8, 16, 32, 64, 128, 256), "log2"),
            Knob(
                "learning_rate",
                (1e-6, 5e-6, 2e-5, 3e-5, 5e-5, 1e-4, 3e-4, 4e-4, 5e-4, 5e-3),
                "log10",
            ),
        )
    )


def default_space() -> SearchSpace:
    """The space that published evidence supports; each range cites its fact in `docs/lora-facts.md`.

    Rank 4 to 256: more rank never hurt at a tuned rate and saturates at 64 to 128 (fact 21).
    alpha / rank 0.5 to 32: best runs lie from 0.5 to 32 with the rate matched (facts 17, 18).
    Dropout 0 to 0.1: more has no support (fact 32). Batch 8 to 128: beyond that, quality falls (fact 27).
    Learning rate 1e-5 to 3e-3: 3e-4 is the safe centre, 3e-3 diverges on most large models (facts 1, 2),
    and small models reach it; alpha x learning rate above 0.5 is dead everywhere measured (fact 20).
    """
    return SearchSpace(
        (
            Knob("rank", (4, 8, 16, 32, 64, 128, 256), "log2"),
            Knob("alpha_ratio", (0.5, 1, 2, 4, 8, 16, 32), "log2"),
            Knob("dropout", (0.0, 0.05, 0.1)),
            Knob("batch_size", (8, 16, 32, 64, 128), "log2"),
            Knob("learning_rate", (1e-5, 3e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 3e-3), "log10"),
        ),
        constraints=("alpha * learning_rate <= 0.5",),
    )
