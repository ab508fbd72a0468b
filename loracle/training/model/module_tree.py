"""A model's module tree, recorded and put back: modules, parameters, buffers, hooks, attributes by identity.

Libraries that adapt a model replace modules, wrap wrappers, register hooks and switch flags. Undoing each of
those one by one needs to know them all; putting back what was there does not.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig


class ModuleTree:
    """What a model consists of at this moment. Weights are not copied: what writes into them is not undone.

    `restore` makes the model that again, also where a change stopped half-way. Contents of weights and
    buffers are the caller's to compare (`checksum.py`).
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._objects = [*model.modules(), *_configs(model)]
        self._classes = [type(thing) for thing in self._objects]
        self._attributes = [dict(vars(thing)) for thing in self._objects]
        # Children, parameters, buffers and hooks of a module are dictionaries that change in place.
        self._contents = [
            {name: value.copy() for name, value in own.items() if isinstance(value, dict)}
            for own in self._attributes
        ]
        self._weights = [(p, p.data, p.requires_grad) for p in model.parameters()]

    def restore(self) -> None:
        """Puts everything back, and drops the gradients."""
        for thing, kind, own, contents in zip(
            self._objects, self._classes, self._attributes, self._contents, strict=True
        ):
            if type(thing) is not kind:  # a parametrised module has a class of its own
                thing.__class__ = kind
            vars(thing).clear()
            vars(thing).update(own)
            for name, before in contents.items():
                inside = own[name]
                if inside.keys() != before.keys() or any(inside[key] is not before[key] for key in before):
                    inside.clear()
                    inside.update(before)
        for parameter, data, trained in self._weights:
            if parameter.data_ptr() != data.data_ptr():  # PiSSA gives layers new weights
                parameter.data = data
            parameter.requires_grad_(trained)
            parameter.grad = None


def _configs(model: torch.nn.Module) -> list[Any]:
    """The model's settings, and those inside them; PEFT changes some."""
    found: dict[int, Any] = {}
    waiting = [getattr(module, "config", None) for module in model.modules()]
    while waiting:
        config = waiting.pop()
        if isinstance(config, PretrainedConfig) and id(config) not in found:
            found[id(config)] = config
            waiting += [value for value in vars(config).values() if isinstance(value, PretrainedConfig)]
    return list(found.values())
