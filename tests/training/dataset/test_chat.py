from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from small_tokenizers import byte_level, make_tokenizer
from token_texts import counted_text, whole_text
from transformers import PreTrainedTokenizerFast

from loracle.errors import DataError
from loracle.training.dataset.shapes import Example, Message, as_example
from loracle.training.dataset.tokens import encode


def test_every_assistant_turn_counts(tokenizer: Any) -> None:
    turns = [("user", "a"), ("assistant", "bc"), ("user", "d"), ("assistant", "e")]
    example = Example("a:1", messages=tuple(Message(*turn) for turn in turns))
    encoded = encode([example], tokenizer, 40)
    assert whole_text(encoded, tokenizer) == "<user>a\n<assistant>bc<eos>\n<user>d\n<assistant>e<eos>"
    assert counted_text(encoded, tokenizer) == "bc<eos>e<eos>"
    prompt = encoded.tokens[: encoded.prompt_lengths[0]]
    chat = [{"role": role, "content": content} for role, content in turns[:-1]]
    seen = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert prompt.tolist() == seen


def test_of_a_turn_that_a_chat_begins_with_its_text_alone_is_learnt() -> None:
    """And neither what stands before it nor a system's turn that the template puts there by itself."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "<user>be kind\n" + str(tokenizer.chat_template)
    turns = [("assistant", "bc"), ("user", "d"), ("assistant", "e")]
    example = Example("a:1", messages=tuple(Message(*turn) for turn in turns))
    encoded = encode([example], tokenizer, 60)
    assert whole_text(encoded, tokenizer) == "<user>be kind\n<assistant>bc<eos>\n<user>d\n<assistant>e<eos>"
    assert counted_text(encoded, tokenizer) == "bc<eos>e<eos>"
    tokenizer.chat_template = str(tokenizer.chat_template).replace(
        "generation_prompt", "generation_prompt and messages[1:]"
    )
    encoded = encode([example], tokenizer, 60)
    assert counted_text(encoded, tokenizer) == "e<eos>"
    assert encoded.remarks.turns == encoded.remarks.rows == 1


def test_a_turn_that_the_template_rewrites_is_not_learnt() -> None:
    forgetful = make_tokenizer()
    forgetful.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}"
        "{% else %}<assistant>{% if loop.last %}?{% endif %}{{ m['content'] }}<eos>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    example = Example("a:1", messages=tuple(Message(*turn) for turn in turns))
    encoded = encode([example], forgetful, 40)
    assert counted_text(encoded, forgetful) == "?d<eos>"


def test_chat_template_problems_are_explained(tokenizer: Any) -> None:
    example = Example("a:7", messages=(Message("user", "a"), Message("assistant", "b")))
    none = make_tokenizer()
    none.chat_template = None
    with pytest.raises(DataError, match=r"a:7: rows are messages, but the tokenizer has no chat template"):
        encode([example], none, 40)
    none.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"a:7: the chat template refuses these messages: roles must alter"):
        encode([example], none, 40)
    none.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    with pytest.raises(DataError, match=r"a:7: the chat template does not render the last turn"):
        encode([example], none, 40)


# -- fields of turns and rows -----------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "of a city"}}]
ASK = {"role": "user", "content": "Paris?"}
ANSWER = {"role": "assistant", "content": "rain"}
# Like Qwen's: tools, calls with arguments as a text or an object, thoughts of the last turn.
FULL = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m['content'] or '' }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} "
    "{% if call.function.arguments is string %}{{ call.function.arguments }}"
    "{% else %}{{ call.function.arguments | tojson }}{% endif %}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def with_template(template: str) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(byte_level())
    tokenizer.chat_template = template
    return tokenizer


def learnt(row: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> str:
    """What the model learns to write, of a row as it stands in a file."""
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    return counted_text(encode([as_example(row, "a:1")], tokenizer, 500, stop_ids=stops), tokenizer)


def calling(arguments: Any, content: str | None) -> dict[str, Any]:
    calls = [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}]
    return {"role": "assistant", "content": content, "tool_calls": calls}


@pytest.mark.parametrize("content", ["", None])
def test_a_tool_call_is_learnt(content: str | None) -> None:
    tokenizer = with_template(FULL)
    row = {"messages": [ASK, calling('{"city":"Paris"}', content)], "tools": TOOLS}
    assert learnt(row, tokenizer) == '<call>weather {"city":"Paris"}</call><|im_end|>'
    row["messages"][1] = calling({"city": "Paris"}, content)
    assert learnt(row, tokenizer) == '<call>weather {"city": "Paris"}</call><|im_end|>'
    encoded = encode([as_example(row, "a:1")], tokenizer, 500)
    assert '<|im_start|>tools\n[{"type": "function"' in whole_text(encoded, tokenizer)
    spelt = row | {"tools": json.dumps(TOOLS)}  # as files with columns have it
    assert as_example(spelt, "a:1").content == as_example(row, "a:1").content


def test_arguments_are_not_quoted_twice() -> None:
    """Llama 3.1 and GPT-OSS write arguments by `tojson`, whatever they are."""
    only_objects = with_template(FULL.replace("call.function.arguments is string", "false"))
    row = {"messages": [ASK, calling('{"city":"Paris"}', "")]}
    assert learnt(row, only_objects) == '<call>weather {"city": "Paris"}</call><|im_end|>'


def test_arguments_are_not_put_into_braces_twice() -> None:
    """Gemma 4 writes arguments in braces of its own, and a text among them as it is."""
    pairs = "{% for k, v in call.function.arguments.items() %}{{ k }}:{{ v }}{% endfor %}"
    braces = FULL.replace("{{ call.function.arguments | tojson }}", pairs)
    braces = braces.replace("{% if call.function.arg", "{{ '{' }}{% if call.function.arg")
    braces = braces.replace("{% endif %}</call>", "{% endif %}{{ '}' }}</call>")
    for arguments in ('{"city":"Paris"}', {"city": "Paris"}):
        row = {"messages": [ASK, calling(arguments, "")]}
        assert learnt(row, with_template(braces)) == "<call>weather {city:Paris}</call><|im_end|>"


@pytest.mark.parametrize("arguments", [{"city": "Paris"}, '{"city": "Paris"}'])
def test_that_a_template_takes_one_call_a_turn_is_said(arguments: Any) -> None:
    """As GPT-OSS' does; that it wants objects for arguments is no reason."""
    first = FULL.replace("call in m.tool_calls or []", "call in (m.tool_calls or [])[:1]")
    one = with_template(first.replace("call.function.arguments is string", "false"))
    turn = calling(arguments, "")
    turn["tool_calls"].append({"type": "function", "function": {"name": "time", "arguments": arguments}})
    with pytest.raises(DataError, match=r"tool_calls\[1\].*: 'time', for it takes one call a turn"):
        learnt({"messages": [ASK, turn]}, one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tools": TOOLS}, "render the row's tools"),
        ({"documents": [{"text": "d"}]}, "render the row's documents"),
        ({"messages": [ASK, calling("{}", "so")]}, r"render tool_calls of turn 2 \(assistant\)"),
        (
            {"messages": [ASK, {**ANSWER, "reasoning_content": "cloudy"}]},
            "render reasoning_content of turn 2",
        ),
        (
            {"messages": [ASK, {**ANSWER, "function_call": {"name": "f"}}]},
            "render function_call of turn 2",
        ),
        ({"messages": [{**ASK, "images": ["a.png"]}, ANSWER]}, r"render images of turn 1 \(user\)"),
    ],
)
def test_what_a_template_leaves_out_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"a:1: the chat template does not .*{message}") as caught:
        learnt({"messages": [ASK, ANSWER], **changes}, byte_level())
    assert "\n" not in str(caught.value)


