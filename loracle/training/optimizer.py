"""The optimizer of a training: made of its row in the table, with a rate for each group of parameters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from loracle.config.training.optimizers import OPTIMIZERS, Optimizer
from loracle.config.training.plan import Plan
from loracle.config.training.settings import TrainingConfig
from loracle.errors import ConfigError
from loracle.records.failures import one_line

_Make = Callable[..., torch.optim.Optimizer]
_FIRST_SCALE, _DOUBLE_AFTER = 2.0**16, 2000  # as torch.amp.GradScaler has them


def check_optimizer(settings: TrainingConfig) -> None:
    """Raises ConfigError where the optimizer's package is not installed."""
    package = OPTIMIZERS[settings.optimizer].package
    if package is not None and find_spec(package) is None:
        raise ConfigError(
            f"training.optimizer: {settings.optimizer} needs the package {package}, which is not installed; "
            f"pip install {package}, or set optimizer: adamw"
        )


class Updates:
    """Makes the updates of one training.

    Attributes:
        parameters: what is trained.

    Raises:
        ConfigError: the optimizer's own package refuses it.
    """

    def __init__(self, model: Any, plan: Plan) -> None:
        self._highest = plan.learning_rate
        try:
            with _quiet():
                self._optimizer = _made(model, plan, OPTIMIZERS[plan.settings.optimizer])
        except (ImportError, RuntimeError, ValueError, TypeError) as error:
            raise ConfigError(f"training.optimizer: {plan.settings.optimizer}: {one_line(error)}") from None
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._times = [group["lr"] / self._highest for group in self._optimizer.param_groups]

    def make(self, rate: float) -> None:
        """One update at this learning rate; gradients are gone afterwards."""
        for group, times in zip(self._optimizer.param_groups, self._times, strict=True):
            group["lr"] = rate * times
        with _quiet():
            self._optimizer.step()
        self.drop()

    def drop(self) -> None:
        """Forgets the gradients."""
        for parameter in self.parameters:
            parameter.grad = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings: bitsandbytes says on a CPU that nothing is paged there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _made(model: Any, plan: Plan, row: Optimizer) -> torch.optim.Optimizer:
    module, _, name = row.place.partition(":")
    make: _Make = getattr(import_module(module), name)
    rate, decay, ratio = plan.learning_rate, plan.settings.weight_decay, plan.settings.lora_plus_ratio
    if row.freezes_a:  # a function of PEFT's, which needs the whole model
        return make(model, r=plan.rank, lora_alpha=plan.alpha, lr=rate, weight_decay=decay)
    if ratio != 1:
        from peft.optimizers import create_loraplus_optimizer

        options = {"loraplus_lr_ratio": ratio, "loraplus_weight_decay": decay, **row.arguments}
        with_groups: _Make = partial(create_loraplus_optimizer, optimizer_cls=make)
        return with_groups(model, lr=rate, **options)
    trained = [p for p in model.parameters() if p.requires_grad]
    return make(trained, lr=rate, weight_decay=decay, **row.arguments)


class LossScale:
    """A factor that lifts gradients in float16 above its smallest number, 6e-8, and stays below its largest.

    As in mixed-precision training (Micikevicius et al. 2017, arXiv 1710.03740, section 3.2): a step whose
    gradient overflows is left out and the factor halved; after 2,000 steps without, it is doubled. In other
    precisions it is 1.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._moves = dtype == torch.float16
        self._good = 0
        self.factor = _FIRST_SCALE if self._moves else 1.0

    def unscale(self, parameters: list[torch.nn.Parameter]) -> None:
        """Takes the factor out of the gradients."""
        if self._moves:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(self.factor)

    def overflowed(self, gradient_norm: float) -> bool:
        """Whether this step is to be left out; the factor follows."""
        if not self._moves:
            return False
        if math.isfinite(gradient_norm):
            self._good += 1
            if self._good % _DOUBLE_AFTER == 0:
                self.factor *= 2
            return False
        if self.factor <= 1:  # it is not the precision
            return False
        self.factor, self._good = self.factor / 2, 0
        return True
