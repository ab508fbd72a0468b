"""The settings of a run: one YAML file, validated in full before anything costs money.

Every section is a frozen pydantic model, so the same names serve the YAML file and Python code. Errors name
the file, the line and the key. Paths in a file are relative to that file.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from loracle.errors import ConfigError, SpaceError
from loracle.space import Knob, Scale, SearchSpace, Value, default_space, paper_space

Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """Where the examples are, how they are split, and how large the proxy is."""

    train: Path
    validation: Path | None = None
    test: Path | None = None
    format: Literal["auto", "jsonl", "json", "csv", "parquet"] = "auto"
    validation_fraction: Share = 0.1
    test_fraction: Share = 0.1
    proxy: Fraction = 0.1
    proxy_minimum: PositiveInt = 200  # examples
    validation_limit: PositiveInt | None = 500  # examples scored in each trial
    max_length: PositiveInt = 512  # tokens
    too_long: Literal["drop", "error"] = "drop"


class TrainingConfig(Section):
    """What every trial shares. A knob of the same name in the space overrides a setting here."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    micro_batch: PositiveInt = 8  # sequences in memory at once; the effective batch is a knob
    warmup_fraction: Share = 0.03
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    targets: Literal["all-linear"] | list[str] = "all-linear"
    variant: Literal["lora", "rslora", "dora", "pissa"] = "lora"
    gradient_checkpointing: bool = False
    divergence_factor: Annotated[float, Field(gt=1)] = 3.0  # x the first loss


class ScoringConfig(Section):
    """How a trained model is scored on validation and test examples."""

    metric: Literal["loss", "exact_match", "choice_accuracy"] = "loss"
    answer_pattern: str | None = None  # regex; its first group (or whole match) is the answer
    choices: list[str] | None = None  # for choice_accuracy, where examples have no `choices` of their own
    max_new_tokens: PositiveInt = 64
    batch_size: PositiveInt = 64  # sequences


class LanguageConfig(Section):
    """Which language model reads the prompts, and how."""

    model: str = "same"  # same | none | minilm | a folder | a hub id
    kind: Literal["auto", "causal", "encoder"] = "auto"
    prompt: str = "auto"  # a version in loracle/prompts or a file; auto: short for sentence encoders
    layer: int = -1  # hidden state: 0 is the embedding, -1 the last
    learnable_token: bool | None = None  # None: as the preset says
    batch_size: PositiveInt = 32  # texts, where they are read one by one
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of a model loaded for reading only
    memory_gb: Annotated[float, Field(gt=0)] = 2.0  # beyond the model, while reading all candidates
    half_precision_cache: bool = False  # keep keys and values of a float32 model in bfloat16


class SearchConfig(Section):
    """How configs are chosen."""

    preset: Literal["default", "numeric", "language", "paper"] = "default"
    trials: PositiveInt = 30
    seed: Annotated[int, Field(ge=0)] = 0
    seed_configs: list[dict[str, Value]] | None = None  # None: as the preset says


class KnobConfig(Section):
    """A knob as written in a file."""

    values: list[Value]
    scale: Scale = "linear"
    explanation: str = ""


class SpaceConfig(Section):
    """A search space as written in a file: knobs replace or extend those of `base`."""

    base: Literal["default", "paper", "empty"] = "default"
    knobs: dict[str, KnobConfig] = {}
    remove: list[str] = []
    constraints: list[str] | None = None  # None: those of `base`


class RunConfig(Section):
    """A whole run."""

    model: str
    data: DataConfig
    output: Path = Path("run")
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    trust_remote_code: bool = False
    threads: PositiveInt | None = None  # CPU threads; None: all
    space: SpaceConfig = SpaceConfig()
    training: TrainingConfig = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()
    language: LanguageConfig = LanguageConfig()
    search: SearchConfig = SearchConfig()
    standard: dict[str, Value] = {
        "rank": 16,
        "alpha": 32,
        "dropout": 0.05,
        "learning_rate": 2e-4,
        "batch_size": 16,
    }

    @field_validator("space", mode="before")
    @classmethod
    def _space_by_name(cls, value: Any) -> Any:
        return {"base": value} if isinstance(value, str) else value

    @field_validator("standard")
    @classmethod
    def _standard_is_complete(cls, value: dict[str, Value]) -> dict[str, Value]:
        for name in ("rank", "dropout", "learning_rate", "batch_size"):
            if name not in value:
                raise ValueError(f"needs a value for {name}")
        if ("alpha" in value) == ("alpha_ratio" in value):
            raise ValueError("needs either alpha or alpha_ratio")
        for name in ("rank", "batch_size"):
            if value[name] < 1 or not float(value[name]).is_integer():
                raise ValueError(f"{name} is a whole number from 1 up; got {value[name]}")
        if not 0 < value["learning_rate"] < float("inf"):
            raise ValueError(f"learning_rate is above 0; got {value['learning_rate']}")
        if not 0 <= value["dropout"] < 1:
            raise ValueError(f"dropout is from 0 up to, but not including, 1; got {value['dropout']}")
        return value

    @field_validator("space")
    @classmethod
    def _space_can_be_built(cls, value: SpaceConfig) -> SpaceConfig:
        try:
            build_space(value)
        except SpaceError as error:
            raise ValueError(str(error)) from None
        return value


