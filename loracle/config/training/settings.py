"""The settings that every training of a run shares."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from loracle.config.section import Count, Section, Share, one_of
from loracle.config.training.optimizers import ADAMW, OPTIMIZERS
from loracle.config.training.schedules import BY_MEASUREMENTS, SCHEDULES, arguments_problem
from loracle.config.training.variants import PLAIN, VARIANTS

TARGET_GROUPS = ("all-linear", "attention", "mlp")  # words for modules that the model itself has


class EarlyStoppingConfig(Section):
    """When a training ends before its last step: the validation loss has not become lower for a while."""

    patience: Count = 3  # evaluations in a row without a lower loss
    evaluations: Count = 10  # in a whole training, at equal distances
    minimum_gain: Annotated[float, Field(ge=0)] = 0.0  # nats a token below which a loss is no lower one


class TrainingConfig(Section):
    """What every trial shares. A knob of the same name in the space overrides a setting here."""

    epochs: Annotated[float, Field(gt=0, le=1e6)] | None = 1.0  # None: max_steps says how long
    max_steps: Count | None = None  # optimizer steps of a training on all data; on a share of it, that share
    early_stopping: EarlyStoppingConfig | None = None
    # Sequences in memory at once, at most; the effective batch is a knob. auto: as many as are fast, and fit.
    micro_batch: Count | Literal["auto"] = "auto"
    optimizer: Annotated[str, one_of(OPTIMIZERS)] = ADAMW
    lora_plus_ratio: Annotated[float, Field(ge=1)] = 1.0  # learning rate of B over that of A
    warmup_fraction: Share = 0.03
    schedule: Annotated[str, one_of(SCHEDULES)] = "cosine"
    schedule_arguments: dict[str, int | float | str] = Field(default_factory=dict, validate_default=True)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    # Each entry is a name, a regular expression of whole names, all-linear, attention or mlp.
    targets: Literal["all-linear"] | list[str] = "all-linear"
    modules_to_save: list[str] = Field(default_factory=list)  # trained whole, beside the adapter
    variant: Annotated[str, one_of(VARIANTS)] = PLAIN
    gradient_checkpointing: bool = False
    divergence_factor: Annotated[float, Field(gt=1)] = 3.0  # x the first loss

    @model_validator(mode="before")
    @classmethod
    def _steps_in_place_of_epochs(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("max_steps") is not None:
            return {"epochs": None} | content
        return content

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("epochs and max_steps both say how long a training is; give one of them")
        if self.epochs is None and self.max_steps is None:
            raise ValueError("needs epochs or max_steps")
        return self

    @model_validator(mode="after")
    def _pairs_of_two(self) -> TrainingConfig:
        if OPTIMIZERS[self.optimizer].freezes_a and VARIANTS[self.variant].peft.get("use_dora"):
            raise ValueError(
                f"optimizer {self.optimizer} takes what is trained as pairs of A and B, and variant "
                f"{self.variant} trains magnitudes beside them; choose another optimizer or variant"
            )
        return self

    @field_validator("early_stopping", mode="before")
    @classmethod
    def _patience_alone(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(
                "is a number of measurements (the patience), or its settings; leave it out for none"
            )
        return {"patience": value} if isinstance(value, int) else value

    @field_validator("lora_plus_ratio")
    @classmethod
    def _both_are_trained(cls, value: float, info: ValidationInfo) -> float:
        optimizer = info.data.get("optimizer")
        if value != 1 and optimizer in OPTIMIZERS and OPTIMIZERS[optimizer].freezes_a:
            raise ValueError(f"{optimizer} leaves A as it is, so there is no rate of B over that of A; set 1")
        return value

    @field_validator("schedule", mode="before")
    @classmethod
    def _known_beforehand(cls, value: Any) -> Any:
        if isinstance(value, str) and value in BY_MEASUREMENTS:
            raise ValueError(f"{value} goes by what is measured on the way; choose a schedule that does not")
        return value

    @field_validator("schedule_arguments")
    @classmethod
    def _arguments_of_the_schedule(
        cls, value: dict[str, int | float | str], info: ValidationInfo
    ) -> dict[str, int | float | str]:
        name = info.data.get("schedule")
        if name in SCHEDULES and (problem := arguments_problem(name, value)):
            raise ValueError(problem)
        return value

    @field_validator("targets", mode="before")
    @classmethod
    def _one_target(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value != "all-linear" else value

    @field_validator("targets", "modules_to_save")
    @classmethod
    def _names_are_words(cls, value: str | list[str]) -> str | list[str]:
        if any(not name.strip() for name in ([value] if isinstance(value, str) else value)):
            raise ValueError("the name of a module is no empty text")
        return value

    @property
    def targets_are_names(self) -> bool:
        """Whether PEFT takes the targets as they are written: names, or all linear modules."""
        return self.targets == "all-linear" or not any(
            target in TARGET_GROUPS or not re.fullmatch(r"[\w.]+", target) for target in self.targets
        )

    @property
    def largest_micro_batch(self) -> int:
        """The micro-batch where nobody plans with memory, in sequences."""
        return 8 if self.micro_batch == "auto" else self.micro_batch
