"""The text of a config: an explanation that all configs share (the prefix) and its own lines (the body).

The words live in versioned YAML files (`loracle/language/prompts/`, or a file of the user's own):

    version: my-v1
    introduction: [sentences]          # optional
    knobs: {rank: [sentences], ...}    # optional; keyed by a knob's `explanation`, or its name
    heading: "The settings:"           # optional
    body: ["rank={rank:g}", ...]       # the lines of a config, in order

A sentence is a string, or `say:` with the numbers of the `facts:` it rests on. Placeholders name a knob or a
derived quantity (`DERIVED`) and say how the number is spelt: `{x:g}` shortest, `{x:d}` whole, `{x:.2f}`
fixed, `{x:.1e}` scientific, `{x:log10}` as `10^-3.70`, `{x:log2}` as `2^4.0`. One form a knob, so that
magnitude alone changes the text. Names are stated as they are, with their sentence in brackets. Knobs that
the file does not mention are stated first, as `name=value`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from loracle.config.knobs import without_setting
from loracle.config.training.plan import count_steps
from loracle.config.yaml_file import YamlError, parse, read_text
from loracle.errors import PromptError
from loracle.records.space import Knob, SearchSpace, Value, with_alpha
from loracle.text.escape import printable

PROMPTS = Path(__file__).parent / "prompts"

DERIVED = {
    "alpha": "alpha, where the space searches alpha_ratio",
    "alpha_ratio": "alpha over rank, the factor of the adapter's output (fact 0)",
    "step_size": "alpha times learning rate, the best single summary of a config (fact 19)",
    "update_scale": "learning rate times alpha over rank",
    "examples": "number of training examples of a trial",
    "epochs": "passes over them",
    "optimizer_steps": "examples times epochs over batch size, rounded up (fact 29)",
}
_SHARED = ("examples", "epochs")  # the same for every config, so allowed in the prefix
_KEYS = ("version", "introduction", "knobs", "heading", "body")
_FORM = re.compile(r"|g|d|log10|log2|\.\d[efg]")


@dataclass(frozen=True)
class Template:
    """Words with numbers to fill in: (words, name, form) pieces; name and form are empty after the last."""

    pieces: tuple[tuple[str, str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its numbers, in order."""
        return tuple(name for _, name, _ in self.pieces if name)

    def fill(self, values: Mapping[str, Value]) -> str:
        """The words with every number spelt."""
        return "".join(
            words + (spell(values[name], form) if name else "") for words, name, form in self.pieces
        )


