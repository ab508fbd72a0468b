"""LLaMA-Factory: `sft.yaml` for `llamafactory-cli train`, `dataset_info.json`, and the rows.

Names as in LLaMA-Factory 0.9.5.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loracle.errors import LoracleError, StudyError
from loracle.export.winner.files import ROWS, header, template_text, write_rows, write_texts, yaml_text
from loracle.export.winner.reading import Winner, require_whole_alpha
from loracle.export.winner.rows import (
    about_skipped_turns,
    ends_of_rows,
    plain_row,
    require_plain_turns,
    respelt_rows,
    training_rows,
)
from loracle.text.escape import printable

if TYPE_CHECKING:
    from loracle.training.dataset.shapes import Example

LOADS_MODELS = True

_NAME = "loracle_train"
# llamafactory/hparams/finetuning_args.py, LoraArguments: what has another name there than in PEFT.
_LORA = {
    "r": "lora_rank",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
_SAID = ("target_modules", "modules_to_save", "init_lora_weights")
_STARTS: dict[bool | str, dict[str, Any]] = {
    True: {"pissa_init": False},
    "pissa": {"pissa_init": True, "pissa_iter": -1},
    "pissa_niter_16": {"pissa_init": True, "pissa_iter": 16},
}
_IMPLIED = {"bias": "none", "task_type": "CAUSAL_LM"}
_ROLES = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


def write(winner: Winner, folder: Path) -> list[str]:
    """Writes `sft.yaml`, `dataset_info.json` and `train.jsonl`. Raises LoracleError: there is no place for
    something."""
    rows = training_rows(winner)
    texts, notes = settings(winner, rows)
    opening, ending = ends_of_rows(winner)
    spelt = respelt_rows(winner, rows, "LLaMA-Factory")
    write_rows(folder, (_row(row, opening, ending) for row in spelt))
    info = json.dumps({_NAME: _described(rows[0].form)}, indent=2)
    write_texts(folder, {"dataset_info.json": info + "\n", **texts})
    return notes


def settings(winner: Winner, rows: Sequence[Example]) -> tuple[dict[str, str], list[str]]:
    """The file of settings, without what describes the rows, and what it cannot say; raises as `write`."""
    lora = winner.lora
    require_whole_alpha(winner, "LLaMA-Factory")
    if lora["init_lora_weights"] not in _STARTS:
        raise StudyError(
            f"LLaMA-Factory begins with LoRA or PiSSA, not with {lora['init_lora_weights']}; export --to trl"
        )
    require_plain_turns(rows, "LLaMA-Factory")
    _require_alternation(rows)
    if template_text(winner, rows):
        raise StudyError(
            f"LLaMA-Factory reads the chat template of the model's own folder alone, and the run's was "
            f"{winner.config.data.template} (data.template); export --to trl"
        )
    notes = [*winner.beyond_trainer(lora_plus=True), *_about_rows(rows)]
    notes += _about_packing(winner, rows[0].form)
    notes += winner.unsaid(winner.training, (*_LORA, *_SAID), _IMPLIED)
    launch = f"FORCE_TORCHRUN=1 NPROC_PER_NODE={winner.split.devices} " * (winner.split.devices > 1)
    head = header(winner, f"For `{launch}llamafactory-cli train sft.yaml`, from this folder.", notes)
    return {"sft.yaml": yaml_text(head, _config(winner, rows[0].form))}, notes


def _config(winner: Winner, form: str) -> dict[str, Any]:
    lora, targets = winner.lora, winner.lora["target_modules"]
    ratio = winner.lora_plus_ratio
    return {
        "model_name_or_path": winner.model,
        "trust_remote_code": winner.config.trust_remote_code,
        "stage": "pt" if form == "text" else "sft",
        "do_train": True,
        "finetuning_type": "lora",
        **{_LORA[name]: lora[name] for name in _LORA if name in lora},
        "lora_target": "all" if targets == "all-linear" else ",".join(targets),
        **({"additional_target": ",".join(lora["modules_to_save"])} if lora.get("modules_to_save") else {}),
        **_STARTS[lora["init_lora_weights"]],
        **({} if ratio is None else {"loraplus_lr_ratio": ratio, "optim": "adamw_torch_fused"}),
        "dataset_dir": ".",
        "dataset": _NAME,
        **({"template": "empty"} if form == "prompt and completion" else {}),
        **_packing(winner, form),
        "train_on_prompt": False,
        "mask_history": False,
        **winner.training,
        "data_seed": winner.training["seed"],
        "bf16": winner.dtype == "bfloat16",
        "fp16": winner.dtype == "float16",
        "logging_steps": 1,
        "report_to": "none",
        "output_dir": "adapter",
    }


def _packing(winner: Winner, form: str) -> dict[str, Any]:
    """Its blocks are one token shorter than it is told; texts are packed by its stage pt in its own way."""
    if not winner.packs:
        return {"cutoff_len": winner.max_length, "packing": False}
    neat = {} if form == "text" else {"neat_packing": True}
    return {"cutoff_len": winner.max_length + 1, "packing": True, **neat}


def _about_packing(winner: Winner, form: str) -> Iterator[str]:
    if not winner.packs:
        return
    if form == "text":
        yield (
            "packing: LLaMA-Factory joins texts and cuts them into rows of cutoff_len, in which each sees "
            "those before it; Loracle's are whole, and none sees another"
        )
    elif winner.split.micro > 1 and winner.attention == "flash_attention_2":
        yield "packing: with FlashAttention neat_packing takes one row at a time; give --micro-batch 1"


def _require_alternation(rows: Sequence[Example]) -> None:
    """Raises LoracleError where LLaMA-Factory would pass over a chat with a warning: its turns are not those
    of a user and the assistant by turns, behind a system's (llamafactory/data/converter.py)."""
    for row in rows:
        roles = [turn.role for turn in row.messages]
        spoken = roles[1:] if roles[:1] == ["system"] else roles
        if spoken != ["user", "assistant"] * (len(spoken) // 2):
            raise LoracleError(
                f"{row.source}: LLaMA-Factory leaves out chats where user and assistant do not take turns, "
                f"as here: {', '.join(map(printable, roles[:6]))}; export --to trl, or to torchtune"
            )


def _described(form: str) -> dict[str, Any]:
    if form == "messages":
        return {
            "file_name": ROWS,
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": _ROLES,
        }
    columns = {"prompt": "text"} if form == "text" else {"prompt": "prompt", "response": "completion"}
    return {"file_name": ROWS, "columns": columns}


def _row(row: Example, opening: str, ending: str) -> Mapping[str, Any]:
    """Its template `empty` adds no token of its own, so rows bring those that open and end them."""
    if row.form != "prompt and completion":
        return plain_row(row)
    prompt, completion = str(row.prompt), str(row.completion)
    return {
        "prompt": prompt if prompt.startswith(opening) else opening + prompt,
        "completion": completion if completion.endswith(ending) else completion + ending,
    }


def _about_rows(rows: Sequence[Example]) -> Iterator[str]:
    if rows[0].form == "messages":
        yield (
            "chat template: none is named, so LLaMA-Factory makes one of the tokenizer's by taking it apart, "
            "which many templates do not allow exactly; where it has one for your model, put `template: NAME`"
        )
    if rows[0].form == "prompt and completion":
        yield (
            "tokens: prompt and completion are tokenised apart (template `empty`); the rows bring the "
            "special tokens that open and end them, because that template adds none"
        )
    yield from about_skipped_turns(rows, "LLaMA-Factory")
