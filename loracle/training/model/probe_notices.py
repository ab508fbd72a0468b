"""What the user must see of what the probe found: slow batches, and what of the model is not trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from torch import nn
from transformers.pytorch_utils import Conv1D

from loracle.records.notices import Notice
from loracle.text.escape import printable
from loracle.training.model.adapter import Layer
from loracle.training.model.base_model import Base
from loracle.training.model.targets import is_named

_ORDINARY = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SHARE = 0.01  # frozen weights are told about from this share of the model's parameters up
_SHOWN = 4  # names in a notice


def probe_notices(
    base: Base,
    left_out: Mapping[str, str],
    unseen: list[str],
    layers: list[Layer],
    ran: Collection[int],
    whole: Collection[str] = (),
) -> tuple[Notice, ...]:
    """All of them.

    Args:
        base: as the probe left it.
        left_out: names of modules left without an adapter, with the reason of each.
        unseen: names of adapted modules without a gradient.
        layers: the adapted places.
        ran: ids of the modules that computed something.
        whole: names of the modules that are trained whole.
    """
    return (
        *_batching_notices(base),
        *_left_out_notices(left_out),
        *_unseen_notices(unseen),
        *_frozen_notices(base, layers, ran),
        *_shared_notices(base, layers),
        *_tied_notices(base, whole),
    )


def patterns(names: Iterable[str], shown: int = _SHOWN) -> str:
    """Names with their numbers replaced, each with its count: `layers.*.mlp.gate (24)`."""
    counts = Counter(map(_pattern, names))
    parts = [f"{name} ({n:,})" if n > 1 else name for name, n in counts.most_common(shown)]
    more = [f"{len(counts) - shown} more"] if len(counts) > shown else []
    return printable(", ".join([*parts, *more]))


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _batching_notices(base: Base) -> Iterable[Notice]:
    how = {"equal": "of equal length alone", "single": "of one example"}
    for name, value, what in (
        ("reads_alone", base.reading, "training and scoring read"),
        ("writes_alone", base.writing, "scoring writes"),
    ):
        if value in how and (name == "reads_alone" or value != base.reading):
            why = "heeds no attention mask" if value == "equal" else "mixes the examples of a batch"
            yield Notice(
                "model", name, f"this model {why}, so {what} in batches {how[value]}, which is slower"
            )


def _left_out_notices(left_out: Mapping[str, str]) -> Iterable[Notice]:
    for reason in dict.fromkeys(left_out.values()):
        names = [name for name, own in left_out.items() if own == reason]
        count = f"{len(names):,} {'module is' if len(names) == 1 else 'modules are'}"
        yield Notice(
            "model",
            "modules_left_out",
            f"{count} left without an adapter because {reason}: {patterns(names)}",
            len(names),
        )


def _unseen_notices(names: list[str]) -> Iterable[Notice]:
    if names:
        count = f"{len(names):,} adapted {'module' if len(names) == 1 else 'modules'}"
        yield Notice(
            "model",
            "no_gradient",
            f"{count} saw no gradient in a short step of training, and may stay as they are: "
            f"{patterns(names)}",
            len(names),
        )


def _frozen_notices(base: Base, layers: list[Layer], ran: Collection[int]) -> Iterable[Notice]:
    """Weights of no linear module, such as stacked experts, which adapters of modules do not reach."""
    adapted = {id(layer.weight) for layer in layers}
    total = sum(p.numel() for p in base.model.parameters())
    groups: dict[str, list[tuple[str, int]]] = {}
    for name, module in base.model.named_modules():
        if id(module) not in ran or isinstance(module, _ORDINARY):
            continue
        for own, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in adapted and sum(size > 1 for size in parameter.shape) >= 2:
                full = f"{name}.{own}" if name else own
                groups.setdefault(_pattern(full), []).append((full, parameter.numel()))
    large = [g for g in groups.values() if sum(size for _, size in g) >= _SHARE * total]
    names = [name for group in large for name, _ in group]
    if names:
        share = sum(size for group in large for _, size in group) / total
        whose = "weight that belongs" if len(names) == 1 else "weights that belong"
        yield Notice(
            "model",
            "weights_frozen",
            f"{len(names):,} {whose} to no linear module, {share:.0%} of the model's parameters, get no "
            f"adapter: {patterns(names)}; name them in training.targets to train them, without dropout",
            len(names),
        )


def _shared_notices(base: Base, layers: list[Layer]) -> Iterable[Notice]:
    """Adapted weights that stand in several places, as those of shared blocks or a tied output layer."""
    places = Counter(
        base.place_of(parameter)
        for module in base.model.modules()
        for parameter in module.parameters(recurse=False)
    )
    names = [layer.name for layer in layers if places[base.place_of(layer.weight)] > 1]
    if names:
        yield Notice(
            "model",
            "weights_shared",
            f"{len(names):,} adapted weights are used in several places of the model ({patterns(names)}); "
            "the adapter works, but merging it into the weights does not",
            len(names),
        )


def _tied_notices(base: Base, whole: Collection[str]) -> Iterable[Notice]:
    """Modules trained whole that share their weights with another one, which keeps the old ones."""
    owners: dict[int, list[str]] = {}
    for name, module in base.model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    named = {name for names in owners.values() if len(names) > 1 for name in names}
    tied = sorted(name for name in named if any(is_named(name, own) for own in whole))
    if tied:
        yield Notice(
            "model",
            "saved_apart",
            f"{', '.join(tied)} shares its weights with another module of the model; what is trained whole "
            "is a copy of its own, so the two part, and merging into the model's files needs them untied",
            len(tied),
        )
