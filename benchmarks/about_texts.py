"""What a user would say of each landscape, in words and in numbers, and how far apart two are by each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from context_shift import places
from landscape_data import OWN, Floats, Indices, Landscape, load_landscapes
from pretrain import sweep_of
from search_language import language_model
from search_methods import table_space

from loracle.search.prior import describe

HIDDEN = 0.3  # of a landscape's configs, by a seed
NUMBERS, LANGUAGE = 0, 1  # in an array of distances
# What a user would say of a task and its base model; written before anything was measured.
TASKS = {
    "sorting": "Sort the letters of a short string in alphabetical order.",
    "carrying": "Add two numbers and one more, under a sign that the model has not seen.",
    "verdict": "Read a review of two clauses and say whether it is good, bad or mixed.",
    "strangers": "Learn facts about a hundred people, and answer questions about them in other words.",
    "code": "Continue Python source code, as free text.",
    "hyphens": "Write an English word with hyphens where a line may break.",
    "sections": "Choose one of fourteen sections for a Debian package from a line that describes it.",
    "tinker_sft": "Follow instructions of all kinds in chats, learnt from Tulu 3.",
    "gemma_metamath": "Solve math word problems step by step, learnt from MetaMathQA.",
    "metamath10k": "Solve math word problems step by step, learnt from MetaMathQA.",
}
BASES = {
    "llama-letters": "a tiny Llama that knows operations on strings of letters",
    "gpt2-numbers": "a tiny GPT-2 that knows sums and differences of numbers",
    "olmo2-reviews": "a tiny OLMo 2 that knows sentences of reviews",
    "stablelm-people": "a tiny StableLM that knows facts about people",
    "neox-english": "a tiny GPT-NeoX that knows English docstrings",
    "gemma-3-270m": "google/gemma-3-270m",
    "lrmatters": "google/gemma-3-1b",
    "kaist": "a model stronger than Llama-2-7B",
}
METRICS = {
    "exact_match": "exact match",
    "acc_pct": "exact match",
    "total_accuracy": "exact match",
    "choice_accuracy": "the share of right choices",
    "loss": "loss",
    "test_nll": "loss",
}
SHAPES = {"gemma-3-270m": (640, 18), "lrmatters": (1152, 26)}  # width, depth
STRONGER = 7e9  # parameters of "a model stronger than Llama-2-7B"
EXAMPLES = {"gemma_metamath": 100_000, "metamath10k": 10_000}


@dataclass(frozen=True)
class Place:
    """A landscape, what is said of it, and its numbers, (6,): logarithms, NaN where not known."""

    landscape: Landscape
    kind: str
    text: str
    numbers: Floats

    @property
    def family(self) -> str:
        return sweep_of(self.landscape.family)

    @cached_property
    def described(self) -> Floats:
        """All candidates as numbers, (n, 5)."""
        return describe(table_space(self.landscape))

    def kept(self, seed: int) -> Indices:
        """Candidates that a seed does not hide."""
        n = len(self.landscape.candidates)
        return np.sort(np.random.default_rng([seed, 5]).permutation(n)[: round((1 - HIDDEN) * n)])


def described_places() -> list[Place]:
    """All landscapes: our own, also on parts of the data and in other contexts, Gemma's, and tables."""
    tasks = json.loads((OWN / "provenance.json").read_text(encoding="utf-8"))["tasks"]
    families = {told["family"]: name for name, told in tasks.items()}
    found = []
    for place in places():
        one = place.landscape
        if place.kind == "real":
            task, shape, examples, epochs, length = one.name.split(":")[1], SHAPES[one.family], 200.0, 1.0, ""
        else:
            task = families[one.family]
            shape, epochs, length = (tasks[task]["width"], tasks[task]["layers"]), tasks[task]["epochs"], ""
            examples = place.seen / epochs
        if place.kind == "contexts":  # llama-letters-64x2:500x4:long
            base, data, length = one.name.split(":")
            shape = tuple(map(int, base.rpartition("-")[2].split("x")))
            examples, epochs = map(float, data.split("x"))
            one = replace(one, metric="loss")  # by which contexts are judged
        found.append(_place(one, place.kind, task, shape, examples, epochs, length))
    for one in load_landscapes(["table"]):
        file = one.name.partition(":")[0]
        shape = SHAPES.get(one.family, (np.nan, np.nan))
        one = replace(one, parameters=one.parameters or STRONGER)
        found.append(_place(one, "table", file, shape, EXAMPLES.get(file, np.nan), np.nan, ""))
    return found


def _place(
    one: Landscape, kind: str, task: str, shape: Sequence[float], examples: float, epochs: float, length: str
) -> Place:
    text = [TASKS[task]]
    if np.isfinite(examples):
        times = {1.0: "once", 2.0: "twice"}.get(epochs, f"{epochs:g} times")
        seen = f", seen {times}" if np.isfinite(epochs) else ""
        text.append(f"{examples:,.0f} {length} examples{seen}.".replace("  ", " "))
    text.append(f"Scored by {METRICS[one.metric]}.")
    parts = one.name.split(":")
    base = BASES.get(one.family) or parts[2]
    variant = f" with {parts[-1]}" if kind == "table" and len(parts) == 3 and task != "tinker_sft" else ""
    size = f", {one.parameters:,.0f} parameters" if base.startswith("a tiny") and one.parameters else ""
    text.append(f"Base model: {base}{size}{variant}.")
    logs = np.log10([one.parameters or np.nan, *shape, examples, epochs])
    return Place(one, kind, " ".join(text), np.append(logs, METRICS[one.metric] == "loss"))


def distances(found: Sequence[Place]) -> Floats:
    """By numbers and by words, (2, P, P), each in units of its mean over pairs of two families."""
    numbers = np.array([place.numbers for place in found])
    scaled = (numbers - np.nanmean(numbers, axis=0)) / np.nanstd(numbers, axis=0)
    by_number = np.nanmean((scaled[:, None] - scaled[None]) ** 2, axis=2)
    vectors = language_model().encode([place.text for place in found]).numpy().astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    families = np.array([place.family for place in found])
    others = families[:, None] != families[None]
    return np.stack([one / one[others].mean() for one in (by_number, 1 - vectors @ vectors.T)])
