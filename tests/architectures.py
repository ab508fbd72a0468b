"""Model types of transformers, tiny and random, and what becomes of each; run as a program, a table of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from small_tokenizers import make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
}
LATENT = {
    "head_dim": None,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
LINEAR_ATTENTION = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_hidden_layers": 4,
}
LATENT_EXPERTS = LATENT | {"first_k_dense_replace": 1}
MAMBA_HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16}
NO_HEAD_DIM = {"head_dim": "left out"}
WINDOW = {"sliding_window": 8}
GPT_NEO = NO_HEAD_DIM | {"attention_types": [[["global", "local"], 1]], "window_size": 8}
MAMBA2 = {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 16, "expand": 2}
JAMBA = {
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "mamba_d_state": 8,
    "mamba_dt_rank": 4,
}
ZAMBA2 = {
    "num_hidden_layers": 4,
    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    "hybrid_layer_ids": [1, 3],
    "mamba_d_state": 8,
    "mamba_headdim": 8,
    "n_mamba_heads": 8,
    "mamba_ngroups": 1,
    "chunk_size": 16,
    "num_mem_blocks": 1,
}
RECURRENT = {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8}
GEMMA3 = {"text_config": SIZES | WINDOW, "vision_config": VISION}


@dataclass(frozen=True)
class Kind:
    """A model type and what becomes of it.

    Attributes:
        type: as `config.json` has it.
        what: what it stands for.
        sizes: where the usual ones do not fit.
        notices: names of what is told about it, with `all-linear`.
        refused: part of the line that refuses it.
        packs: whether it keeps the examples of a row apart.
        fast: whether it is tested each time.
    """

    type: str
    what: str
    sizes: dict[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    refused: str | None = None
    packs: bool = True
    fast: bool = False


FROZEN, LEFT_OUT, UNSEEN, SHARED = "weights_frozen", "modules_left_out", "no_gradient", "weights_shared"
WORDS = {
    FROZEN: "experts stay frozen",
    LEFT_OUT: "some linear modules get no adapter",
    UNSEEN: "some adapters may stay untrained",
    SHARED: "shared weights: the adapter cannot be merged",
    "reads_alone": "read in batches of equal length",
    "writes_alone": "written in batches of equal length, or one by one",
}
LATER, BOTH = "looks at later tokens", "has an encoder and a decoder"

KINDS = (
    Kind("llama", "dense, rotary positions", fast=True),
    Kind("mistral", "sliding window", WINDOW, fast=True),
    Kind("qwen2", "dense, biases"),
    Kind("qwen3", "dense, normalised heads", fast=True),
    Kind("gemma", "dense, tied embeddings"),
    Kind("gemma2", "alternating windows, soft caps", WINDOW, fast=True),
    Kind("gemma3_text", "alternating windows", WINDOW),
    Kind("gemma4_text", "embeddings of each layer", {"hidden_size_per_layer_input": 8}),
    Kind("phi", "parallel attention and feed-forward"),
    Kind("phi3", "fused projections"),
    Kind("olmo", "dense, norms without weights"),
    Kind("olmo2", "norms behind the layers"),
    Kind("smollm3", "layers without positions"),
    Kind("cohere", "parallel layers, scaled logits"),
    Kind("cohere2", "alternating windows", WINDOW),
    Kind("granite", "dense, scaled residuals"),
    Kind("starcoder2", "sliding window, biases", WINDOW),
    Kind("stablelm", "partial rotary positions"),
    Kind("exaone4", "layers without positions"),
    Kind("glm4", "partial rotary positions"),
    Kind("nemotron", "squared activations"),
    Kind("seed_oss", "dense, biases"),
    Kind("diffllama", "differential attention"),
    Kind("modernbert-decoder", "local and global attention", WINDOW | {"bos_token_id": 2}),
    Kind("gpt2", "learned positions, Conv1D", fast=True),
    Kind("gpt_neo", "learned positions, local attention", GPT_NEO),
    Kind("gpt_bigcode", "multi-query attention"),
    Kind("opt", "learned positions", {"ffn_dim": 64, "word_embed_proj_dim": 32}, packs=False, fast=True),
    Kind("biogpt", "learned positions", packs=False),
    Kind("xglm", "sinusoidal positions", {"ffn_dim": 64}, packs=False),
    Kind("gptj", "rotary positions, parallel layers", NO_HEAD_DIM | {"rotary_dim": 4}),
    Kind("gpt_neox", "fused projections", fast=True),
    Kind("bloom", "ALiBi", packs=False, fast=True),
    Kind("mpt", "ALiBi", packs=False),
    Kind("falcon", "multi-query attention", NO_HEAD_DIM, packs=False),
    Kind("mixtral", "experts", notices=(FROZEN,), fast=True),
    Kind("qwen2_moe", "experts, a shared one", notices=(FROZEN,), fast=True),
    Kind("qwen3_moe", "experts", notices=(FROZEN,), fast=True),
    Kind("olmoe", "experts", notices=(FROZEN,)),
    Kind("granitemoe", "experts", notices=(FROZEN,)),
    Kind("jetmoe", "experts of attention too", notices=(FROZEN,)),
    Kind("phimoe", "experts, routers with two results", notices=(LEFT_OUT, FROZEN)),
    Kind("gpt_oss", "experts, attention sinks", notices=(FROZEN,), packs=False, fast=True),
    Kind("llama4_text", "experts, chunked attention", notices=(LEFT_OUT, FROZEN), fast=True),
    Kind("minimax", "experts, linear attention", notices=(FROZEN,), packs=False),
    Kind("glm4_moe", "experts, shared ones", {"first_k_dense_replace": 1}, (LEFT_OUT, FROZEN)),
    Kind("ernie4_5_moe", "experts, shared ones", notices=(LEFT_OUT, FROZEN)),
    Kind("hunyuan_v1_moe", "experts, shared ones", notices=(LEFT_OUT, FROZEN)),
    Kind("laguna", "experts, a shared one", notices=(LEFT_OUT, FROZEN), fast=True),
    Kind("deepseek_v2", "latent attention, experts", LATENT_EXPERTS, (LEFT_OUT, FROZEN)),
    Kind("deepseek_v3", "latent attention, experts", LATENT_EXPERTS, (LEFT_OUT, FROZEN), fast=True),
    Kind("minicpm3", "latent attention", LATENT),
    Kind("mamba", "state space", notices=(LEFT_OUT, UNSEEN, FROZEN), packs=False, fast=True),
    Kind("falcon_mamba", "state space", notices=(LEFT_OUT, UNSEEN, FROZEN), packs=False),
    Kind("mamba2", "state space", MAMBA2, (LEFT_OUT,), packs=False),
    Kind("jamba", "state space, attention, experts", JAMBA, (UNSEEN, FROZEN), packs=False, fast=True),
    Kind("bamba", "state space and attention", MAMBA_HEADS | {"attn_layer_indices": [1]}, packs=False),
    Kind(
        "falcon_h1",
        "state space beside attention",
        MAMBA_HEADS | {"mamba_d_ssm": 64},
        (LEFT_OUT,),
        packs=False,
    ),
    Kind("zamba2", "state space, shared attention", ZAMBA2, (UNSEEN, SHARED), packs=False),
    Kind("recurrent_gemma", "recurrent and local attention", RECURRENT, (FROZEN,), packs=False),
    Kind("rwkv", "recurrent", notices=("writes_alone",), packs=False, fast=True),
    Kind(
        "qwen3_next",
        "linear attention, experts",
        LINEAR_ATTENTION,
        (LEFT_OUT, FROZEN),
        packs=False,
        fast=True,
    ),
    Kind("qwen3_5_text", "linear attention", LINEAR_ATTENTION, packs=False),
    Kind(
        "lfm2",
        "convolutions and attention",
        {"layer_types": ["conv", "full_attention"]},
        packs=False,
        fast=True,
    ),
    Kind("gemma3", "text and images", GEMMA3, (LEFT_OUT,), fast=True),
    Kind("fuyu", "text and images", notices=(LEFT_OUT,)),
    Kind("trocr", "decoder for images", notices=("writes_alone", UNSEEN), packs=False, fast=True),
    Kind("bert", "encoder", refused=LATER, fast=True),
    Kind("roberta", "encoder", refused=LATER),
    Kind("electra", "encoder", refused=LATER),
    Kind("roformer", "encoder", refused=LATER),
    Kind("xlm", "encoder", refused=LATER),
    Kind("t5", "encoder and decoder", refused=BOTH, fast=True),
    Kind("bart", "encoder and decoder", refused=BOTH),
)


def tiny_config(kind: Kind) -> Any:
    """A configuration of a model of some ten thousand parameters."""
    tokenizer = make_tokenizer()
    wanted = SIZES | {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    wanted = {name: value for name, value in (wanted | kind.sizes).items() if value != "left out"}
    config = AutoConfig.for_model(kind.type, **wanted)
    text = config.get_text_config(decoder=True)
    for name, value in EXPERTS.items():
        if hasattr(text, name) and name not in kind.sizes:
            setattr(text, name, value)
    if text is not config:
        for name in wanted.keys() - {"text_config", "vision_config"}:
            setattr(text, name, wanted[name])
    return config


def save_kind(kind: Kind, folder: Path) -> Path:
    """Saves a random model of this kind with its tokenizer."""
    torch.manual_seed(0)
    config = tiny_config(kind)
    maker = AutoModelForSeq2SeqLM if kind.refused == BOTH else AutoModelForCausalLM
    model = maker.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)  # so that the logits of a random model depend on what it reads
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def table() -> str:
    """The table of docs/models.md."""
    lines = ["| model type | what it is | with `targets: all-linear` | `packing` |", "|---|---|---|---|"]
    for kind in KINDS:
        told = "; ".join(WORDS[name] for name in kind.notices) or "every linear module is adapted"
        if kind.refused:
            told = f"refused: {kind.refused}"
        packs = "" if kind.refused else "yes" if kind.packs else "refused"
        lines.append(f"| `{kind.type}` | {kind.what} | {told} | {packs} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