def build_space(
    settings: SpaceConfig, *, batch_multiple: int = 1, batch_limit: int | None = None
) -> SearchSpace:
    """The search space that `settings` describe, on devices that realise batches as stated.

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
    for name, knob in settings.knobs.items():
        knobs[name] = Knob(name, tuple(knob.values), knob.scale, knob.explanation)
    constraints = (
        tuple(settings.constraints)
        if settings.constraints is not None
        else (found.constraints if found else ())
    )
    space = SearchSpace(tuple(knobs.values()), constraints, batch_multiple, batch_limit)
    if batch_limit is not None and "batch_size" in space.names:
        smallest = int(space["batch_size"].values[0])
        if smallest > batch_limit:
            raise SpaceError(
                f"impossible batch: the smallest batch_size of the space is {smallest}, but a trial has "
                f"only {batch_limit} training examples; add smaller values or raise data.proxy"
            )
    return space


def load_config(path: str | Path) -> RunConfig:
    """Reads and validates a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, or breaks a rule (`file:line: key: rule`).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    config = parse_config(text, source=str(path))
    return resolve_paths(config, path.parent)


def parse_config(text: str, source: str = "config") -> RunConfig:
    """Validates the text of a YAML file; `source` names it in errors. Raises like `load_config`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: a config is a mapping of keys to values; see `loracle init`")
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error, node, source)) from None


def resolve_paths(config: RunConfig, folder: Path) -> RunConfig:
    """`config` with every local path made absolute, seen from `folder`."""
    data = {
        name: (folder / value).resolve()
        for name in ("train", "validation", "test")
        if (value := getattr(config.data, name)) is not None
    }
    local = folder / config.model
    changes: dict[str, Any] = {
        "data": config.data.model_copy(update=data),
        "output": (folder / config.output).resolve(),
        "model": str(local.resolve()) if local.is_dir() else config.model,
    }
    language: dict[str, str] = {}
    for name in ("model", "prompt"):
        value = getattr(config.language, name)
        if value not in ("same", "none", "minilm") and (folder / value).exists():
            language[name] = str((folder / getattr(config.language, name)).resolve())
    changes["language"] = config.language.model_copy(update=language)
    return config.model_copy(update=changes)


def dump_config(config: RunConfig) -> str:
    """The YAML text of a config, every default written out; `parse_config` gives the same config back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `1e-4` as a number (YAML 1.1 wants `1.0e-4`) and refuses repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # not a plain key: refused below
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _explain(error: ValidationError, node: yaml.Node | None, source: str) -> str:
    """The first error of a validation as `file:line: key: rule`; a misspelt key before the one it lacks."""
    errors = error.errors(include_url=False)
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    location = _place(first["loc"])
    line = _line(node, location)
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"{source}:{line}: unknown key {key!r}; {hint}"
    rules = [e["msg"].removeprefix("Value error, ") for e in errors if _place(e["loc"]) == location]
    message = " or ".join(rule[:1].lower() + rule[1:] for rule in dict.fromkeys(rules))
    given = first.get("input")
    shown = f"; got {given!r}" if isinstance(given, str | int | float) else ""
    return f"{source}:{line}: {key}: {message}{shown}"


def _place(location: tuple[int | str, ...]) -> list[int | str]:
    """Where in the file an error is. Pydantic adds the branch of a union, which users have no key for."""
    return [
        part
        for part in location
        if part not in ("int", "float") and not str(part).startswith(("literal[", "list["))
    ]


def _known_keys(location: list[int | str]) -> list[str]:
    """Keys that a section of the file may have."""
    section: type[BaseModel] = RunConfig
    for part in location:
        if section is SpaceConfig and part == "knobs":
            section = KnobConfig
        elif (field := section.model_fields.get(str(part))) is not None:
            annotation = field.annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                section = annotation
    return list(section.model_fields)


def _line(node: yaml.Node | None, location: list[int | str]) -> int:
    """Line of the deepest part of `location` that the file has, from 1."""
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line
