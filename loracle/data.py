"""Datasets: files in their roles, automatic splits, nested subsets."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loracle.config import DataConfig
from loracle.errors import DataError
from loracle.examples import Example
from loracle.rows import read_examples

Indices = npt.NDArray[np.int64]

_SPLIT_STREAM, _PROXY_STREAM = 1, 2  # one seed, independent random streams


@dataclass(frozen=True)
class Splits:
    """Examples to train on, to choose by and to report on; `fingerprint` is the sha256 of all of them."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    fingerprint: str


def load_splits(config: DataConfig, seed: int) -> Splits:
    """Reads all files and splits off what has no file of its own, by seed.

    Identical rows never stand on both sides of an automatic split.

    Raises:
        DataError: a missing or malformed file, a row of a wrong or another form, one file in two roles,
            or an empty split.
    """
    files = {"train": config.train, "validation": config.validation, "test": config.test}
    given = {name: path for name, path in files.items() if path is not None}
    _refuse_shared_files(given)
    parts = {name: read_examples(path, config.format, f"data.{name}") for name, path in given.items()}
    for examples in parts.values():
        if examples[0].form != parts["train"][0].form:
            raise DataError(
                f"{examples[0].source}: rows are {examples[0].form}, but those of {config.train} are "
                f"{parts['train'][0].form}; all files need one form"
            )
    shares = {"test": config.test_fraction, "validation": config.validation_fraction}
    wanted = {name: round(share * len(parts["train"])) for name, share in shares.items() if name not in parts}
    for name, size in wanted.items():
        if size == 0:
            raise DataError(
                f"the {name} split is empty: {shares[name]:g} of {len(parts['train'])} examples; "
                f"raise data.{name}_fraction or name a file in data.{name}"
            )
    parts |= _carve(parts["train"], wanted, seed)
    if not parts["train"]:
        raise DataError(
            f"the train split is empty: {config.train} has too few distinct examples for "
            f"{' and '.join(f'data.{name}_fraction={shares[name]:g}' for name in wanted)}"
        )
    digest = hashlib.sha256()
    for name in ("train", "validation", "test"):
        digest.update(json.dumps([name, [e.content for e in parts[name]]]).encode())
    return Splits(parts["train"], parts["validation"], parts["test"], digest.hexdigest())


def proxy_size(n_examples: int, fraction: float, minimum: int) -> int:
    """Number of examples in a proxy: `fraction` of them, rounded up, but at least `minimum`, at most all."""
    return min(n_examples, max(math.ceil(fraction * n_examples - 1e-9), minimum))


def proxy_positions(n_examples: int, fraction: float, minimum: int, seed: int) -> Indices:
    """Sorted positions of a proxy, shape (proxy_size,). With one seed, a smaller proxy lies in a larger."""
    order = np.random.default_rng((_PROXY_STREAM, seed)).permutation(n_examples)
    return np.sort(order[: proxy_size(n_examples, fraction, minimum)]).astype(np.int64)


def _refuse_shared_files(given: Mapping[str, Path]) -> None:
    roles: dict[Path, str] = {}
    for name, path in given.items():
        other = roles.setdefault(path.resolve(), name)
        if other != name:
            raise DataError(
                f"data.{name} and data.{other} are one file ({path}); a model that has seen an example "
                f"cannot be judged by it. Leave out data.{name} for an automatic split"
            )


def _carve(
    examples: tuple[Example, ...], wanted: Mapping[str, int], seed: int
) -> dict[str, tuple[Example, ...]]:
    """Takes splits of at least the wanted sizes out of `examples`, which keep their order."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for position, example in enumerate(examples):
        groups.setdefault(example.content, []).append(position)
    identical = list(groups.values())
    order = iter(np.random.default_rng((_SPLIT_STREAM, seed)).permutation(len(identical)))
    parts: dict[str, tuple[Example, ...]] = {}
    rest = set(range(len(examples)))
    for name, size in wanted.items():
        taken: list[int] = []
        while len(taken) < size and (group := next(order, None)) is not None:
            taken += identical[group]
        rest -= set(taken)
        parts[name] = tuple(examples[i] for i in sorted(taken))
    return parts | {"train": tuple(examples[i] for i in sorted(rest))}
