"""Model families that torchtune 0.6.1 builds, and a base model's own numbers in its builders' words.

The builders are those of a family (`torchtune/models/*/_component_builders.py`), which take widths and
depths; those of single models (`lora_llama3_2_1b`, ...) are nothing but these with numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loracle.errors import StudyError

_ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "output_proj"}
_FEED = frozenset(("gate_proj", "up_proj", "down_proj"))
_OUTPUT = "lm_head"
_TARGET = re.compile(r"(?:.*?\blayers\.(?P<layer>\d+)\.)?(?:[\w.]*\.)?(?P<name>\w+)")
# torchtune/models/llama3_1/_position_embeddings.py: what cannot be told to its builders.
_SCALED = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


class _Refused(Exception):
    """What a model has that its builder cannot be told."""


@dataclass(frozen=True)
class Decoder:
    """A base model as torchtune builds it.

    Attributes:
        builder: dotted name of the function that builds it with adapters.
        numbers: arguments of that function.
        checkpoint: its `model_type` for torchtune's checkpointer.
        output: whether an adapter of the output layer can be had.
    """

    builder: str
    numbers: Mapping[str, Any]
    checkpoint: str
    output: bool


def decoder_of(model: str, config: Any, longest: int) -> Decoder:
    """The base model in torchtune's words.

    Args:
        model: its name, for messages.
        config: of transformers.
        longest: tokens of the longest row.

    Raises:
        StudyError: torchtune does not build such a model.
    """
    require_family(model, config.model_type)
    try:
        return _FAMILIES[config.model_type](config, longest)
    except _Refused as problem:
        raise StudyError(
            f"torchtune cannot build {model}: its builder for {config.model_type} takes {problem}; "
            "export --to trl"
        ) from None


def require_family(model: str, model_type: str) -> None:
    """Raises StudyError: torchtune builds no model of this type."""
    if model_type not in _FAMILIES:
        raise StudyError(
            f"torchtune builds no model of the type {model_type} ({model}); it builds "
            f"{', '.join(_FAMILIES)}; export --to trl"
        )


def targets_of(targets: str | Sequence[str], config: Any, decoder: Decoder) -> dict[str, Any]:
    """The adapted modules as arguments of a builder.

    Args:
        targets: `target_modules` of `peft.LoraConfig`.
        config: of transformers.
        decoder: what is adapted.

    Raises:
        StudyError: torchtune has no adapters of these modules alone.
    """
    found = {*_ATTENTION, *_FEED} if targets == "all-linear" else _names(targets, config.num_hidden_layers)
    if strange := sorted(found - {*_ATTENTION, *_FEED, _OUTPUT}):
        raise StudyError(f"torchtune has no adapters of {', '.join(strange)}; export --to trl")
    if found & _FEED and not found >= _FEED:
        raise StudyError(
            f"torchtune adapts all of {', '.join(sorted(_FEED))} or none, and the winner adapts "
            f"{', '.join(sorted(found & _FEED))}; export --to trl"
        )
    if not found & _ATTENTION.keys():
        raise StudyError("torchtune adapts no model without a module of attention; export --to trl")
    if _OUTPUT in found and not decoder.output:
        raise StudyError(f"torchtune adapts no output layer of this model ({_OUTPUT}); export --to trl")
    return {
        "lora_attn_modules": [theirs for ours, theirs in _ATTENTION.items() if ours in found],
        "apply_lora_to_mlp": found >= _FEED,
        **({"apply_lora_to_output": True} if _OUTPUT in found else {}),
    }


def _names(targets: str | Sequence[str], layers: int) -> set[str]:
    """Last names of targets; raises StudyError where one is adapted in some layers alone."""
    where: dict[str, set[int]] = {}
    everywhere: set[str] = set()
    for target in [targets] if isinstance(targets, str) else targets:
        match = _TARGET.fullmatch(target)
        if match is None:
            raise StudyError(f"torchtune has no adapters of {target!r}; export --to trl")
        if match["layer"] is None:
            everywhere.add(match["name"])
        else:
            where.setdefault(match["name"], set()).add(int(match["layer"]))
    for name, numbers in where.items():
        if name not in everywhere and len(numbers) < layers:
            raise StudyError(
                f"torchtune adapts every layer or none, and the winner adapts {name} in {len(numbers)} of "
                f"{layers}; export --to trl"
            )
    return everywhere | where.keys()


# -- families ---------------------------------------------------------------------------------------


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _Refused(what)


def _common(config: Any, activation: str = "silu") -> dict[str, Any]:
    own = getattr(config, "hidden_activation", None) or config.hidden_act
    _require(own == activation, f"the activation {activation}, and it has {own}")
    for name in ("attention_bias", "mlp_bias"):
        _require(not getattr(config, name, False), f"no bias, and it has {name}")
    _require(not getattr(config, "attention_dropout", 0.0), "no dropout of attention, and it has")
    return {
        "vocab_size": config.vocab_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "num_kv_heads": config.num_key_value_heads,
        "embed_dim": config.hidden_size,
        "intermediate_dim": config.intermediate_size,
        "max_seq_len": config.max_position_embeddings,
        "norm_eps": config.rms_norm_eps,
        "rope_base": config.rope_parameters["rope_theta"],
    }


def _require_plain_rope(config: Any) -> None:
    kind = config.rope_parameters.get("rope_type", "default")
    _require(kind == "default", f"rotary positions as they are, and it scales them ({kind})")


def _require_usual_heads(config: Any) -> None:
    usual = config.hidden_size // config.num_attention_heads
    size = getattr(config, "head_dim", None) or usual
    _require(size == usual, f"heads of width / number, {usual}, and it has heads of {size}")


def _require_all_seen(window: int | None, longest: int) -> None:
    _require(
        window is None or window >= longest,
        f"attention to all that stands before, and it attends to {window} tokens of {longest}",
    )


def _llama(config: Any, longest: int) -> Decoder:
    _require_usual_heads(config)
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    _require(kind in ("default", "llama3"), f"positions of Llama, and it scales them otherwise ({kind})")
    factor = 1  # which changes nothing
    if kind == "llama3":
        factor = rope["factor"]
        for name, value in _SCALED.items():
            _require(rope[name] == value, f"{name} {value:g}, and it has {rope[name]:g}")
    numbers = {**_common(config), "scale_factor": factor}
    if config.tie_word_embeddings:
        return Decoder("torchtune.models.llama3_2.lora_llama3_2", numbers, "LLAMA3_2", output=False)
    return Decoder("torchtune.models.llama3_1.lora_llama3_1", numbers, "LLAMA3", output=True)


def _mistral(config: Any, longest: int) -> Decoder:
    _require_usual_heads(config)
    _require_plain_rope(config)
    _require_all_seen(config.sliding_window, longest)
    _require(not config.tie_word_embeddings, "an output layer of its own, and it shares that of the input")
    return Decoder("torchtune.models.mistral.lora_mistral", _common(config), "MISTRAL", output=True)


def _qwen2(config: Any, longest: int) -> Decoder:
    _require_usual_heads(config)
    _require_plain_rope(config)
    _require_all_seen(config.sliding_window if config.use_sliding_window else None, longest)
    tied = config.tie_word_embeddings
    numbers = {**_common(config), "tie_word_embeddings": tied}
    return Decoder("torchtune.models.qwen2.lora_qwen2", numbers, "QWEN2", output=not tied)


def _gemma(config: Any, longest: int) -> Decoder:
    _require_plain_rope(config)
    numbers = {**_common(config, "gelu_pytorch_tanh"), "head_dim": config.head_dim}
    return Decoder("torchtune.models.gemma.lora_gemma", numbers, "GEMMA", output=False)


# No Gemma 2: torchtune caps its last hidden states in the place of its logits, and swaps two of its norms.
_FAMILIES: dict[str, Callable[[Any, int], Decoder]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "gemma": _gemma,
}
