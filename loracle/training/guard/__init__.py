"""What must not be lost: its rows, what the base model scores on them, and what a trained one does."""

from __future__ import annotations

from loracle.training.guard.guard import Guard, load_guards

__all__ = ["Guard", "load_guards"]