@dataclass(frozen=True)
class Prompt:
    """Turns configs of one space into texts.

    Attributes:
        version: the version that the file states.
        prefix: what every text begins with.
        lines: templates of the body, in order.
        shared: numbers that are the same for every config (`examples`, `epochs`).
        about: sentences on names that knobs have: the knob, its name, the sentence, which follows the name.
    """

    version: str
    prefix: str
    lines: tuple[Template, ...]
    shared: tuple[tuple[str, Value], ...] = ()
    about: tuple[tuple[str, str, str], ...] = ()

    def body(self, config: Mapping[str, Value]) -> str:
        """The config's own lines. Knobs have the names of the space; `alpha` or `alpha_ratio` will do."""
        values = _derive({**dict(self.shared), **config})
        for knob, name, sentence in self.about:
            if config.get(knob) == name:
                values[knob] = f"{name} ({sentence})"
        return "\n".join(line.fill(values) for line in self.lines)

    def text(self, config: Mapping[str, Value]) -> str:
        """The whole text of a config: `prefix`, then its `body`."""
        return self.prefix + self.body(config)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of everything that decides what a config's text is."""
        content = [self.prefix, [line.pieces for line in self.lines], self.shared]
        if self.about:
            content.append(self.about)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def load_prompt(
    name_or_path: str | Path, space: SearchSpace, *, n_examples: int | None = None, epochs: float | None = 1.0
) -> Prompt:
    """The prompt of a version that Loracle ships, or of a file of the same format, for one space.

    Sentences and lines that need a number the run does not have are left out: a knob that the space lacks,
    or `examples` and `optimizer_steps` where `n_examples` is None.

    Args:
        name_or_path: a version, such as `lora-v1`, or the path of a YAML file.
        space: the space whose configs are stated; it decides which knobs are explained.
        n_examples: training examples of a trial.
        epochs: passes over them, unless the space has a knob of that name; None: it depends on the batch.

    Raises:
        PromptError: unknown version, a file that cannot be read or breaks the format, or a placeholder that
            is neither a knob nor a derived quantity.
    """
    path = _find(str(name_or_path))
    content = _read(path)
    explained = _mapping(path, content, "knobs")
    for key in content:
        if key not in _KEYS:
            raise PromptError(f"{path}: unknown key {key!r}; a prompt file has {', '.join(_KEYS)}")
    version, heading = content.get("version"), content.get("heading", "")
    if not isinstance(version, str) or not version:
        raise PromptError(f"{path}: version: a prompt file needs a version, such as `version: my-v1`")
    if not isinstance(heading, str):
        raise PromptError(f"{path}: heading: must be text; got {_short(heading)}")

    shared: dict[str, Value] = {}
    if epochs is not None and "epochs" not in space.names:
        shared["epochs"] = epochs
    if n_examples is not None:
        shared["examples"] = n_examples
    paragraphs = [_paragraph(path, "introduction", content.get("introduction", []), shared)]
    for key, sentences in explained.items():  # the file's own order, read in full even where unused
        said = _paragraph(path, f"knobs.{key}", sentences, shared)
        if key in {knob.explanation or knob.name for knob in space}:
            paragraphs.append(said)
    prefix = "\n".join(part for part in (*paragraphs, heading) if part)
    return Prompt(
        version=version,
        prefix=prefix + "\n" if prefix else "",
        # A file may name the usual knobs, in the space or not.
        lines=_lines(path, content.get("body"), space, {*explained, *DERIVED, *without_setting()}, shared),
        shared=tuple(sorted(shared.items())),
        about=tuple((knob.name, *pair) for knob in space for pair in knob.about.items()),
    )


def versions() -> list[str]:
    """The versions that Loracle ships."""
    return sorted(path.stem for path in PROMPTS.glob("*.yaml"))


def spell(value: Value, form: str) -> str:
    """A number in one of the forms that the module's docstring lists; a name as it is, in whatever form.

    Raises:
        PromptError: `d` with a number that is not whole.
    """
    if isinstance(value, str):
        return value
    if form in ("log10", "log2"):
        if value <= 0:
            return "0"  # no logarithm; `10^-inf` would read as a number
        exponent = math.log10(value) if form == "log10" else math.log2(value)
        return f"10^{exponent + 0.0:.2f}" if form == "log10" else f"2^{exponent + 0.0:.1f}"
    if form == "d":
        if not float(value).is_integer():
            raise PromptError(f"a prompt spells {value} as a whole number; use the form g or .2f")
        return str(int(value))
    if form in ("", "g"):
        return f"{value:.12g}"
    return f"{value:{form}}"


# -- reading a file -----------------------------------------------------------------------------------


