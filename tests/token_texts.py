"""What tokens of an encoded row say."""

from __future__ import annotations

from typing import Any

from loracle.training.dataset.tokens import Encoded


def counted_text(encoded: Encoded, tokenizer: Any, i: int = 0) -> str:
    tokens = encoded.tokens[encoded.starts[i] : encoded.ends[i]]
    return str(tokenizer.decode(tokens[encoded.counted[encoded.starts[i] : encoded.ends[i]]]))


def whole_text(encoded: Encoded, tokenizer: Any, i: int = 0) -> str:
    return str(tokenizer.decode(encoded.tokens[encoded.starts[i] : encoded.ends[i]]))
