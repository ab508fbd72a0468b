"""The knobs that the trainer knows, one entry each: whether a space needs it, and which values it has.

A knob that has the name of a setting in `TrainingConfig` stands in its place, and that setting's own rule
checks it: such a knob is an entry here and nothing else.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loracle.errors import ConfigError
from loracle.records.space import Value


@dataclass(frozen=True)
class TrainerKnob:
    """One hyperparameter that the trainer knows.

    Attributes:
        required: whether every space needs it; what is not required has a value of its own.
        is_setting: whether it stands in the place of the setting of the same name.
        named: whether its values are names.
        least: the least that training heeds, where nothing lies beyond: no better value can.
        rule: what its values are, in words, and whether one is; None: the setting knows, or any number does.
    """

    required: bool = False
    is_setting: bool = False
    named: bool = False
    least: float | None = None
    rule: tuple[str, Callable[[float], bool]] | None = None

    def problem(self, value: Value) -> str | None:
        """What is wrong with a value; None: nothing."""
        if self.named:
            return None if isinstance(value, str) else "names"
        if isinstance(value, str):
            return "a number" if self.rule is None else self.rule[0]
        return None if self.rule is None or self.rule[1](float(value)) else self.rule[0]


_Rule = tuple[str, Callable[[float], bool]]
_WHOLE: _Rule = ("a whole number from 1 up", lambda value: value >= 1 and value.is_integer())

ALPHA = ("alpha_ratio", "alpha")  # one of the two
KNOBS: dict[str, TrainerKnob] = {
    "rank": TrainerKnob(required=True, least=1, rule=_WHOLE),
    "alpha_ratio": TrainerKnob(),
    "alpha": TrainerKnob(),
    "dropout": TrainerKnob(
        least=0, rule=("from 0 up to, but not including, 1", lambda value: 0 <= value < 1)
    ),
    "learning_rate": TrainerKnob(required=True, rule=("above 0", lambda value: 0 < value < float("inf"))),
    "batch_size": TrainerKnob(required=True, least=1, rule=_WHOLE),
    "epochs": TrainerKnob(is_setting=True),
    "warmup_fraction": TrainerKnob(is_setting=True, least=0),
    "weight_decay": TrainerKnob(is_setting=True, least=0),
    "max_gradient_norm": TrainerKnob(is_setting=True),
    "lora_plus_ratio": TrainerKnob(is_setting=True, least=1),
    "schedule": TrainerKnob(is_setting=True, named=True),
    "optimizer": TrainerKnob(is_setting=True, named=True),
    "variant": TrainerKnob(is_setting=True, named=True),
    "targets": TrainerKnob(is_setting=True, named=True),
}
ADAPTER = ("variant", "targets")  # those that make another adapter, which is tried before it is trained
MEMORY = (*ADAPTER, "optimizer")  # those that make another memory plan


def without_setting() -> list[str]:
    """Names of the knobs that have no setting to stand for them, alpha aside."""
    return [name for name, knob in KNOBS.items() if not knob.is_setting and name not in ALPHA]


def check_knobs(names: Sequence[str]) -> None:
    """Checks that a training understands every knob and lacks none.

    Raises:
        ConfigError: an unknown, missing or doubled knob.
    """
    if problem := _unknown(names):
        raise ConfigError(problem)
    missing = [name for name, knob in KNOBS.items() if knob.required and name not in names]
    if not any(name in names for name in ALPHA):
        missing.append(" (or ".join(ALPHA) + ")")
    if missing:
        raise ConfigError(f"training needs a knob for {', '.join(missing)}; one value is enough to fix it")


def _unknown(names: Sequence[str]) -> str | None:
    """What is wrong with the first name that is no knob; None: all are."""
    for name in names:
        if name not in KNOBS:
            close = difflib.get_close_matches(name, KNOBS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(KNOBS)}"
            return f"training has no knob {name!r}; {hint}"
    return None


def without_adapter(config: Mapping[str, Value]) -> dict[str, Value]:
    """A config for settings that have its variant and its targets already, as the model names them."""
    return {name: value for name, value in config.items() if name not in ADAPTER}


def complete_problem(values: Mapping[str, Value]) -> str | None:
    """What keeps values from being a whole config of the trainer, settings aside; None: nothing."""
    if problem := _unknown(list(values)):
        return problem
    for name in without_setting():
        if name not in values:
            return f"needs a value for {name}"
    if len([name for name in ALPHA if name in values]) != 1:
        return "needs either alpha or alpha_ratio"
    for name in without_setting():
        if problem := KNOBS[name].problem(values[name]):
            return f"{name} is {problem}; got {values[name]}"
    return None
