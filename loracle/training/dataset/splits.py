"""Datasets: files in their roles, automatic splits, nested subsets."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loracle.config.data.settings import DataConfig
from loracle.config.data.sources import HubDataset, described
from loracle.errors import DataError
from loracle.records.notices import Notice
from loracle.records.sizes import Overlap
from loracle.training.dataset.files.places import files_of
from loracle.training.dataset.files.reading import read_examples
from loracle.training.dataset.notices import FEWEST, about_rows, require_enough
from loracle.training.dataset.shapes import Example

Indices = npt.NDArray[np.int64]

_SPLIT_STREAM, _PROXY_STREAM = 1, 2  # one seed, independent random streams


@dataclass(frozen=True)
class Splits:
    """Examples to train on, to choose by and to report on.

    Attributes:
        fingerprint: sha256 of all that they hold, in their order.
        notices: what the user must see about them.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    fingerprint: str
    notices: tuple[Notice, ...] = ()

    @property
    def parts(self) -> dict[str, tuple[Example, ...]]:
        """The examples by the name of their split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def load_splits(config: DataConfig, seed: int) -> Splits:
    """Reads all files and splits off what has no file of its own, by seed.

    Rows with one prompt never stand on both sides of an automatic split, whose rows share no prompt with a
    file of another role either. Files that share rows or prompts are told of.

    Raises:
        DataError: a missing or malformed file, a row of a wrong or another form, one file in two roles,
            or a split of fewer than two rows.
    """
    files = {"train": config.train, "validation": config.validation, "test": config.test}
    given = {name: path for name, path in files.items() if path is not None}
    _refuse_shared_files(given)
    told: list[Notice] = []
    parts = {name: read_examples(source, config, name, told) for name, source in given.items()}
    named = described(config.train)
    for examples in parts.values():
        if examples[0].form != parts["train"][0].form:
            raise DataError(
                f"{examples[0].source}: rows are {examples[0].form}, but those of {named} are "
                f"{parts['train'][0].form}; all files need one form"
            )
    shares = {"test": config.test_fraction, "validation": config.validation_fraction}
    wanted = {name: round(share * len(parts["train"])) for name, share in shares.items() if name not in parts}
    for name, size in wanted.items():
        hint = f"raise data.{name}_fraction or name a file in data.{name}"
        require_enough(name, size, f"{shares[name]:g} of {len(parts['train'])} examples; {hint}")
    parts |= _carve(parts, wanted, seed)
    asked = " and ".join(f"data.{name}_fraction={shares[name]:g}" for name in wanted)
    elsewhere = " that no other file has" if len(given) > 1 else ""
    few = f"{named} has too few distinct prompts{elsewhere} for {asked}; rows of one prompt go together"
    parts = {name: parts[name] for name in ("train", "validation", "test")}
    for name, part in parts.items():
        require_enough(
            name, len(part), few if wanted and (name in wanted or name == "train") else described(given[name])
        )
    digest = hashlib.sha256()
    for name, part in parts.items():
        digest.update(json.dumps([name, [e.content for e in part]]).encode())
    return Splits(**parts, fingerprint=digest.hexdigest(), notices=(*told, *about_rows(parts)))


def overlap(train: Iterable[Example], validation: Iterable[Example], test: Sequence[Example]) -> Overlap:
    """Test examples that are trained on or chosen by, of the examples that are used in each role."""
    contents, asked = set(), set[int]()
    for example in train:
        contents.add(example.content)
        asked.update(example.asks)
    chosen = {example.asks[-1] for example in validation}
    rows = sum(example.content in contents for example in test)
    questions = [example.asks[-1] for example in test]
    in_train = sum(question in asked for question in questions)
    elsewhere = sum(question in chosen and question not in asked for question in questions)
    return Overlap(len(test), rows, in_train - rows, elsewhere)


def overlap_of(splits: Splits, *used: Indices) -> Overlap:
    """The same of training, validation and test, of which these positions are used."""
    parts = zip(splits.parts.values(), used, strict=True)
    return overlap(*([part[i] for i in positions] for part, positions in parts))


def proxy_size(n_examples: int, fraction: float, minimum: int) -> int:
    """Number of examples in a proxy: `fraction` of them, rounded up, but at least `minimum`, at most all."""
    return min(n_examples, max(math.ceil(fraction * n_examples - 1e-9), minimum))


def proxy_positions(n_examples: int, fraction: float, minimum: int, seed: int) -> Indices:
    """Sorted positions of a proxy, shape (proxy_size,). With one seed, a smaller proxy lies in a larger."""
    order = np.random.default_rng((_PROXY_STREAM, seed)).permutation(n_examples)
    return np.sort(order[: proxy_size(n_examples, fraction, minimum)]).astype(np.int64)


def _refuse_shared_files(given: Mapping[str, Path | tuple[Path, ...] | HubDataset]) -> None:
    """Raises DataError where a file, or a split of the hub, has two roles."""
    roles: dict[Path | HubDataset, str] = {}
    for name, source in given.items():
        found: list[Path | HubDataset] = []
        if isinstance(source, HubDataset):
            found = [source.model_copy(update={"split": source.split or name})]
        else:
            found = [path.resolve() for path in files_of(source, name).paths]
        for one in found:
            other = roles.setdefault(one, name)
            if other != name:
                raise DataError(
                    f"data.{name} and data.{other} are one file ({one}); a model that has seen an example "
                    f"cannot be judged by it. Leave out data.{name} for an automatic split"
                )


def _carve(
    parts: Mapping[str, tuple[Example, ...]], wanted: Mapping[str, int], seed: int
) -> dict[str, tuple[Example, ...]]:
    """Takes splits of about the wanted sizes out of `train`, whose other rows keep their order.

    Rows of one prompt go together, and so do chats that begin alike (`_together`); none goes whose prompt
    stands in another file. A prompt of so many rows that it would make a split half again as large as wanted
    stays where others are left.
    """
    examples = parts["train"]
    asks = [example.asks for example in examples]
    groups = _together(asks)
    elsewhere = {example.asks[-1] for name, part in parts.items() if name != "train" for example in part}
    order = np.random.default_rng((_SPLIT_STREAM, seed)).permutation(len(groups))
    free = [groups[i] for i in order if not any(elsewhere.intersection(asks[one]) for one in groups[i])]
    found: dict[str, tuple[Example, ...]] = {}
    rest = set(range(len(examples)))
    for name, size in wanted.items():
        taken, free = _take(free, size)
        rest -= set(taken)
        found[name] = tuple(examples[i] for i in sorted(taken))
    return found | {"train": tuple(examples[i] for i in sorted(rest))}


def _together(asks: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Positions of rows that go together, by what each `asks`, in order of their first: those of one prompt,
    and of chats those that are the beginning of one another, as far as its answer is learnt."""
    last = {questions[-1]: position for position, questions in reversed([*enumerate(asks)])}
    leader = list(range(len(asks)))

    def first_of(position: int) -> int:
        while leader[position] != position:
            leader[position] = leader[leader[position]]
            position = leader[position]
        return position

    for position, questions in enumerate(asks):
        for question in questions:
            if (other := last.get(question)) is not None:
                low, high = sorted((first_of(other), first_of(position)))
                leader[high] = low
    groups: dict[int, list[int]] = {}
    for position in range(len(asks)):
        groups.setdefault(first_of(position), []).append(position)
    return list(groups.values())


def _take(groups: list[list[int]], size: int) -> tuple[list[int], list[list[int]]]:
    """Groups that make up about `size` rows, from the first on, and those that are left."""
    taken: list[int] = []
    left: list[list[int]] = []
    for group in groups:
        if len(taken) < size and len(taken) + len(group) <= 1.5 * size:
            taken += group
        else:
            left.append(group)
    if len(taken) < size and left:
        smallest = min(left, key=len)
        nearer = len(taken) + len(smallest) - size < size - len(taken)
        if nearer or len(taken) < FEWEST:
            taken += smallest
            left.remove(smallest)
    return taken, left
