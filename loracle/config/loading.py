"""A config file read and written: YAML, validated in full before anything costs money.

Errors name the file, the line and the key. Paths in a file are relative to that file.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from loracle.config.data.sources import resolved
from loracle.config.metrics.guard import GuardConfig, OwnGuardConfig, guards_of_rows
from loracle.config.settings import NO_DATA, KnobConfig, RunConfig, ScoringConfig, SpaceConfig
from loracle.config.yaml_file import YamlError, dump, parse, read_text
from loracle.errors import ConfigError
from loracle.text.escape import printable
from loracle.text.secrets import refers

_SHOWN = 200  # characters of a key or value in an error
_DIVIDED = (
    "no setting of Loracle; set execution.shard_model: true to divide a base model that does not fit one GPU "
    "between those of a trial (execution.gpus_per_trial), or quantization to make it smaller"
)
_REFUSED = dict.fromkeys(("device_map", "fsdp", "fsdp_config", "deepspeed"), _DIVIDED)  # transformers' words
_GUARDS: dict[int | str, type[BaseModel]] = {"rows": GuardConfig, "own": OwnGuardConfig}
_BRANCHES = ("int", "float", "str", "constrained-int", "constrained-float")  # of unions, in pydantic
_NAMED = re.compile(r"Value error, ([a-z_]+(?:\.[^\s:]+)+|beliefs): (.*)", re.DOTALL)
_SECRET = (
    ["objective", "environment"],
    ["execution", "storage"],
    ["search", "past"],
)  # values that no error shows


_OF_A_RUN = ("journal.log", "trials", "machines")  # what lies beside the config that a run keeps


def load_config(path: str | Path) -> RunConfig:
    """Reads and validates a YAML file. One that a run keeps in its folder means the run in that folder,
    wherever it has been moved or copied to.

    Raises:
        ConfigError: the file is missing, is not YAML, or breaks a rule (`file:line: key: rule`).
    """
    config, _ = read_config(path)
    return config


def read_config(path: str | Path) -> tuple[RunConfig, Path | None]:
    """The same, and the run folder that the file names where it lies in another; None: it does not.

    Raises:
        ConfigError: see `load_config`.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except YamlError as error:
        raise ConfigError(f"{error.place(path)}: {error}") from None
    written = parse_config(text, source=str(path))
    config, here = resolve_paths(written, path.parent), path.parent.resolve()
    if not _kept_by_a_run(path) or not written.output.is_absolute():
        return config, None
    if config.output in (here, *here.parents) or here in config.output.parents:
        return config, None
    return config.model_copy(update={"output": here}), config.output


def _kept_by_a_run(path: Path) -> bool:
    return path.name == "config.yaml" and any((path.parent / part).exists() for part in _OF_A_RUN)


def parse_config(text: str, source: str = "config", *, lines: bool = True) -> RunConfig:
    """Validates the text of a YAML file; `source` names it in errors. Raises like `load_config`.

    Args:
        text: of the file.
        source: what it is called.
        lines: whether errors name its lines; no user can look them up in a text that is no file yet.
    """
    try:
        content, node = parse(text)
    except YamlError as error:
        raise ConfigError(f"{error.place(source)}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: a config is a mapping of keys to values; see `loracle init`")
    # A section whose keys are all commented out says nothing, and is no value either.
    content = {key: {} if value is None and _is_section(key) else value for key, value in content.items()}
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error, node, source, lines=lines)) from None


def resolve_paths(config: RunConfig, folder: Path) -> RunConfig:
    """`config` with every local path made absolute, seen from `folder`."""
    changes: dict[str, Any] = {"output": (folder / config.output).resolve()}
    if config.data != NO_DATA:
        paths = {name: getattr(config.data, name) for name in ("train", "validation", "test", "template")}
        found = {name: resolved(source, folder) for name, source in paths.items() if source is not None}
        changes["data"] = config.data.model_copy(update=found)
    if config.model and _exists(folder / config.model, folder=True):
        changes["model"] = str((folder / config.model).resolve())
    changes["scoring"] = config.scoring.model_copy(update=_scoring_paths(config.scoring, folder))
    of_rows = guards_of_rows(config.guard)
    changes["guard"] = config.guard | {
        name: guard.model_copy(update=_scoring_paths(guard, folder) | {"data": resolved(guard.data, folder)})
        for name, guard in of_rows.items()
    }
    if config.objective is not None:
        where = (folder / config.objective.working_folder).resolve()
        changes["objective"] = config.objective.model_copy(update={"working_folder": where})
    language: dict[str, str] = {}
    for name in ("model", "prompt"):
        value = getattr(config.language, name)
        if value not in ("same", "none", "minilm") and _exists(folder / value):
            language[name] = str((folder / getattr(config.language, name)).resolve())
    changes["language"] = config.language.model_copy(update=language)
    if config.search.past:
        past = [entry.model_copy(update={"path": _seen(entry.path, folder)}) for entry in config.search.past]
        changes["search"] = config.search.model_copy(update={"past": past})
    if config.execution.storage is not None:
        storage = resolve_storage(config.execution.storage, folder)
        changes["execution"] = config.execution.model_copy(update={"storage": storage})
    return config.model_copy(update=changes)


