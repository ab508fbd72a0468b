"""YAML as people write it by hand: plain data, read within bounds of time and memory.

A file of a few lines can mean more than any memory holds (lists of aliases of lists of aliases), and one of
brackets alone can be nested deeper than any stack. So nodes are counted while the text is read, aliases with
all they stand for, and what is too much is refused before it is made. Errors name the line.

Read are text, numbers, true and false, null, lists, and mappings of words; dates and times are text, and
`1e-4` is a number (YAML 1.1 wants `1.0e-4`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from loracle.errors import LoracleError
from loracle.text.escape import printable

_BYTES = 1_000_000  # of a file; configs have a few thousand
_VALUES = 20_000  # keys, values and lists of a file, aliases with all they stand for
_DEPTH = 50  # levels
_DIGITS = 400  # characters of a number
_WHOLE = 2**63  # whole numbers are smaller: what seeds and arrays hold

_PREFIX = "tag:yaml.org,2002:"
# YAML allows these in quotes only, as `\0`; no path, pattern or argument has a use for them.
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class YamlError(LoracleError):
    """A text that is not YAML, or more than is read.

    Attributes:
        line: where, from 1; None where it is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line

    def place(self, source: object) -> str:
        """`source:line`, or `source` alone."""
        return f"{source}" if self.line is None else f"{source}:{self.line}"


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        YamlError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES + 1)  # and no more, should it be a device
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise YamlError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > _BYTES:
        raise YamlError(f"has more than {_BYTES:,} bytes; that is no file of settings")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise YamlError("is UTF-16, not UTF-8 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError("is not UTF-8 text", content.count(b"\n", 0, error.start) + 1) from None


def parse(text: str) -> tuple[Any, yaml.Node | None]:
    """The data that a text means, and its nodes, which know their lines (from 0).

    Raises:
        YamlError: it is not YAML, or more than is read; without the name of the file.
    """
    if len(text) > _BYTES:
        raise YamlError(f"has more than {_BYTES:,} characters; those are no settings")
    try:
        reader = _Reader(text)
    except yaml.reader.ReaderError as error:  # a character that cannot stand in YAML
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"not valid YAML: the character {chr(error.character)!r}", line) from None
    try:
        node = reader.get_single_node()
        return (None if node is None else _Values(reader).of(node)), node
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        problem = printable(str(error.problem or error.context), 200)
        raise YamlError(f"not valid YAML: {problem}", at.line + 1 if at else None) from None
    except (ValueError, OverflowError) as error:  # `\U99999999`
        line = reader.line + 1
        raise YamlError(f"not valid YAML: {printable(str(error), 200)}", line) from None


def dump(content: Any) -> str:
    """YAML text that `parse`, and any other reader, takes for the same data."""
    return yaml.dump(content, Dumper=Writer, sort_keys=False, allow_unicode=True)


class _Reader(yaml.SafeLoader):
    """Makes nodes, and stops where there are too many, or too deep."""

    yaml_implicit_resolvers: ClassVar = {  # type: ignore[misc]
        first: [
            (tag, pattern) for tag, pattern in found if tag not in (f"{_PREFIX}timestamp", f"{_PREFIX}value")
        ]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        self._count = self._depth = 0
        self._sizes: dict[int, int] = {}  # values that a node stands for, by its id; whole nodes alone
        super().__init__(text)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """One node with all below it. Raises YamlError."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise YamlError(
                    f"not valid YAML: *{printable(str(event.anchor), 50)} stands within itself", line
                )
            self._count += self._sizes[id(node)]
        else:
            before = self._count
            self._count += 1
            self._depth += 1
            if self._depth > _DEPTH:
                raise YamlError(f"nested deeper than {_DEPTH} levels", line)
            node = super().compose_node(parent, index)
            self._depth -= 1
            self._sizes[id(node)] = self._count - before
        if self._count > _VALUES:
            raise YamlError(f"stands for more than {_VALUES:,} values", line)
        return node


class Writer(yaml.SafeDumper):
    """Puts words that look like numbers in quotes, also those that PyYAML takes for words."""


for _class in (_Reader, Writer):
    _class.add_implicit_resolver(
        f"{_PREFIX}float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


class _Values:
    """What nodes mean."""

    def __init__(self, reader: _Reader) -> None:
        self._scalars: dict[str, Callable[[yaml.ScalarNode], Any]] = {
            "null": reader.construct_yaml_null,
            "bool": reader.construct_yaml_bool,
            "int": reader.construct_yaml_int,
            "float": reader.construct_yaml_float,
        }

    def of(self, node: yaml.Node) -> Any:
        """Raises YamlError: a tag that is not read, a key that is no word or is given twice."""
        kind = node.tag.removeprefix(_PREFIX)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.of(item) for item in node.value]
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node)
        if isinstance(node, yaml.ScalarNode) and kind in ("str", "merge"):
            return self._text(node)
        if isinstance(node, yaml.ScalarNode) and kind in self._scalars:
            return self._scalar(node, kind)
        tag = printable(node.tag.replace(_PREFIX, "!!"), 100)
        raise YamlError(f"not valid YAML: the tag {tag} has no meaning here", _line(node))

    def _text(self, node: yaml.ScalarNode) -> str:
        text = str(node.value)
        if found := _NOT_TEXT.search(text):
            raise YamlError(f"not valid YAML: the character {found.group()!r} in a text", _line(node))
        return text

    def _scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        text = str(node.value)
        try:
            if len(text) > _DIGITS:
                raise OverflowError
            value = self._scalars[kind](node)
            if isinstance(value, int) and not -_WHOLE <= value < _WHOLE:
                raise OverflowError
        except OverflowError:
            raise YamlError(f"the number {printable(text, 40)} is too large", _line(node)) from None
        except (ValueError, KeyError, IndexError):  # KeyError: `!!bool 5`, IndexError: `!!int ""`
            raise YamlError(f"not valid YAML: {printable(text, 40)!r} is no {kind}", _line(node)) from None
        return value

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        """A mapping; what `<<` merges into it comes first, and gives way, as in PyYAML."""
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        has_merge = False
        for key, value in node.value:
            if key.tag == f"{_PREFIX}merge" and not has_merge:
                has_merge = True
                merged = self._merged(value)
                continue
            name = self._key(key)
            if name in own or key.tag == f"{_PREFIX}merge":
                raise YamlError(f"not valid YAML: key {printable(name, 100)!r} is given twice", _line(key))
            own[name] = self.of(value)
        return {**merged, **own}

    def _key(self, key: yaml.Node) -> str:
        name = self.of(key) if isinstance(key, yaml.ScalarNode) else None
        if not isinstance(name, str):
            shown = printable(str(key.value), 40) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            raise YamlError(f"not valid YAML: the key {shown} is no word; put it in quotes", _line(key))
        return name

    def _merged(self, node: yaml.Node) -> dict[str, Any]:
        """The last of several comes first, and gives way to those before it."""
        parts = reversed(node.value) if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                raise YamlError("not valid YAML: << takes a mapping, or a list of them", _line(part))
            merged.update(self.of(part))
        return merged


def _line(node: yaml.Node) -> int:
    """From 1."""
    return int(node.start_mark.line) + 1