def test_a_part_of_a_tool_call_that_a_template_leaves_out_is_refused() -> None:
    nameless = with_template(FULL.replace("{{ call.function.name }}", ""))
    row = {"messages": [ASK, calling({"city": "Paris"}, "so")], "tools": TOOLS}  # the name is in the tools
    with pytest.raises(DataError, match=r"does not render tool_calls\[0\].function.name of turn 2 \(assist"):
        learnt(row, nameless)


def test_what_is_said_elsewhere_too_is_missed_where_it_is_left_out() -> None:
    """LFM 2 renders the names of tools, and none of their calls: the model would learn to write nothing."""
    silent = with_template(FULL.replace("m.tool_calls or []", "[]"))
    with pytest.raises(DataError, match="does not render tool_calls of turn 2"):
        learnt({"messages": [ASK, calling({}, "")], "tools": TOOLS}, silent)
    thoughtless = with_template(FULL.replace("m.reasoning_content and", "false and"))
    with pytest.raises(DataError, match="does not render reasoning_content of turn 2"):
        learnt({"messages": [ASK, {**ANSWER, "reasoning_content": "rain"}]}, thoughtless)


def test_a_role_that_a_template_leaves_out_is_refused() -> None:
    """As Qwen's and Zephyr's leave out `developer`."""
    known = with_template(
        "{% for m in messages %}{% if m['role'] in ('user', 'assistant') %}<|im_start|>{{ m['content'] }}"
        "<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    row = {"messages": [{"role": "developer", "content": "be brief"}, ASK, ANSWER]}
    with pytest.raises(DataError, match=r"does not render content of turn 1 \(developer\): 'be brief'"):
        learnt(row, known)


def test_templates_that_want_parts_are_given_parts() -> None:
    """Those of Idefics and LLaVA render nothing of a content that is a text."""
    seeing = with_template(
        "{% for m in messages %}<|im_start|>{% for part in m['content'] %}{% if part['type'] == 'text' %}"
        "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    row = {"messages": [ASK, ANSWER]}
    assert learnt(row, seeing) == "rain<|im_end|>"
    encoded = encode([as_example(row, "a:1")], seeing, 100)
    assert whole_text(encoded, seeing).startswith("<|im_start|>Paris?<|im_end|>")
    parts = {"messages": [ASK, {"role": "assistant", "content": [{"type": "text", "text": "rain"}]}]}
    assert learnt(parts, seeing) == learnt(parts, byte_level()) == "rain<|im_end|>"


SEEING = (  # as those of Gemma 3 and Qwen-VL: a text, or parts
    "{% for m in messages %}<|im_start|>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def in_parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(
    ("template", "whole", "answer", "joined"),
    [(SEEING, "<|im_start|>Paris?<|im_end|>", "rain", 0), (None, "Paris\n?", "ra\nin", 1)],
    ids=["reads parts", "reads texts alone"],
)
def test_several_parts_are_put_together_as_the_template_does(
    template: str | None, whole: str, answer: str, joined: int
) -> None:
    """One that prints whatever it is given would print the list; it gets a line for each part instead."""
    tokenizer = with_template(template or str(byte_level().chat_template))
    asked, said = in_parts("Paris", "?"), in_parts("ra", "in")
    row = {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
    assert learnt(row, tokenizer) == f"{answer}<|im_end|>"
    encoded = encode([as_example(row, "a:1")], tokenizer, 100)
    assert whole in whole_text(encoded, tokenizer)
    assert "type" not in whole_text(encoded, tokenizer)
    assert encoded.remarks.joined == joined
    if template is not None:
        rendered = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        assert whole_text(encoded, tokenizer) == f"{rendered}</s>"


def test_parts_beside_texts() -> None:
    """A template that wants parts gets them for the turns that are texts as well."""
    wants_parts = SEEING.replace("{% if m['content'] is string %}{{ m['content'] }}{% else %}", "").replace(
        "{% endif %}<|im_end|>", "<|im_end|>"
    )
    row = {"messages": [{"role": "user", "content": in_parts("Par", "is?")}, ANSWER]}
    encoded = encode([as_example(row, "a:1")], with_template(wants_parts), 100)
    assert whole_text(encoded, with_template(wants_parts)).startswith("<|im_start|>Paris?<|im_end|>")
    assert learnt(row, with_template(wants_parts)) == "rain<|im_end|>"


def test_thoughts_are_learnt_with_the_turn_that_keeps_them() -> None:
    tokenizer = with_template(FULL)
    last = {**ANSWER, "reasoning_content": "cloudy"}
    assert learnt({"messages": [ASK, last]}, tokenizer) == "<think>cloudy</think>rain<|im_end|>"
    example = as_example({"messages": [ASK, last, ASK, last]}, "a:1")
    encoded = encode([example], tokenizer, 100)
    assert counted_text(encoded, tokenizer) == "<think>cloudy</think>rain<|im_end|>\n</s>"
    assert (encoded.remarks.turns, encoded.remarks.rows) == (1, 1)


def test_a_turn_of_weight_0_is_read_and_not_learnt(tokenizer: Any) -> None:
    turns = [ASK, {**ANSWER, "content": "no", "weight": 0}, ASK, {**ANSWER, "weight": 1}]
    example = as_example({"messages": turns}, "a:1")
    encoded = encode([example], tokenizer, 100)
    assert whole_text(encoded, tokenizer).count("no<eos>") == 1
    assert counted_text(encoded, tokenizer) == "rain<eos>"
    assert encoded.remarks.turns == 0  # as asked
    plain = as_example({"messages": [{k: v for k, v in t.items() if k != "weight"} for t in turns]}, "a:1")
    assert counted_text(encode([plain], tokenizer, 100), tokenizer) == "no<eos>rain<eos>"
    assert plain.content != example.content
    assert plain.question == example.question


def test_fields_that_only_label_a_turn_are_counted(tokenizer: Any) -> None:
    row = {"messages": [{**ASK, "name": "eve", "id": 7}, ASK, {**ANSWER, "name": "bot"}]}
    encoded = encode([as_example(row, "a:1")], tokenizer, 100)
    assert encoded.remarks.fields == {"name": 2, "id": 1}
    named = with_template(FULL.replace("{{ m['role'] }}", "{{ m['role'] }}{{ m.name }}"))
    encoded = encode([as_example({"messages": [{**ASK, "name": "eve"}, ANSWER]}, "a:1")], named, 100)
    assert encoded.remarks.fields == {}
    assert "<|im_start|>usereve\nParis?" in whole_text(encoded, named)


def test_arguments_of_the_template_go_to_it(tokenizer: Any) -> None:
    polite = with_template("{% if polite %}please {% endif %}" + FULL)
    row = {"messages": [ASK, ANSWER], "chat_template_kwargs": {"polite": True}}
    assert whole_text(encode([as_example(row, "a:1")], polite, 100), polite).startswith("please <|im_start|>")
