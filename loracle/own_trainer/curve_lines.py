"""A learning curve, and numbers beside the result, from what a trainer of the user's own tells or prints.

What is told, by `progress(...)` of a function or by lines `loracle: step=10 loss=1.3` of a command, is taken
whole, and then alone. Else losses as trainers print them (`'loss': 1.3, 'learning_rate': 2e-4`) are taken
from the part of the output that is looked at anyway; their step is that of the progress bar, if it advances
from each to the next, or their number. Lines of the same kind without a step, `loracle: general_loss=2.3`,
tell numbers beside the result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from loracle.records.curves.recorder import CurveRecorder, Point

BAR = re.compile(
    r"(?<![\d/.])(\d{1,9})/(\d{1,9})(?![\d/.])"
)  # a step and their number, as progress bars write it
BESIDE = frozenset({"tokens", "learning_rate", "gradient_norm", "validation_loss"})  # a step and its loss

_MARK = b"loracle:"  # at the beginning of a line that tells of a step
_LONGEST = 2_000  # bytes of such a line

_NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf))"
_TOLD = re.compile(rf"\b(step|loss|{'|'.join(sorted(BESIDE))})=\W{{0,1}}{_NUMBER}")
_BESIDE = re.compile(rf"(?<![^\s,;])([A-Za-z_][\w./-]{{0,99}})=\W{{0,1}}{_NUMBER}(?![\w.])")
_MANY = 1000  # numbers beside a result
# As trainers of transformers, TRL, axolotl and others write them, beside `loss`.
_PRINTED = re.compile(
    rf"\b(loss|eval_loss|val_loss|validation_loss|learning_rate|lr|grad_norm|gradient_norm|num_tokens)\W{{0,4}}{_NUMBER}"
)
_NAMES = {
    "eval_loss": "validation_loss",
    "val_loss": "validation_loss",
    "lr": "learning_rate",
    "grad_norm": "gradient_norm",
    "num_tokens": "tokens",
}


def tell_curve(curve: CurveRecorder, told: Mapping[str, float]) -> None:
    """Takes in what is said of a step, by names: `step`, `loss` and those of `BESIDE`."""
    step = told.get("step", 0.0)
    if not 1 <= step <= 1e15:
        return
    rate, norm = (told.get(name, math.nan) for name in ("learning_rate", "gradient_norm"))
    tokens = told.get("tokens", 0.0)
    if "loss" in told:
        tokens = tokens if 0 <= tokens <= 1e18 else 0.0
        curve.add(Point(int(step), told["loss"], rate, norm, int(tokens)))
    if "validation_loss" in told:
        curve.validated(int(step), told["validation_loss"])


class CurveLines:
    """Finds a curve in an output, for `curve`.

    Attributes:
        beside: numbers that lines without a step tell, the last of each name.
    """

    def __init__(self, curve: CurveRecorder) -> None:
        self._curve = curve
        self.beside: dict[str, float] = {}
        self._rest = b""  # the beginning of a line
        self._told = False
        self._printed: list[dict[str, float]] = []  # of lines that are used where nothing is told
        self._bar = self._largest = 0

    def feed(self, chunk: bytes) -> None:
        """Takes in the next bytes, in search of lines that tell."""
        text = self._rest + chunk
        if _MARK not in text:
            self._rest = text[text.rfind(b"\n") + 1 :][-_LONGEST:]
            return
        *lines, self._rest = text.replace(b"\r", b"\n").split(b"\n")
        self._rest = self._rest[-_LONGEST:]
        for line in lines:
            self._tell(line)

    def _tell(self, line: bytes) -> None:
        if line.lstrip().startswith(_MARK):
            found = _numbers(_TOLD, line[:_LONGEST])
            self._told |= "step" in found
            tell_curve(self._curve, found)
            if "step" not in found and len(self.beside) < _MANY:
                self.beside |= _numbers(_BESIDE, line[:_LONGEST])

    def look(self, lines: Sequence[bytes]) -> None:
        """Takes in lines that may be a trainer's own."""
        for line in lines if not self._told else ():
            text = line[-_LONGEST:].decode(errors="replace")
            for bar in BAR.finditer(text):
                step, total = int(bar[1]), int(bar[2])
                if 0 < step <= total and total >= self._largest:  # shorter bars are of evaluations
                    self._bar, self._largest = step, total
            found = _numbers(_PRINTED, line[-_LONGEST:])
            if "loss" in found or "validation_loss" in found:
                self._printed.append({"step": float(self._bar), **found})
            if len(self._printed) > 4096:
                self._printed = self._printed[::2]

    def end(self) -> None:
        """Nothing more comes."""
        self._tell(self._rest)
        if self._told or self._curve.curve() is not None:
            return
        kind = "loss" if any("loss" in found for found in self._printed) else "validation_loss"
        steps = [found["step"] for found in self._printed if kind in found]
        # A bar that does not advance from loss to loss is of something else, such as an evaluation.
        by_bar = all(before < after for before, after in pairwise([0.0, *steps]))
        number = 0
        for found in self._printed:
            number += kind in found
            tell_curve(self._curve, found if by_bar else {**found, "step": float(max(number, 1))})


def _numbers(pattern: re.Pattern[str], line: bytes) -> dict[str, float]:
    return {
        _NAMES.get(match[1], match[1]): float(match[2])
        for match in pattern.finditer(line.decode(errors="replace"))
    }
