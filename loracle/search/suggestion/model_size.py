"""How many parameters a model has, from its config.json alone: no weights are read, and torch is not loaded.

What is counted are the matrices of embeddings, attention and feed-forward layers, of all experts. Norms,
biases and the vision part are left out: a few per cent, where only the order of magnitude matters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loracle.errors import ModelError

# Names of one thing in the configs of transformers' architectures.
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
_DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_FEED = ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
# Feed-forward layers of two matrices; all others have a third, the gate's.
_PLAIN = {
    "gpt2",
    "gpt_neox",
    "gpt_neo",
    "gptj",
    "opt",
    "bloom",
    "falcon",
    "phi",
    "mpt",
    "starcoder2",
    "codegen",
}


def size_of(folder: Path) -> tuple[float, int]:
    """Parameters of the model in a folder, and its width: what most modules read, or write.

    Raises:
        ModelError: there is no config.json, or it does not state the size of the model.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "has no config.json" if folder.is_dir() else "is no folder"
        raise ModelError(
            f"model: {folder} {what}; name a model's folder, or say how large it is with --parameters 7e9"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"model: {path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise ModelError(f"model: {path} is no config of a model")
    text = content.get("text_config", content)
    try:
        settings = {**content, **text} if isinstance(text, dict) else content
        return _count(settings), int(_first(settings, _WIDTH))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise ModelError(
            f"model: {path} does not state width, depth and vocabulary; say how large the model is with "
            "--parameters 7e9"
        ) from None


def _count(config: Mapping[str, Any]) -> float:
    width, depth, heads = (float(_first(config, names)) for names in (_WIDTH, _DEPTH, _HEADS))
    head = float(config.get("head_dim") or width / heads)
    few = float(config.get("num_key_value_heads") or heads)
    attention = 2 * width * heads * head + 2 * width * few * head
    plain = config.get("model_type") in _PLAIN
    matrices = 2 if plain else 3
    feed = matrices * width * float(_first(config, _FEED, 4 * width))
    experts = float(_first(config, _EXPERTS, 0) or 0)
    if experts:
        each = matrices * width * float(config.get("moe_intermediate_size") or feed / (matrices * width))
        shared = float(config.get("n_shared_experts") or 0)
        dense = float(config.get("first_k_dense_replace") or 0)
        feed = ((depth - dense) * (experts + shared) * each + dense * feed) / depth
    embeddings = width * float(config["vocab_size"])
    tied = config.get("tie_word_embeddings", plain or "gemma" in str(config.get("model_type")))
    total = embeddings * (1 if tied else 2) + depth * (attention + feed)
    if not total > 0:
        raise ValueError(total)
    return total


def _first(config: Mapping[str, Any], names: tuple[str, ...], otherwise: Any = None) -> Any:
    found = next((config[name] for name in names if config.get(name) is not None), otherwise)
    if found is None:
        raise KeyError(names[0])
    return max(found) if isinstance(found, list) else found