def _scoring_paths(settings: ScoringConfig, folder: Path) -> dict[str, Any]:
    changes: dict[str, Any] = {"working_folder": (folder / settings.working_folder).resolve()}
    if (tasks := settings.lm_eval.folder) is not None:
        harness = settings.lm_eval.model_copy(update={"folder": (folder / tasks).resolve()})
        changes["lm_eval"] = harness
    if settings.code is not None:
        tests = (folder / settings.code.tests).resolve()
        changes["code"] = settings.code.model_copy(update={"tests": tests})
    return changes


def _seen(place: str, folder: Path) -> str:
    """The path of a file, or the URL of a database, as it is seen from anywhere."""
    if "://" in place or refers(place):
        return resolve_storage(place, folder)
    return os.path.normpath(folder.resolve() / place)


def _exists(path: Path, *, folder: bool = False) -> bool:
    try:
        return path.is_dir() if folder else path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def resolve_storage(url: str, folder: Path) -> str:
    """`url` with the path of a SQLite file made absolute, seen from `folder`."""
    path = url.removeprefix("sqlite:///")
    if path == url or path[:1] in ("", "/", ":"):
        return url
    return f"sqlite:///{(folder / path).resolve()}"


def dump_config(config: RunConfig) -> str:
    """The YAML text of a config, every default written out; `parse_config` gives the same config back."""
    content = config.model_dump(mode="json")
    if config.objective is not None:  # what was not given
        if not config.model:
            del content["model"]
        if config.data == NO_DATA:
            del content["data"]
    return dump(content)


def _explain(error: ValidationError, node: yaml.Node | None, source: str, *, lines: bool) -> str:
    """The first error of a validation as `file:line: key: rule`; a misspelt key before the one it lacks."""
    errors = error.errors(include_url=False)
    # What guards and standard settings may be goes by the objective: without it they are mistaken for others.
    errors = [one for one in errors if one["loc"][:1] == ("objective",)] or errors
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    location = _place(first["loc"])
    if not location and (named := _NAMED.match(first["msg"])):  # a rule of the whole names what it is about
        location = [int(part) if part.isdecimal() else part for part in named[1].split(".")]
        first = {**first, "msg": named[2]}
        errors = [first | {"loc": tuple(location)}]
    place = f"{source}:{_line(node, location)}" if lines else source
    key = printable(".".join(str(part) for part in location), _SHOWN)
    if first["type"] == "extra_forbidden":
        if (refused := _REFUSED.get(str(location[-1]))) is not None:
            return f"{place}: {key}: {refused}"
        known = _known_keys(first["loc"][:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"{place}: unknown key {key!r}; {hint}"
    if first["type"] == "model_type":
        return f"{place}: {key}: {_of_keys(key, _known_keys(first['loc']), first['input'])}"
    rules = [e["msg"].removeprefix("Value error, ") for e in errors if _place(e["loc"]) == location]
    message = " or ".join(rule[:1].lower() + rule[1:] for rule in dict.fromkeys(rules))
    message = message.replace("input is not a valid path for <class 'pathlib.Path'>", "is the path of a file")
    given = first.get("input")
    shown = f"; got {given!r}" if isinstance(given, str | int | float) else ""
    if location[:2] in _SECRET:
        shown = ""
    return f"{place}: {key}: {printable(message, 1000)}{printable(shown, _SHOWN)}"


def _is_section(key: object) -> bool:
    field = RunConfig.model_fields.get(str(key))
    kind = None if field is None else field.annotation
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _of_keys(key: str, known: Sequence[str], given: object) -> str:
    """What is wrong with a value in the place of a section."""
    if isinstance(given, str):
        return f"has keys of its own; did you mean {{{known[0]}: {printable(given, _SHOWN)}}}?"
    return f"has keys of its own: {', '.join(known)}"


def _place(location: tuple[int | str, ...]) -> list[int | str]:
    """Where in the file an error is. Pydantic adds the branch of a union, which users have no key for."""
    if location[:1] == ("guard",) and len(location) > 2 and location[2] in _GUARDS:  # behind the guard's name
        location = (*location[:2], *location[3:])
    if location[:2] == ("beliefs", "knobs"):
        location = ("beliefs", *location[2:])
    return [
        part for part in location if part not in _BRANCHES and not str(part).startswith(("literal[", "list["))
    ]


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """Keys that a section of the file may have, at the place that pydantic names."""
    section: type[BaseModel] = RunConfig
    if location[:1] == ("guard",) and len(location) > 2:
        section, location = _GUARDS[location[2]], location[3:]
    for part in location:
        if section is SpaceConfig and part == "knobs":
            section = KnobConfig
        elif (field := section.model_fields.get(str(part))) is not None:
            for annotation in (field.annotation, *get_args(field.annotation)):  # get_args: of `X | None`
                if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                    section = annotation
    return [field.alias or name for name, field in section.model_fields.items()]


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
                if part != "knobs":  # knobs may stand without it
                    return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line
