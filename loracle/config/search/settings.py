"""Settings of the search: how configs are chosen, what is known of runs that are over, and what limits it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from loracle.config.section import Count, Number, Section
from loracle.records.standard_settings import PresetName


class PastConfig(Section):
    """Results of runs that are over; they are read and told of, and change nothing in the search."""

    # A CSV file, a trainer_state.json, a journal of Optuna, the folder of a run, a pattern of them; or
    # sqlite:///, postgresql:// or ${NAME}, a variable that holds it.
    path: Annotated[str, Field(min_length=1)]
    study: str | None = None  # of Optuna, where there are several
    metric: str | None = None  # the name there of what the run's metric measures; None: the same name
    direction: Literal["maximize", "minimize"] | None = None  # None: as the file or the name says
    fixed: dict[str, Number] = Field(default_factory=dict)  # knobs that all of them had, whatever is stated

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, content: Any) -> Any:
        return {"path": str(content)} if isinstance(content, str | Path) else content


TRIALS_TO_REPLICATE = 30
BELIEVING = ("default", "thorough", "numeric")  # presets that say what a trial is expected to gain


class SearchConfig(Section):
    """How configs are chosen."""

    preset: PresetName = "default"
    trials: Count = 30
    seed: Annotated[int, Field(ge=0)] = 0
    seed_configs: list[dict[str, Number]] | None = None  # None: as the preset says
    # What one more trial has to be expected to gain, in units of the score, for the search to go on before
    # `trials` are done; auto: a twentieth of the noise of a score. 0, never: all trials are done.
    worth: Literal["never", "auto"] | Annotated[float, Field(ge=0)] = "never"
    # What all trials together may cost, in full trainings; None: `trials` alone end the search. Where nothing
    # is said: `limits.py`.
    budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    replicates: Literal["auto"] | Annotated[int, Field(ge=0, le=8)] = "auto"  # seeds of the best two
    # How many of the best are trained on all data; the one that is best there on validation is the winner.
    finalists: Annotated[int, Field(ge=1, le=8)] = 1
    past: list[PastConfig] = Field(default_factory=list)  # runs that are over, whose best are told

    @field_validator("worth", mode="before")
    @classmethod
    def _worth_is_an_amount(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value not in ("never", "auto") and not (number and value >= 0):
            raise ValueError("has to be a number from 0, auto or never")
        return value or "never"

    @field_validator("budget", mode="before")
    @classmethod
    def _none_is_no_budget(cls, value: Any) -> Any:
        return None if value == "none" else value

    @model_validator(mode="after")
    def _worth_needs_a_belief(self) -> SearchConfig:
        if self.worth != "never" and self.preset not in BELIEVING:
            raise ValueError(
                f"worth: the preset {self.preset} does not say what one more trial is expected to gain; "
                "default, thorough and numeric do"
            )
        return self

    @field_validator("past", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path | dict) else value

    @property
    def further_seeds(self) -> int:
        """With how many more seeds the best two configs are trained where they lie within noise.

        A second seed chooses better than two more trials after 30, not after 8 (`benchmarks/replication.py`).
        """
        if self.replicates == "auto":
            return int(self.trials >= TRIALS_TO_REPLICATE and self.budget is None)
        return self.replicates
