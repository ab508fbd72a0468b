"""Whatever rows hold: what carries loss says what the row says, nothing is lost, refusals name the row.

The oracles are plain Python and share nothing with the code: a row's text is put together by hand, and so is
what a chat template renders.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_tokenizers import exact_tokenizers
from transformers import PreTrainedTokenizerFast

from loracle.errors import DataError
from loracle.training.dataset.shapes import as_example, read_fields
from loracle.training.dataset.tokens import Encoded, encode

NAMES = sorted(exact_tokenizers())
# These put a space before whatever follows a special token, wherever it stands.
SPACES_BEHIND_SPECIAL = {name for name in NAMES if name.startswith(("legacy", "metaspace-always"))}
STOPS = ("</s>", "<|im_end|>")
WORDS = [
    *("yes", "answer: ", "no", " ", "\n", "\n\n", "  ", "4", " 4", "12", "=", "x", " and", "\t", "."),
    *("\u00e9", "\U0001f600", "\u4f60\u597d", "\u3000", "\u200d", "\x00", "{", '"', "\\", "None"),
    *("</s>", "<|im_end|>", "<s>", "<|im_start|>", "</s> \n", "<think>"),
]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map("".join)
said = texts.filter(lambda text: bool(text.strip()))
plain = st.lists(st.sampled_from(WORDS[:25]), min_size=1, max_size=5).map("".join)
names = st.sampled_from(NAMES)
FEW = settings(max_examples=150, deadline=None)


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    return exact_tokenizers()[name]


def encoded_row(row: dict[str, Any], tokenizer: PreTrainedTokenizerFast, max_length: int = 5000) -> Encoded:
    """A row as it comes from a file."""
    example = as_example(json.loads(json.dumps(row)), "rows.jsonl:7")
    stop_ids = tokenizer.convert_tokens_to_ids(list(STOPS))
    return encode([example], tokenizer, max_length, stop_ids=stop_ids)


def ended(text: str, before: str = "") -> str:
    """A row's text with its end: white space behind a stop token goes, and without one a stop token comes."""
    if text.rstrip().endswith(STOPS):
        return text.rstrip()
    uses = sorted((before + text).rfind(stop) for stop in STOPS)
    last = max(STOPS, key=(before + text).rfind) if uses[-1] >= 0 else "</s>"
    return text + last


def same(name: str, found: str, expected: str, *, is_whole: bool = True) -> bool:
    """Equal to the letter, but for what the tokenizer itself does: white space behind special tokens, and one
    first space, which is there anyway."""
    if is_whole and name.startswith(("metaspace-always", "metaspace-first")):
        expected = expected.removeprefix(" ")
    if name in SPACES_BEHIND_SPECIAL and "<" in expected:
        return "".join(found.split()) == "".join(expected.split())
    return found == expected


