"""Which shape rows have, what of them is learnt, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from loracle.config.data.settings import FIELDS, DataConfig, ShapeName
from loracle.errors import DataError
from loracle.records.notices import Notice
from loracle.training.dataset.files import read_examples
from loracle.training.dataset.shapes import SHAPES, as_example, read_fields
from loracle.training.dataset.shapes.columns import renamed
from loracle.training.dataset.tokens import encode

Write = Callable[[str, list[dict[str, Any]]], Path]
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def settings(**changes: Any) -> DataConfig:
    return DataConfig(train=Path("a.jsonl"), **changes)


def test_shapes_that_can_be_named_are_those_that_are_read() -> None:
    assert set(get_args(ShapeName)) == set(SHAPES)
    assert read_fields() <= set(FIELDS)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": TURNS}, "messages"),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, "prompt/completion"),
        ({"prompt": "a", "completion": 7}, "prompt/completion"),
        ({"prompt": "a", "response": "b"}, "prompt/response"),
        ({"question": "a", "answer": "b", "id": 3}, "question/answer"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"text": "a", "label": 0}, "text/label"),
        ({"text": "a"}, "text"),
        ({"text": "Q a A b", "instruction": "a", "output": "b"}, "text"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "sharegpt"),
    ],
)
def test_the_shape_of_a_row_is_detected(row: dict[str, Any], name: str) -> None:
    assert as_example(row, "a:1").shape == name
    assert as_example(row, "a:1", settings(shape=name)).content == as_example(row, "a:1").content


def test_columns_of_other_names(write_rows: Write) -> None:
    path = write_rows("a.jsonl", [{"q": "a", "a": 1, "prompt": "other", "n": 2}, {"q": "c", "a": 2}])
    mapped = read_examples(path, settings(columns={"prompt": "q", "completion": "a"}))
    assert [(e.prompt, e.completion) for e in mapped] == [("a", "1"), ("c", "2")]
    assert mapped[0].unread == ("prompt (not mapped)", "n")
    path = write_rows("b.jsonl", [{"prompt": "a", "completion": "b"}])
    (turned,) = read_examples(path, settings(columns={"prompt": "completion", "completion": "prompt"}))
    assert (turned.prompt, turned.completion) == ("b", "a")
    with pytest.raises(DataError, match=r"data.columns: text: .*b.jsonl has no column 'txt'; it has comple"):
        read_examples(path, settings(columns={"text": "txt"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {"prompt": "a", "completion": "a"}}, "the column 'a' is named twice"),
        ({"columns": {"promt": "a"}}, "'promt' is none of ours; did you mean 'prompt'"),
        ({"shape": "text", "loss_on": "assistant"}, "rows of text are learnt whole"),
        ({"shape": "messages", "as_chat": True}, "rows of messages are chats already"),
        ({"packing": "wrapped"}, "valid boolean"),
        ({"separator": ";;"}, "one character"),
        ({"encoding": "klingon"}, "no encoding of this name"),
        ({"shape": "alpacca"}, "alpaca"),
        ({"train": {"hub": "a/b", "splt": "x"}}, "splt: extra inputs"),
        ({"train": []}, "path of a file"),
        ({"train": 3}, "path of a file"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate({"train": "a.jsonl"} | changes)


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, {}, "holds preference data .as for DPO"),
        ({"prompt": "a", "completion": "b", "label": True}, {}, "preference data .KTO"),
        ({"prompt": "a", "completion": "b"}, {"loss_on": "assistant"}, "have no assistant; use data.loss_on"),
        ({"text": "a"}, {"loss_on": "completion"}, "rows of text are learnt whole"),
        ({"text": "a"}, {"as_chat": True}, "cannot go through the chat template"),
        ({"instruction": "a", "output": "b", "system": "c"}, {}, "data.as_chat: true has turns for it"),
        (
            {"instruction": "a", "output": "b", "history": [["c"]]},
            {"as_chat": True},
            "list of pairs of texts",
        ),
        ({"question": "a", "answer": None}, {}, "answer must be text; got None"),
        ({"prompt": TURNS[:1], "completion": TURNS}, {"loss_on": "all"}, None),
        (
            {"messages": [TURNS[0], {**TURNS[1], "weight": 0}, *TURNS]},
            {"loss_on": "all"},
            "a turn has a weight of 0, but data.loss_on: all",
        ),
        ({"prompt": [{"role": "user"}], "completion": TURNS}, {}, "a turn is a role and a content"),
        ({"prompt": TURNS, "completion": []}, {}, "completion is a list of turns here"),
        ({"conversations": [{"from": "human", "value": "a"}]}, {}, "the last turn must be the assistant's"),
        (
            {"conversations": [{"from": "human", "role": "user", "value": "a"}]},
            {},
            "a turn has from and role",
        ),
        ({"conversations": [{"from": "function_call", "value": "f"}]}, {}, "a function_call: not valid JSON"),
        ({"conversations": [{"from": "function_call", "value": "1"}]}, {}, "is a name and arguments in JSON"),
        ({"text": "a", "prompt": "b", "completion": "c"}, {}, "choose one with data.shape"),
    ],
)
def test_rows_that_cannot_be_learnt_as_asked_are_refused(
    row: dict[str, Any], changes: dict[str, Any], message: str | None
) -> None:
    if message is None:
        assert as_example(row, "a:1", settings(**changes)).messages
        return
    with pytest.raises(DataError, match=f"a:1: .*{message}|a:1: {message}") as caught:
        as_example(row, "a:1", settings(**changes))
    assert "\n" not in str(caught.value)


_SAID = {"role": "assistant", "content": "b"}
PREFERENCES: dict[str, tuple[dict[str, Any], str]] = {  # rows as published, and what they are refused as
    "HH": (
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        "as for DPO",
    ),
    "UltraFeedback binarized": (
        {
            "prompt": "a",
            "chosen": TURNS,
            "rejected": [TURNS[0], _SAID],
            "messages": TURNS,
            "score_chosen": 8.5,
        },
        "as for DPO.*without both, its messages are learnt",
    ),
    "LLaMA-Factory": (
        {
            "conversations": [{"from": "human", "value": "a"}],
            "chosen": {"from": "gpt", "value": "b"},
            "rejected": {"from": "gpt", "value": "c"},
        },
        "as for DPO",
    ),
    "OpenAI": (
        {
            "input": {"messages": [TURNS[0]], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [TURNS[1]],
            "non_preferred_output": [_SAID],
        },
        "OpenAI's, for DPO.*rows of messages: the turns of input.messages, and then preferred_output",
    ),
    "UltraFeedback": (
        {
            "instruction": "a",
            "models": ["x", "y"],
            "completions": [{"model": "x", "response": "b", "annotations": {}, "overall_score": 8.0}],
            "correct_answers": ["None"],
        },
        "several answers that are judged .*each answer in completions",
    ),
    "Nectar": (
        {"prompt": "\n\nHuman: a\n\nAssistant: ", "answers": [{"answer": "b", "model": "x", "rank": 1.0}]},
        "several answers that are judged",
    ),
    "a ranking": ({"prompt": "a", "responses": ["b", "c"], "ranking": [1, 0]}, "several answers"),
    "summaries": ({"info": {"post": "a"}, "summaries": [{"text": "b"}], "choice": 0}, "several answers"),
    "SHP": ({"history": "a", "human_ref_A": "b", "human_ref_B": "c", "labels": 1}, "two answers to compare"),
    "WebGPT": (
        {"question": {"full_text": "a"}, "answer_0": "b", "score_0": 0.5, "answer_1": "c", "score_1": -0.5},
        "completion: answer_0.*remove the other",
    ),
    "HelpSteer": (
        {"context": [TURNS[0]], "response1": "b", "response2": "c", "overall_preference": -2},
        "two answers to compare",
    ),
    "Arena": (
        {
            "model_a": "x",
            "model_b": "y",
            "winner": "model_a",
            "conversation_a": TURNS,
            "conversation_b": TURNS,
        },
        "two answers to compare",
    ),
    "steps": ({"prompt": "a", "completions": ["b", "c"], "labels": [True, False]}, "judged one by one"),
    "KTO": ({"prompt": "a", "completion": "b", "label": False}, "preference data .KTO"),
    "KTO of chats": ({"messages": TURNS, "label": True}, "preference data .KTO"),
    "KTO of LLaMA-Factory": (
        {"instruction": "a", "input": "", "output": "b", "kto_tag": True},
        "preference data .KTO",
    ),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences_are_refused_by_their_name(name: str) -> None:
    row, said = PREFERENCES[name]
    with pytest.raises(DataError, match=f"a:1: .*{said}") as caught:
        as_example(row, "a:1")
    assert "\n" not in str(caught.value)


def test_answers_to_choose_from_are_no_preferences() -> None:
    row = {"context": "x", "question": "a", "answer0": "b", "answer1": "c", "answer2": "d", "label": 1}
    with pytest.raises(DataError) as caught:
        as_example(row, "a:1")
    assert "preference" not in str(caught.value)
    label = {"text": "answers", "label": True}
    assert as_example(label, "a:1").completion == "true"


def test_a_turn_of_a_tree_is_no_text() -> None:
    row = {"message_id": "1", "parent_id": None, "text": "a", "role": "prompter", "lang": "en", "rank": None}
    with pytest.raises(
        DataError, match=r"one turn of a tree of chats .as OASST has them.*one row of messages"
    ):
        as_example(row, "a:1")


# Rows of public datasets whose columns have other names than ours, what is said of them, and what is then
# read and learnt (of chats, by turns).
OTHER_NAMES: dict[str, tuple[dict[str, Any], str, tuple[str, str] | list[str]]] = {
    "Dolly": (
        {"instruction": "When?", "context": "in 20", "response": "20", "category": "closed_qa"},
        "{input: context, output: response}",
        ("### Input:\nin 20", "20"),
    ),
    "LaMini": ({"instruction": "a", "response": "b"}, "{output: response}", ("### Instruction:\na", "b")),
    "MetaMathQA": (
        {"type": "x", "query": "a", "original_question": "a", "response": "b"},
        "{question: query, answer: response}",
        ("a\n", "b"),
    ),
    "CodeFeedback": ({"query": "a", "answer": "b", "lang": "python"}, "{question: query}", ("a\n", "b")),
    "OpenMathInstruct": (
        {"problem": "a", "generated_solution": "b", "expected_answer": "2"},
        "{question: problem, answer: generated_solution}",
        ("a\n", "b"),
    ),
    "SAMSum": (
        {"id": "1", "dialogue": "A: a", "summary": "b"},
        "{question: dialogue, answer: summary}",
        ("A: a\n", "b"),
    ),
    "FLAN": ({"inputs": "a", "targets": "b"}, "{question: inputs, answer: targets}", ("a\n", "b")),
    "prompts and answers": ({"prompt": "a", "answer": "b"}, "{completion: answer}", ("a", "b")),
    "HumanEval": (
        {"task_id": "x", "prompt": "def a():", "canonical_solution": "b", "test": "c"},
        "{completion: canonical_solution}",
        ("def a():", "b"),
    ),
    "MBPP": ({"task_id": 1, "text": "a", "code": "b"}, "{question: text, answer: code}", ("a\n", "b")),
    "BoolQ": (
        {"question": "is a?", "answer": True, "passage": "a is"},
        "{instruction: question, input: passage, output: answer}",
        ("### Input:\na is", "true"),
    ),
    "SST-2": ({"idx": 1, "sentence": "good", "label": 1}, "{text: sentence}", ("good\n", "1")),
    "AG News": (
        {"text": "goal", "label": 1, "label_text": "Sports"},
        "{label: label_text}",
        ("goal\n", "Sports"),
    ),
    "The Stack": ({"content": "x = 1", "lang": "python"}, "{text: content}", ("", "x = 1")),
    "OpenOrca": (
        {"id": "1", "system_prompt": "be", "question": "a", "response": "b"},
        "{answer: response, system: system_prompt} and data.as_chat: true",
        ["be", "a", "b"],
    ),
    "xLAM": (
        {"id": 1, "query": "a", "answers": '[{"name": "f", "arguments": {}}]', "tools": '[{"name": "f"}]'},
        "{question: query, answer: answers} and data.as_chat: true",
        ["a", '[{"name": "f", "arguments": {}}]'],
    ),
    "WildChat": (
        {"conversation_hash": "1", "conversation": TURNS, "turn": 1, "toxic": False},
        "{messages: conversation}",
        ["hi", "yo"],
    ),
    "Capybara": (
        {"source": "x", "conversation": [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]},
        "{conversations: conversation}",
        ["a", "b", "c", "d"],
    ),
    "UltraChat": ({"id": "0", "data": ["a", "b"]}, "{conversations: data}", ["a", "b"]),
}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_rows_of_columns_of_other_names_are_refused_with_what_to_write(name: str) -> None:
    """What is advised works as it is said."""
    row, said, read = OTHER_NAMES[name]
    with pytest.raises(
        DataError, match=f"a:1: .*; with data.columns: {re.escape(said)} it is read"
    ) as caught:
        as_example(row, "a:1")
    assert "give messages" not in str(caught.value)
    columns = dict(re.findall(r"(\w+): (\w+)[,}]", said))
    changes = {"columns": columns, "as_chat": "as_chat" in said}
    ((source, mapped),) = renamed([("a:1", row)], columns, "a")
    example = as_example(mapped, source, settings(**changes))
    if isinstance(read, list):
        assert [turn.content for turn in example.messages] == read
    else:
        assert (example.completion or example.text) == read[1]
        assert read[0] in (example.prompt or "")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": "", "response": "b"},  # the row is bad, and not its names
        {"id": 1, "title": "a"},
        {"premise": "a", "hypothesis": "b", "label": 1},
        {"prompt": "a", "chosen": "b", "rejected": "c", "answer": "d"},
        {"context": "a", "question": "b", "answers": {"text": ["a"], "answer_start": [0]}},
    ],
)
def test_nothing_is_advised_where_names_do_not_tell(row: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        as_example(row, "a:1")
    assert "it is read" not in str(caught.value)


def test_that_an_answer_has_several_values_is_said() -> None:
    row = {"context": "a", "question": "b", "answers": {"text": ["a"], "answer_start": [0]}}
    with pytest.raises(
        DataError, match="answers holds several values, and what is read and learnt are texts"
    ):
        as_example(row, "a:1")


def test_that_the_rendering_of_a_pair_is_learnt_whole_is_told(write_rows: Write) -> None:
    """As of Stanford Alpaca's rows, of which TRL takes the text, too."""
    prompt = "Below is ...\n\n### Instruction:\na\n\n### Response:\n"
    row = {"instruction": "a", "input": "", "output": "b", "text": f"{prompt}b"}
    path, told = write_rows("a.jsonl", [row, row]), list[Notice]()
    assert [example.text for example in read_examples(path, told=told)] == [f"{prompt}b"] * 2
    (said,) = told
    assert (said.name, said.count) == ("texts_learnt_whole", 2)
    assert said.text.endswith("learnt whole, prompt included, and with data.shape: alpaca the output alone")
    told.clear()
    assert [e.completion for e in read_examples(path, settings(shape="alpaca"), told=told)] == ["b", "b"]
    assert "texts_learnt_whole" not in [notice.name for notice in told]
    read_examples(path, settings(shape="text"), told=told)
    assert "texts_learnt_whole" not in [notice.name for notice in told]


