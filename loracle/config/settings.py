"""The settings of a run, with their defaults and rules: a frozen pydantic model for every section.

The same names serve a YAML file, see `loading.py`, and Python code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from loracle.config.data.settings import NO_DATA as NO_DATA
from loracle.config.data.settings import DataConfig as DataConfig
from loracle.config.execution.settings import MANY
from loracle.config.execution.settings import ExecutionConfig as ExecutionConfig
from loracle.config.knobs import ALPHA, KNOBS, complete_problem
from loracle.config.metrics.guard import GuardConfig as GuardConfig
from loracle.config.metrics.guard import Guards
from loracle.config.metrics.settings import ScoringConfig as ScoringConfig
from loracle.config.metrics.settings import check_pattern
from loracle.config.placeholders import check_environment, check_names, check_placeholders, split_command
from loracle.config.search.limits import Begun, limits
from loracle.config.search.settings import BELIEVING
from loracle.config.search.settings import TRIALS_TO_REPLICATE as TRIALS_TO_REPLICATE
from loracle.config.search.settings import PastConfig as PastConfig
from loracle.config.search.settings import SearchConfig as SearchConfig
from loracle.config.section import Count, Fraction, Number, Section, check_inside
from loracle.config.space import BeliefsConfig
from loracle.config.space import KnobConfig as KnobConfig
from loracle.config.space import SpaceConfig as SpaceConfig
from loracle.config.training.plan import named_setting
from loracle.config.training.settings import TrainingConfig
from loracle.config.training.variants import VARIANTS
from loracle.config.user_function import is_function_name
from loracle.errors import ConfigError, SpaceError
from loracle.records.space import Knob, SearchSpace, Value, default_space, paper_space
from loracle.records.standard_settings import STANDARD


class LanguageConfig(Section):
    """Which language model reads the prompts, and how."""

    model: str = "same"  # same | none | minilm | a folder | a hub id
    kind: Literal["auto", "causal", "encoder"] = "auto"
    prompt: str = "auto"  # a version in loracle/language/prompts or a file; auto: short for sentence encoders
    layer: int = -1  # hidden state: 0 is the embedding, -1 the last
    learnable_token: bool | None = None  # None: as the preset says
    batch_size: Count = 32  # texts, where they are read one by one
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of a model loaded for reading only
    memory_gb: Annotated[float, Field(gt=0)] = 2.0  # beyond the model, while reading all candidates
    half_precision_cache: bool = False  # keep keys and values of a float32 model in bfloat16


class ResultConfig(Section):
    """Where a command leaves its result: a number in a JSON file in `{folder}`, or in what it prints."""

    json_file: str | None = Field(default=None, alias="json")
    key: str = "value"  # dots go into nested mappings and lists
    regex: str | None = None  # its first group (or whole match) in a line; the last match counts

    @model_validator(mode="before")
    @classmethod
    def _default_file(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("json") is None and content.get("regex") is None:
            return {**content, "json": "result.json"}
        return content

    @model_validator(mode="after")
    def _one_of_two(self) -> ResultConfig:
        if self.json_file is not None and self.regex is not None:
            raise ValueError("needs either json (a file name) or regex, not both")
        if self.regex is not None and self.key != "value":
            raise ValueError("key names a number in a JSON file; with regex it would do nothing")
        if self.json_file is not None:
            check_inside(self.json_file, "json")
        if self.regex is not None:
            check_pattern(self.regex)
        return self


class ObjectiveConfig(Section):
    """A trainer of the user's own in place of the built-in one: a command or a Python function."""

    command: str | list[str] | None = None  # with placeholders, such as {learning_rate} and {folder}
    function: str | None = None  # package.module:function or path/to/file.py:function
    result: ResultConfig | None = None  # of a command; None: `value` in result.json
    items: str | None = None  # of a command: a file of JSON lines in its folder, a result for each item
    direction: Literal["maximize", "minimize"]
    fraction: Fraction = 0.1  # what {fraction} is in a trial; 1 in the final run
    time_limit: Annotated[float, Field(gt=0)] | None = None  # seconds a run of the command
    environment: dict[str, str] = Field(
        default_factory=dict
    )  # added to the command's; ${NAME} is a variable of Loracle's own
    working_folder: Path = Path()  # where the command runs, and where modules are found

    @model_validator(mode="before")
    @classmethod
    def _default_result(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("command") and content.get("result") is None:
            return {**content, "result": {}}
        return content

    @model_validator(mode="after")
    def _one_of_two(self) -> ObjectiveConfig:
        if (self.command is None) == (self.function is None):
            raise ValueError("needs either command or function")
        if self.function is not None:
            if not is_function_name(self.function):
                raise ValueError(f"function is package.module:name or file.py:name; got {self.function!r}")
            for setting in ("result", "items", "time_limit", "environment"):
                if getattr(self, setting):
                    raise ValueError(
                        f"{setting} belongs to a command; a function returns its result, and runs in a "
                        "worker, whose limit is execution.time_limit"
                    )
        if self.items is not None:
            check_inside(self.items, "items")
        for name, value in self.environment.items():
            if not name or set(name) & set("=\0") or "\0" in value:
                raise ValueError(f"environment: {name!r} cannot be the name of a variable with this value")
        try:
            check_environment(self.environment)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self


TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]  # as in transformers' `report_to`