def _find(name: str) -> Path:
    shipped = PROMPTS / f"{name}.yaml"
    if name in versions():
        return shipped
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise PromptError(f"{path}: there is no such prompt file")
    raise PromptError(
        f"unknown prompt {name!r}; give one of {', '.join(versions())}, or the path of a YAML file"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content, _ = parse(read_text(path))
    except YamlError as error:
        raise PromptError(f"{error.place(path)}: {error}") from None
    if not isinstance(content, dict):
        raise PromptError(f"{path}: a prompt file is a mapping with the keys {', '.join(_KEYS)}")
    return content


def _short(value: Any) -> str:
    return printable(repr(value), 100)


def _mapping(path: Path, content: dict[str, Any], key: str) -> dict[str, Any]:
    found = content.get(key, {})
    if not isinstance(found, dict):
        raise PromptError(f"{path}: {key}: must map names to lists of sentences; got {_short(found)}")
    return {str(name): value for name, value in found.items()}


def _sentences(path: Path, key: str, sentences: Any) -> list[str]:
    """The texts of sentences; the facts that they cite are for the authors of prompts."""
    if not isinstance(sentences, list):
        raise PromptError(f"{path}: {key}: must be a list of sentences; got {_short(sentences)}")
    found = []
    for number, sentence in enumerate(sentences):
        entry = {"say": sentence} if isinstance(sentence, str) else sentence
        if not isinstance(entry, dict) or not set(entry) <= {"say", "facts"} or not entry.get("say"):
            raise PromptError(f"{path}: {key}[{number}]: a sentence is a string, or `say:` and `facts:`")
        text, facts = entry["say"], entry.get("facts", [])
        if not isinstance(text, str):
            raise PromptError(f"{path}: {key}[{number}].say: must be a string; got {text!r}")
        if not isinstance(facts, list) or not all(type(fact) is int for fact in facts):
            raise PromptError(f"{path}: {key}[{number}].facts: must be a list of numbers; got {facts!r}")
        found.append(text)
    return found


def _paragraph(path: Path, key: str, sentences: Any, shared: Mapping[str, Value]) -> str:
    said = []
    for number, text in enumerate(_sentences(path, key, sentences)):
        template = _template(path, f"{key}[{number}]", text, _SHARED, "the numbers that all configs share")
        if set(template.names) <= set(shared):
            said.append(template.fill(shared))
    return " ".join(said)


def _lines(
    path: Path, body: Any, space: SearchSpace, known: set[str], shared: Mapping[str, Value]
) -> tuple[Template, ...]:
    """The templates of the body: knobs that the file leaves out, then its own lines."""
    if body is None:
        body = []
    if not isinstance(body, list) or not all(isinstance(line, str) for line in body):
        raise PromptError(f"{path}: body: must be a list of lines of text, such as 'rank={{rank:g}}'")
    own = [
        _template(path, f"body[{number}]", line, known | set(space.names), "a knob or a derived quantity")
        for number, line in enumerate(body)
    ]
    available = _available(space, shared)
    own = [line for line in own if set(line.names) <= available]
    stated = {name for line in own for name in line.names}
    pair = {"alpha", "alpha_ratio"}  # with rank, either one states the other
    missing = [
        _default_line(knob)
        for knob in space
        if knob.name not in stated and not (knob.name in pair and stated & pair)
    ]
    return (*missing, *own)


def _available(space: SearchSpace, shared: Mapping[str, Value]) -> set[str]:
    """Names of all numbers that are known for every config of a space."""
    example: dict[str, Value] = {**dict(shared), **{knob.name: knob.values[-1] for knob in space}}
    return set(_derive(example))


def _derive(values: Mapping[str, Value]) -> dict[str, Value]:
    """`values` with every derived quantity that they determine."""
    full: dict[str, Value] = with_alpha(values)
    known = {name: value for name, value in full.items() if not isinstance(value, str)}
    if "learning_rate" in known and "alpha" in known:
        full["step_size"] = known["learning_rate"] * known["alpha"]
    if "learning_rate" in known and "alpha_ratio" in known:
        full["update_scale"] = known["learning_rate"] * known["alpha_ratio"]
    if "batch_size" in known and "examples" in known and "epochs" in known:
        full["optimizer_steps"] = count_steps(int(known["examples"]), known["epochs"], known["batch_size"])
    return full


def _default_line(knob: Knob) -> Template:
    form = "log10" if knob.scale == "log10" else "g"
    return Template(((f"{knob.name}=", knob.name, form),))


def _template(path: Path, key: str, text: str, known: set[str] | tuple[str, ...], rule: str) -> Template:
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise PromptError(f"{path}: {key}: {error}; write {{{{ and }}}} for plain braces") from None
    pieces = []
    for words, name, form, conversion in parsed:
        if name is None:
            pieces.append((words, "", ""))
            continue
        if name not in known:
            names = ", ".join(sorted(known))
            raise PromptError(f"{path}: {key}: placeholder {{{name}}} is not {rule}; known: {names}")
        if conversion or not _FORM.fullmatch(form or ""):
            given = f"!{conversion}" if conversion else f":{form}"
            raise PromptError(
                f"{path}: {key}: {{{name}{given}}}: a number is spelt as g, d, log10, log2, .2f or .1e"
            )
        pieces.append((words, name, form or ""))
    return Template(tuple(pieces))