def test_the_rendering_of_a_pair_may_stand_beside_it() -> None:
    prompt = "Below is ...\n\n### Instruction:\na\n\n### Response:\nb"
    row = {"instruction": "a", "output": "b", "prompt": prompt}
    assert as_example(row, "a:1").completion == "b"
    with pytest.raises(DataError, match="field prompt holds a part of the question"):
        as_example(row | {"prompt": "Below is something else"}, "a:1")


def test_the_number_of_a_choice_is_no_answer() -> None:
    """As MMLU has it."""
    row = {"question": "a", "choices": ["no", "yes"], "answer": 1}
    with pytest.raises(
        DataError, match="answer is 1, which is none of the row's choices; write the choice itself"
    ):
        as_example(row, "a:1")
    assert as_example(row | {"choices": ["0", "1"]}, "a:1").completion == "1"


def test_turns_without_speakers_are_the_users_and_the_assistants_by_turns() -> None:
    for turns in (["a", "b", "c", "d"], [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]):
        example = as_example({"conversations": turns}, "a:1")
        assert [(turn.role, turn.content) for turn in example.messages] == [
            ("user", "a"),
            ("assistant", "b"),
            ("user", "c"),
            ("assistant", "d"),
        ]
    with pytest.raises(DataError, match="the last turn must be the assistant's"):
        as_example({"conversations": ["a", "b", "c"]}, "a:1")