def _as_list(value: Any) -> Any:
    """One name, several, or `none`."""
    return [] if value in (None, "none") else [value] if isinstance(value, str) else value


class RunConfig(Section):
    """A whole run."""

    model: str
    data: DataConfig
    output: Path = Path("run")
    report_to: Annotated[list[TrackerName], BeforeValidator(_as_list)] = Field(default_factory=list)
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["4bit", "8bit"] | None = None  # of the frozen weights, by bitsandbytes
    attention: Annotated[str, Field(min_length=1)] | None = None  # as transformers' attn_implementation
    trust_remote_code: bool = False
    threads: Annotated[int, Field(gt=0, le=MANY)] | None = None  # CPU threads; None: all
    space: SpaceConfig = SpaceConfig()
    beliefs: BeliefsConfig = BeliefsConfig()
    objective: ObjectiveConfig | None = None
    training: Annotated[TrainingConfig, Field(validate_default=True)] = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()
    guard: Guards = Field(default_factory=dict)  # what must not be lost, by name
    language: LanguageConfig = LanguageConfig()
    search: SearchConfig = SearchConfig()
    execution: ExecutionConfig = ExecutionConfig()
    standard: dict[str, Number] | None = Field(default_factory=lambda: dict(STANDARD), validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _own_trainers_need_no_model(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("objective") is not None:
            content = {"model": "", "data": NO_DATA, "standard": None} | content
            language = content.get("language", {})
            if not content["model"] and isinstance(language, dict):
                content["language"] = {"model": "none"} | language
        return content

    @property
    def metric(self) -> str:
        """What a value is, for people: a metric, or `value` or `cost` (less is better) of an own trainer."""
        if self.objective is None:
            return self.scoring.metric
        return "cost" if self.objective.direction == "minimize" else "value"

    @property
    def objectives(self) -> tuple[str, ...]:
        """The metrics that are optimised at once; empty where it is one."""
        return tuple(self.scoring.objectives) if self.objective is None else ()

    @property
    def processes(self) -> int:
        """How many train one trial together; an own trainer starts its own."""
        if self.objective is not None:
            return 1
        return self.execution.processes_per_trial or max(1, self.execution.gpus_per_trial or 1)

    @field_validator("dtype", mode="before")
    @classmethod
    def _dtype_by_short_name(cls, value: Any) -> Any:
        short = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}
        return short.get(value, value) if isinstance(value, str) else value

    @field_validator("quantization", mode="before")
    @classmethod
    def _quantization_by_bits(cls, value: Any) -> Any:
        return f"{value}bit" if type(value) is int else value

    @field_validator("training")
    @classmethod
    def _start_needs_whole_weights(cls, value: TrainingConfig, info: ValidationInfo) -> TrainingConfig:
        space, tried = info.data.get("space"), [value.variant]
        if space is not None and "variant" in space.knobs:
            tried += [name for name in space.knobs["variant"].values if name in VARIANTS]
        from_weights = [name for name in tried if VARIANTS[name].start_from_weights]
        if info.data.get("quantization") and from_weights:
            raise ValueError(
                f"variant {from_weights[0]} begins with a part of the base model's weights and takes it off "
                f"them, which {info.data['quantization']} weights cannot give; choose lora, dora or eva, or "
                "leave quantization out"
            )
        return value

    @field_validator("space", mode="before")
    @classmethod
    def _space_by_name(cls, value: Any) -> Any:
        return {"base": value} if isinstance(value, str) else value

    @field_validator("language")
    @classmethod
    def _same_needs_a_model(cls, value: LanguageConfig, info: ValidationInfo) -> LanguageConfig:
        own = info.data.get("objective") is not None
        if own and value.model == "same" and not info.data.get("model"):
            raise ValueError(
                "model: same is the model being tuned, and this run names none; "
                "use minilm, none or a model of your choice"
            )
        return value

    @model_validator(mode="after")
    def _worth_is_of_one_score(self) -> RunConfig:
        if self.search.worth != "never" and (self.scoring.objectives or self.guard):
            raise ValueError(
                "search.worth: is of one score; with several objectives or guards all trials are done"
            )
        return self

    @model_validator(mode="after")
    def _budget_is_of_the_built_in_trainer(self) -> RunConfig:
        if self.search.budget is not None and self.objective is not None:
            raise ValueError(
                "search.budget: is in full trainings, and nobody knows what a trial of a trainer of your own "
                "takes of one; set search.trials"
            )
        return self

    @model_validator(mode="after")
    def _beliefs_are_of_the_space(self) -> RunConfig:
        said = self.beliefs.said
        if said and self.search.preset not in BELIEVING:
            raise ValueError(
                f"beliefs: the preset {self.search.preset} reads none; default, thorough and numeric do"
            )
        space = build_space(self.space)
        for place, one in said.single:
            try:
                one.doubts(space)
            except SpaceError as error:
                raise ValueError(f"beliefs.{place}: {error}") from None
        return self

    @model_validator(mode="after")
    def _what_it_does_not_say(self) -> RunConfig:
        for name, section in self._limits().items():
            object.__setattr__(self, name, section)  # it is frozen
        return self

    def limited(self, begun: Begun | None = None) -> RunConfig:
        """The same with the limits that follow from what it says now, and for what it does not say from how
        its run began (`search/limits.py`); None: it begins."""
        return self.model_copy(update=self._limits(begun))

    def _limits(self, begun: Begun | None = None) -> dict[str, Section]:
        own = self.objective is not None
        search, data = limits(self.search, self.data, own_trainer=own, begun=begun)
        return {"search": search, "data": data}

    @model_validator(mode="after")
    def _own_trainers_have_one_objective(self) -> RunConfig:
        if self.objective is not None and self.scoring.objectives:
            raise ValueError(
                "scoring.metric: several objectives are of the built-in trainer, and a trainer of your own "
                "gives one number; leave scoring.metric out, or let it give a weighted sum"
            )
        return self

    @field_validator("standard")
    @classmethod
    def _standard_is_complete(
        cls, value: dict[str, Value] | None, info: ValidationInfo
    ) -> dict[str, Value] | None:
        if info.data.get("objective") is not None:
            return _standard_of_own_trainer(value, info.data.get("space"))
        if value is None:
            raise ValueError("needs values")
        if problem := complete_problem(value):
            raise ValueError(problem)
        return value | _names_of_settings(value, info.data.get("space"), info.data.get("training"))

    @field_validator("objective")
    @classmethod
    def _trainer_fits_the_space(
        cls, value: ObjectiveConfig | None, info: ValidationInfo
    ) -> ObjectiveConfig | None:
        if value is None or (space := info.data.get("space")) is None:
            return value
        names = build_space(space).names
        try:
            check_names(names)
            if value.command is not None:
                check_placeholders(split_command(value.command), names, value.environment)
        except ConfigError as error:
            raise ValueError(f"{'command' if value.command is not None else 'function'}: {error}") from None
        return value

    @field_validator("space")
    @classmethod
    def _space_can_be_built(cls, value: SpaceConfig) -> SpaceConfig:
        try:
            build_space(value)
        except SpaceError as error:
            raise ValueError(str(error)) from None
        return value


def _names_of_settings(
    standard: Mapping[str, Value], space: SpaceConfig | None, training: TrainingConfig | None
) -> dict[str, Value]:
    """What `training` says where a knob of the space has names for it and the standard settings do not."""
    if space is None or training is None:
        return {}
    names = [name for name in space.knobs if name in KNOBS and KNOBS[name].named and name not in standard]
    try:
        return {name: named_setting(training, name) for name in names}
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _standard_of_own_trainer(
    value: dict[str, Value] | None, space: SpaceConfig | None
) -> dict[str, Value] | None:
    if value is not None and space is not None:
        try:
            build_space(space).nearest(value)
        except SpaceError as error:
            raise ValueError(str(error)) from None
    return value


def build_space(settings: SpaceConfig, *, batch_limit: int | None = None, packs: bool = False) -> SearchSpace:
    """The search space that `settings` describe, where a trial has `batch_limit` examples, or blocks of them.

    Raises:
        SpaceError: a knob or constraint is wrong, or every batch size exceeds `batch_limit`.
    """
    base = {"default": default_space, "paper": paper_space}.get(settings.base)
    found = base() if base else None
    knobs = {knob.name: knob for knob in found.knobs} if found else {}
    for name in settings.remove:
        if name not in knobs:
            raise SpaceError(f"space.remove: there is no knob {name!r} in the {settings.base} space")
        del knobs[name]
    if sum(name in settings.knobs for name in ALPHA) == 1:  # one of the two stands in the other's place
        knobs = {name: knob for name, knob in knobs.items() if name not in ALPHA}
    for name, knob in settings.knobs.items():
        knobs[name] = Knob(name, tuple(knob.values), knob.scale, knob.explanation, knob.about)
    constraints = (
        tuple(settings.constraints)
        if settings.constraints is not None
        else (found.constraints if found else ())
    )
    space = SearchSpace(tuple(knobs.values()), constraints, batch_limit)
    if batch_limit is not None and "batch_size" in space.names:
        smallest = int(space["batch_size"].values[0])
        if smallest > batch_limit:
            raise SpaceError(
                f"impossible batch: the smallest batch_size of the space is {smallest}, but a trial has only "
                f"{batch_limit} {'blocks of ' * packs}training examples; add smaller ones or raise data.proxy"
            )
    return space
