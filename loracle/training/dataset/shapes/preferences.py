"""Rows that are refused by the name of their kind: preferences and rewards, for what is learnt here is to
write an answer, and not which of two is the better one; and single turns of chats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from loracle.training.dataset.fields import instead, is_nothing, is_pair, key_of

_ANSWERS = ("answer", "response", "completion", "output", "conversation", "messages", "human_ref", "summary")
_ENDS = ("a", "b"), ("0", "1"), ("1", "2")
_LISTS = ("completions", "responses", "answers", "outputs", "summaries", "generations", "candidates")
_JUDGED = {  # words in names of what says how good an answer is
    *("rank", "ranks", "ranking", "rankings", "score", "scores", "rating", "ratings", "reward", "rewards"),
    *("preference", "preferred", "winner", "better", "choice", "label", "labels", "annotations"),
}


def preference(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is said of a row that holds answers and which of them are better, and what to do; None: none.

    The published forms: of DPO (`chosen` and `rejected`), OpenAI's, UltraFeedback's and Nectar's (a list of
    judged answers), those of SHP, WebGPT, HelpSteer and Arena (two answers), and steps that are judged one by
    one, as TRL has them of PRM800K. Those of KTO are refused with the field that judges.
    """
    there = {key_of(name): value for name, value in row.items() if not is_nothing(value)}
    if compares(row):
        if is_pair(there):
            alone = "; without both, its messages are learnt" if "messages" in there else ""
            return "holds preference data (as for DPO)", instead(row) + alone
        return "holds preference data (OpenAI's, for DPO)", (
            "; pairs are not learnt, so write rows of messages: the turns of input.messages, and then "
            "preferred_output"
        )
    if there.keys() >= {"message_id", "role", "text"}:
        return "is one turn of a tree of chats (as OASST has them)", (
            "; turns are learnt in their chat, so put those from the first to an answer into one row of "
            "messages"
        )
    if isinstance(there.get("completions"), list) and isinstance(there.get("labels"), list):
        return "holds steps that are judged one by one (as for process rewards)", (
            "; judgements are not learnt, so name the steps that shall be learnt completion, as one text"
        )
    if name := next((name for name in _LISTS if _is_judged(there.get(name), there)), None):
        return "holds several answers that are judged (preference data, as for a reward model)", (
            "; judgements are not learnt, so make a row of what the model reads, prompt, and of each answer "
            f"in {name} that it shall write, completion"
        )
    if two := _two_answers(there):
        return "holds two answers to compare (preference data)", (
            "; pairs are not learnt, so name what the model reads prompt, the answer it shall write "
            f"completion (data.columns, such as completion: {two[0]}), and remove the other"
        )
    return None


def compares(row: Mapping[str, Any]) -> bool:
    """Whether a row holds an answer that was preferred and one that was not, beside whatever else it has."""
    there = {key_of(name) for name, value in row.items() if not is_nothing(value)}
    return is_pair(there) or there >= {"preferred_output", "non_preferred_output"}


def _is_judged(value: Any, there: Mapping[str, Any]) -> bool:
    """Whether a field is a list of answers that are judged, each in itself or all in a field beside it."""
    if not isinstance(value, list):
        return False
    inside = [
        set().union(*(key.split("_") for key in map(key_of, v))) for v in value if isinstance(v, Mapping)
    ]
    beside = set().union(*(name.split("_") for name in there))
    return any(_JUDGED & words for words in inside) or bool(_JUDGED & beside)


def _two_answers(there: Mapping[str, Any]) -> tuple[str, str] | None:
    """The names of two answers of which another field says which is the better one."""
    if not any(_JUDGED & set(name.split("_")) for name in there):
        return None
    for stem in _ANSWERS:
        alike = [name for name in there if re.fullmatch(rf"{stem}_?[a-z0-9]", name)]
        ends = tuple(sorted(name[-1] for name in alike))
        if ends in _ENDS:  # a third is one of several to choose from
            first, second = sorted(alike)
            return first, second
    return None
