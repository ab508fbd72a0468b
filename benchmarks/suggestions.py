"""How good is the answer before the first trial? The config that `loracle suggest` gives, on every landscape.

    python benchmarks/suggestions.py            # prints a table, writes results/suggestions.json
    python benchmarks/suggestions.py --store    # and notes in the shipped prior how near such answers come

A prior that has not seen the landscape's sweep or base model answers for a model of its size, with one of the
configs that were trained. Beside it: the usual settings, the first config of a sweep by hand, and the rate of
Tinker's cookbook for the vendors that it knows, at the highest rank. Regret: 0 is the best config of a
landscape, 1 the median one; a family counts with its mean over landscapes.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from expert_methods import HandMethod, nearest_rows
from landscape_data import Landscape, load_landscapes
from pretrain import sweep_of
from safetensors.numpy import load_file, save_file
from search import about, regret
from search_methods import FACTORY, Start, table_space, unseen_prior
from search_report import group_of

from loracle.records.standard_settings import STANDARD
from loracle.search.presets import EnsembleSettings
from loracle.search.prior import SHIPPED, load_prior
from loracle.search.suggestion.answer import worth
from loracle.text.files import write_atomically

RESULTS = SHIPPED.parents[3] / "benchmarks" / "results" / "suggestions.json"


def suggested(start: Start) -> int:
    """What is suggested for a model of this size, among the candidates."""
    settings = EnsembleSettings(prior=unseen_prior(start), parameters=start.landscape.parameters)
    return int(start.space.candidates[np.argmax(worth(start.space, settings))])


def usual(start: Start) -> int:
    """The usual settings, or the candidate that is nearest to them."""
    return nearest(start, STANDARD)


def by_hand(start: Start) -> int:
    """The first config of a sweep by hand."""
    return HandMethod(start).first[0]


def tinkers(start: Start) -> int | None:
    """Tinker's formula: a learning rate by width and vendor (`get_lr`, tinker-cookbook); None elsewhere.

    5e-5 x 10 for LoRA, times (2000 / width) to the power 0.781 for Llama and 0.0775 for Qwen.
    """
    name = start.landscape.name.lower()
    powers = {"llama": 0.781, "qwen": 0.0775}
    power = next((p for vendor, p in powers.items() if vendor in name), None)
    width = next((w for part, w in _WIDTHS.items() if part in name), None)
    if power is None or width is None:
        return None
    rate = 5e-4 * (2000 / width) ** power
    ranks = start.space.values(start.space.candidates)["rank"]
    return nearest(start, {**STANDARD, "rank": float(ranks.max()), "learning_rate": rate})


# Hidden sizes as the models' configs state them.
_WIDTHS = {
    "llama-3.2-1b": 2048,
    "llama-3.2-3b": 3072,
    "llama-3.1-8b": 4096,
    "qwen3-4b": 2560,
    "qwen3-8b": 4096,
    "qwen3-235b": 4096,
    "qwen3-vl-235b": 4096,
    "qwen3-vl-30b": 2048,
}
ANSWERS: dict[str, Callable[[Start], int | None]] = {
    "suggested": suggested,
    "usual settings": usual,
    "first by hand": by_hand,
    "Tinker's formula": tinkers,
}


def nearest(start: Start, config: dict[str, Any]) -> int:
    """The candidate that is nearest to a config."""
    return int(start.space.candidates[nearest_rows(start.space, [config])[0]])


def measured() -> Iterator[dict[str, Any]]:
    """The regret of each answer on each landscape."""
    for landscape in load_landscapes(["rows", "real", "table"]):
        start = Start(landscape, table_space(landscape), FACTORY, 0)
        for name, answer in ANSWERS.items():
            if (index := answer(start)) is not None:
                yield {
                    "landscape": landscape.name,
                    "family": family_of(landscape),
                    "answer": name,
                    "regret": round(regret(landscape, index), 4),
                }


def family_of(landscape: Landscape) -> str:
    """The base model, or the published sweep."""
    return (
        sweep_of(landscape.family)
        if landscape.may_train
        else f"{group_of(landscape.name)} {landscape.family}"
    )


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each answer: regret of each family, the median one, nine of ten, the worst."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["answer"]][row["family"]].append(row["regret"])
    told = {}
    for answer, families in found.items():
        means = {family: round(float(np.mean(regrets)), 3) for family, regrets in families.items()}
        values = np.array(list(means.values()))
        told[answer] = {
            "families": len(means),
            "median": round(float(np.median(values)), 3),
            "nine of ten": round(float(np.quantile(values, 0.9, method="higher")), 3),
            "worst": round(float(values.max()), 3),
            "by family": means,
        }
    return told


def store(told: dict[str, Any]) -> None:
    """Notes in the shipped prior how near its answers come."""
    provenance = dict(load_prior().provenance)
    provenance["suggestions"] = {
        "families": told["families"],
        "typical": told["median"],
        "within": told["nine of ten"],
    }
    save_file(load_file(SHIPPED), SHIPPED, metadata={"provenance": json.dumps(provenance)})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", action="store_true", help="in the shipped prior, too")
    arguments = parser.parse_args()
    rows = list(measured())
    told = summary(rows)
    print("| answer | families | median | nine of ten | worst |\n|---|---|---|---|---|")
    for answer, found in told.items():
        cells = [f"{found[name]:.3f}" for name in ("median", "nine of ten", "worst")]
        print(f"| {answer} | {found['families']} | {' | '.join(cells)} |")
    content = {"about": about("scipy"), "summary": told, "rows": rows}
    write_atomically(RESULTS, json.dumps(content, indent=1) + "\n")
    if arguments.store:
        store(told["suggested"])


if __name__ == "__main__":
    main()