def opening(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """What the tokenizer puts before a text that does not bring it."""
    return [tokenizer.bos_token_id] if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else []


def body(encoded: Encoded, tokenizer: PreTrainedTokenizerFast, row_opens: bool) -> list[int]:
    """All tokens but the opening that was added."""
    tokens = encoded.tokens.tolist()
    return tokens if row_opens else tokens[len(opening(tokenizer, "")) :]


def runs(encoded: Encoded, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Stretches of tokens that carry loss, as text: what they add to the text before them."""
    tokens, counted = encoded.tokens.tolist(), [*encoded.counted.tolist(), False]
    found = []
    start = None
    for i, flag in enumerate(counted):
        if flag and start is None:
            start = i
        elif not flag and start is not None:
            before = tokenizer.decode(tokens[:start])
            found.append(tokenizer.decode(tokens[:i])[len(before) :])
            start = None
    return found


# -- prompt and completion, text --------------------------------------------------------------------


@FEW
@given(name=names, prompt=said, completion=said)
def test_prompts_and_completions(name: str, prompt: str, completion: str) -> None:
    tokenizer = tokenizer_of(name)
    encoded = encoded_row({"prompt": prompt, "completion": completion}, tokenizer)
    opens = (prompt + completion).startswith("<s>") and bool(opening(tokenizer, ""))
    assert same(name, tokenizer.decode(body(encoded, tokenizer, opens)), prompt + ended(completion, prompt))
    start = encoded.prompt_lengths[0]
    alone = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert body(encoded, tokenizer, opens)[: len(alone)] == alone  # generation sees what training saw
    assert encoded.counted.tolist() == [False] * start + [True] * (len(encoded.tokens) - start)
    assert start == len(alone) + (0 if opens else len(opening(tokenizer, "")))
    inner = ended(completion, prompt)
    first = min(i for stop in STOPS if (i := inner.find(stop)) >= 0)
    behind = inner[first:]
    for stop in STOPS:
        behind = behind.replace(stop, "")
    assert encoded.goes_on.tolist() == [bool(behind.strip())]


@FEW
@given(name=names, text=said)
def test_texts(name: str, text: str) -> None:
    tokenizer = tokenizer_of(name)
    encoded = encoded_row({"text": text}, tokenizer)
    opens = text.startswith("<s>") and bool(opening(tokenizer, ""))
    assert same(name, tokenizer.decode(body(encoded, tokenizer, opens)), ended(text))
    assert encoded.counted.tolist() == [False] + [True] * (len(encoded.tokens) - 1)


# -- chats ------------------------------------------------------------------------------------------

TEMPLATES = {
    "whole": (
        "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}{{ ' ' ~ m.name if m.name else '' }}\n"
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m['content'] or '' }}"
        "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} "
        "{{ call.function.arguments | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "contents": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}
# The same that keeps thoughts with the last turn alone.
TEMPLATES["forgetful"] = TEMPLATES["whole"].replace(
    "m.reasoning_content %}", "m.reasoning_content and loop.last %}"
)


@cache
def with_template(name: str, template: str) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(tokenizer_of(name))
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer


@st.composite
def turns(draw: st.DrawFn, role: str) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": role, "content": draw(texts)}
    if draw(st.integers(0, 5)) == 0:
        turn["name"] = draw(st.sampled_from(["eve", "bob"]))
    if role != "assistant":
        return turn
    kind = draw(st.integers(0, 7))
    if kind == 0:
        arguments = draw(
            st.dictionaries(st.sampled_from("abc"), plain | st.integers(), min_size=1, max_size=2)
        )
        turn["tool_calls"] = [{"id": "1", "function": {"name": "find", "arguments": arguments}}]
        turn["content"] = draw(st.sampled_from(["", None, "so"]))
    elif kind == 1:
        turn["reasoning_content"] = draw(plain.filter(str.strip))
    elif kind == 2:
        turn["weight"] = draw(st.sampled_from([0, 1]))
    return turn


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    messages = []
    for _ in range(draw(st.integers(1, 3))):
        messages += [draw(turns("user")), draw(turns("assistant"))]
    row: dict[str, Any] = {"messages": messages}
    if draw(st.integers(0, 3)) == 0:
        row["tools"] = [{"type": "function", "function": {"name": "find"}}]
    return row


def rendered(turn: dict[str, Any], template: str, last: bool) -> tuple[str, str]:
    """A turn's head and what follows it, as the template has them."""
    head = f"<|im_start|>{turn['role']}"
    if template == "contents":
        return f"{head}\n", f"{turn['content']}<|im_end|>"
    name = f" {turn['name']}" if "name" in turn else ""
    thought = turn.get("reasoning_content")
    shown = thought and (template == "whole" or last)
    calls = ""
    for call in turn.get("tool_calls", []):
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls += f"<call>{call['function']['name']} {arguments}</call>"
    thoughts = f"<think>{thought}</think>" if shown else ""
    return f"{head}{name}\n", f"{thoughts}{turn['content'] or ''}{calls}<|im_end|>"


def refusal(row: dict[str, Any], template: str) -> str | None:
    """Why a row has to be refused, if it has to."""
    last = row["messages"][-1]
    if not ((last["content"] or "").strip() or "tool_calls" in last or "reasoning_content" in last):
        return "the last turn must be the assistant's, with text to learn"
    if last.get("weight") == 0:
        return "the last turn has a weight of 0"
    if template == "contents":
        if "tools" in row:
            return "does not render the row's tools"
        fields = [
            field
            for turn in row["messages"]
            for field in ("tool_calls", "reasoning_content")
            if field in turn
        ]
        if fields:
            return f"does not render {fields[0]}"
    return None if "name" not in last or template == "contents" else "after its own generation prompt"


@FEW
@given(name=names, template=st.sampled_from(sorted(TEMPLATES)), row=chats())
def test_chats(name: str, template: str, row: dict[str, Any]) -> None:
    tokenizer = with_template(name, template)
    reason = refusal(row, template)
    if reason is not None:
        with pytest.raises(DataError, match=reason) as caught:
            encoded_row(row, tokenizer)
        assert str(caught.value).startswith("rows.jsonl:7: ")
        assert str(caught.value).isprintable()
        return
    encoded = encoded_row(row, tokenizer)
    whole, loss, rewritten = "", [], 0
    if row.get("tools"):
        whole += f"<|im_start|>tools\n{json.dumps(row['tools'])}<|im_end|>\n"
    for i, turn in enumerate(row["messages"]):
        last = i == len(row["messages"]) - 1
        head, rest = rendered(turn, template, last)
        whole += head + rest + ("" if last else "\n")
        if turn["role"] != "assistant" or turn.get("weight") == 0:
            continue
        if rendered(turn, template, True) != (head, rest) or ("name" in turn and template != "contents"):
            rewritten += 1  # another head, or other thoughts, than where the turn is written
        else:
            loss.append(rest)
    assert same(name, tokenizer.decode(encoded.tokens.tolist()), whole)
    found = runs(encoded, tokenizer)
    assert len(found) == len(loss)
    assert all(same(name, a, b, is_whole=False) for a, b in zip(found, loss, strict=True))
    assert encoded.remarks.turns == rewritten
    passed_over = sum("name" in turn for turn in row["messages"]) if template == "contents" else 0
    assert encoded.remarks.fields.total() == passed_over


# -- many rows, any fields --------------------------------------------------------------------------


@FEW
@given(
    name=names,
    rows=st.lists(st.tuples(said, said), min_size=3, max_size=12),
    max_length=st.integers(8, 40),
)
def test_every_row_is_whole_or_counted(name: str, rows: Sequence[tuple[str, str]], max_length: int) -> None:
    tokenizer = tokenizer_of(name)
    stop_ids = tokenizer.convert_tokens_to_ids(list(STOPS))
    examples = [
        as_example({"prompt": p, "completion": c}, f"rows.jsonl:{i}") for i, (p, c) in enumerate(rows)
    ]
    alone = [encode([example], tokenizer, 5000, stop_ids=stop_ids) for example in examples]
    kept = [i for i, one in enumerate(alone) if len(one.tokens) <= max_length]
    if not kept or len(rows) - len(kept) > len(rows) / 2:
        with pytest.raises(
            DataError, match=f"{len(rows) - len(kept)} of {len(rows)} examples have more than"
        ):
            encode(examples, tokenizer, max_length, stop_ids=stop_ids)
        return
    encoded = encode(examples, tokenizer, max_length, stop_ids=stop_ids)
    assert encoded.positions.tolist() == kept
    assert encoded.dropped == len(rows) - len(kept)
    for place, i in enumerate(kept):
        own = slice(encoded.starts[place], encoded.ends[place])
        assert encoded.tokens[own].tolist() == alone[i].tokens.tolist()
        assert encoded.counted[own].tolist() == alone[i].counted.tolist()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | texts | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
FIELDS = [
    *("prompt", "completion", "text", "messages", "choices", "tools", "documents", "chat_template_kwargs"),
    *("label", "answer", "id", "source", "weight", "images", "system", "\x1b[31m", "\ud800", ""),
]


@FEW
@given(
    row=st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4),
    form=st.sampled_from(["text", "prompt", "messages", ""]),
    turn=st.dictionaries(
        st.sampled_from(["content", "tool_calls", "name", "weight", "reasoning_content", "x"]), json_values
    ),
)
@example(row={"": ["a"]}, form="", turn={})
@example(row={}, form="messages", turn={"name": False})
def test_any_fields_are_read_told_of_or_refused(row: dict[str, Any], form: str, turn: dict[str, Any]) -> None:
    asked = {"role": "user", "content": "q"}
    forms: dict[str, dict[str, Any]] = {
        "text": {"text": "so"},
        "prompt": {"prompt": "q", "completion": "a"},
        "messages": {"messages": [asked, {"role": "assistant", "content": "a", **turn}]},
        "": {},
    }
    row = row | forms[form]
    refused = None
    try:
        example = as_example(row, "rows.jsonl:7")
        encoded = encode([example], with_template("byte-level", "whole"), 5000)
    except DataError as error:
        refused = str(error)
    if refused is not None:
        assert refused.startswith("rows.jsonl:7: ")
        assert "\n" not in refused
        return
    told = {field for field in row if field not in read_fields() and row[field] not in (None, "", [], {})}
    assert told <= set(example.unread) <= row.keys()
    assert not told & {"images", "tools"}
    assert encoded.counts[0] >= 1
    if form == "messages":
        given = {key for key, value in turn.items() if value not in (None, "", [], {})}
        unsaid = {"x"} if turn.get("name") else {"x", "name"}  # a name that is none is not rendered
        assert set(encoded.remarks.fields) == given & unsaid
