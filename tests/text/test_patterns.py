from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loracle.errors import ConfigError
from loracle.text.patterns import Pattern

# Pieces of which most patterns that people write are made, and texts that they could match.
ATOMS = st.sampled_from(
    [
        *("a", "b", ".", r"\d", r"\s", r"\S", r"\w", r"\b", "^", "$", "[ab]", "[^a]", "[{}]", "[]a]"),
        *("{", "}", r"\{", "{e}", "{e<=1}", r"\N{DIGIT ONE}", "é", "#### "),
    ]
)
REPEATS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{,2}", "{1,}", "*?", "+?"])
FLAGS = st.sampled_from(["", "", "(?s)", "(?i)", "(?m)", "(?x)"])
TEXTS = st.text(st.sampled_from("abAB1 2\n{}e<=#é"), max_size=12)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 2) -> str:
    """A sequence of repeated atoms and groups."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        if depth and draw(st.booleans()):
            inner = draw(expressions(depth=depth - 1))
            part = draw(st.sampled_from(["({})", "(?:{})", "({}|b)", "(?={})", f"(?P<n{depth}>{{}})"]))
            parts.append(part.replace("{}", inner) + draw(st.sampled_from(["", "?"])))
        else:
            parts.append(draw(ATOMS) + draw(REPEATS))
    return "".join(parts)


@given(FLAGS, expressions(), TEXTS)
def test_patterns_mean_what_they_mean_to_python(flags: str, expression: str, text: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            truth = re.compile(flags + expression)
    except re.error:
        with pytest.raises(ConfigError, match=r"^scoring\.answer_pattern: "):
            Pattern(flags + expression, "scoring.answer_pattern")
        return
    matches = [m.group(1 if truth.groups else 0) for m in truth.finditer(text)]
    pattern = Pattern(flags + expression, "scoring.answer_pattern")
    assert pattern.first(text) == (matches[0] if matches else None)
    assert pattern.last(text) == (matches[-1] if matches else None)


@pytest.mark.parametrize("search", ["first", "last"])
@pytest.mark.parametrize("expression", ["([a-z]+)+$", "(a|aa)+$", r"(\w+\s?)*$"])
def test_a_pattern_that_never_ends_is_stopped_and_named(search: str, expression: str) -> None:
    pattern = Pattern(expression, "objective.result.regex", seconds=0.2)
    with pytest.raises(ConfigError, match=r"^objective.result.regex: .* took more than 0.2 s") as caught:
        getattr(pattern, search)("a" * 5000 + "!")
    assert repr(expression) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_malformed_patterns_are_refused_in_one_line() -> None:
    for expression in ("(", "*", r"\p{L}", "(?<=a+)b", "a" * 10 + "{2}{3}", "(" * 5000 + ")" * 5000):
        with pytest.raises(ConfigError, match=r"^x: ") as caught:
            Pattern(expression, "x")
        assert "\n" not in str(caught.value)