def test_labels_of_one_file_are_of_one_kind(write_rows: Write) -> None:
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    assert [e.completion for e in read_examples(write_rows("a.jsonl", rows))] == ["1", "0"]
    with pytest.raises(DataError, match=r"labels are of several kinds: 1 \(.*:1\) and True \(.*:3\)"):
        read_examples(write_rows("b.jsonl", [*rows, {"text": "c", "label": True}]))
    within = [{"text": "it is so", "label": "so"}, {"text": "no", "label": "no"}]
    assert [e.form for e in read_examples(write_rows("c.jsonl", within))] == ["text", "text"]
    assert (
        read_examples(write_rows("d.jsonl", [*within, {"text": "a", "label": "b"}]))[0].prompt == "it is so\n"
    )


def test_how_rows_are_laid_out_is_told(write_rows: Write) -> None:
    path = write_rows("a.jsonl", [{"question": "a", "answer": "b"}] * 3)
    told: list[Notice] = []
    read_examples(path, told=told)
    assert [notice.text for notice in told] == [
        "3 train rows of question/answer are learnt as the question, a line break and the answer; "
        "data.as_chat: true puts them into the model's chat template"
    ]
    told.clear()
    read_examples(path, settings(as_chat=True), told=told)
    assert not told


def test_turns_that_are_given_as_the_prompt_are_read_and_not_learnt(tokenizer: Any) -> None:
    row = {"prompt": [*TURNS, TURNS[0]], "completion": "so"}

    def learnt(**changes: Any) -> str:
        encoded = encode([as_example(row, "a:1", settings(**changes))], tokenizer, 99)
        return str(tokenizer.decode(encoded.tokens[encoded.counted]))

    assert learnt() == learnt(loss_on="completion") == "so<eos>"
    assert learnt(loss_on="assistant") == "yo<eos>so<eos>"


def test_calls_of_functions_in_turns_of_from_and_value() -> None:
    turns = [
        {"from": "human", "value": "2 + 2?"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
        {"from": "observation", "value": "4"},
        {"from": "gpt", "value": "four", "weight": 1},
    ]
    example = as_example({"conversations": turns, "system": "brief", "tools": "[{}]"}, "a:1")
    assert [turn.role for turn in example.messages] == ["system", "user", "assistant", "tool", "assistant"]
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]
    assert example.messages[2].more == {"tool_calls": calls}
    assert example.for_template == {"tools": [{}]}
