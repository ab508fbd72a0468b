"""torchtune: `config.yaml` for its LoRA recipes, and the rows as tokens. Names as in torchtune 0.6.1.

Its tokenizers know no chat template of a model's folder, and each puts words of its own around a prompt. So
rows are exported as tokens, with a module that gives them to its recipes in the order in which Loracle took
them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from loracle.config.training.optimizers import ADAMW, OPTIMIZERS
from loracle.errors import ModelError, StudyError
from loracle.export.torchtune_parts.decoders import Decoder, decoder_of, require_family, targets_of
from loracle.export.winner.files import ROWS, header, write_rows, write_texts, yaml_text
from loracle.export.winner.reading import Winner
from loracle.export.winner.rows import batched_rows, training_rows

if TYPE_CHECKING:
    from loracle.training.dataset.shapes import Example
    from loracle.training.dataset.tokens import Encoded

LOADS_MODELS = True
NEEDS_ROWS = False

_PARTS = "loracle_parts"
_BASE = "base"  # folder that a model of the hub is downloaded into
_IGNORED = -100  # torchtune/data/_common.py, CROSS_ENTROPY_IGNORE_IDX; `IGNORED` of what is shipped
_DTYPES = {"bfloat16": "bf16", "float32": "fp32", "auto": "bf16"}
# transformers.TrainingArguments, and peft.LoraConfig, that the config has words for.
_TRAINING = (
    *("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs"),
    *("max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay"),
    *("max_grad_norm", "optim", "gradient_checkpointing", "activation_checkpointing", "seed"),
)
_LORA = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora", "init_lora_weights")
_IMPLIED = {"bias": "none", "task_type": "CAUSAL_LM"}


def write(winner: Winner, folder: Path) -> list[str]:
    """Writes `config.yaml`, `loracle_parts.py` and `train.jsonl`.

    Raises:
        LoracleError: torchtune builds no such model or adapter.
    """
    texts, notes = _texts(winner, local=False)
    encoded = batched_rows(winner, training_rows(winner, as_tokens=True))
    write_rows(folder, _rows(encoded))
    write_texts(folder, texts)
    return notes


def settings(winner: Winner, _rows: Sequence[Example]) -> tuple[dict[str, str], list[str]]:
    """The files without the rows, and what they cannot say; raises as `write`. No row matters.

    Nothing is fetched: where the base model's files are not on this machine, there are none. Nor is torch
    loaded, which transformers needs to read its config: the process of a search stays without, and goes by
    what the final training recorded. Runs that were begun before it did leave that to `loracle report`.
    """
    if not winner.base_model and "torch" not in sys.modules:
        raise ModelError(f"{winner.model}: its config was not recorded; loracle report reads it")
    try:
        return _texts(winner, local=True)
    except (OSError, ValueError) as problem:  # of transformers: a config or tokenizer that cannot be read
        raise ModelError(f"{winner.model}: {problem}") from None


def _texts(winner: Winner, *, local: bool) -> tuple[dict[str, str], list[str]]:
    """Files of settings by name, and what they cannot say; `local`: of what is on this machine."""
    _require_expressible(winner)
    config = _config(winner, local=local)
    decoder = decoder_of(winner.model, config, winner.max_length)
    targets = targets_of(winner.lora["target_modules"], config, decoder)
    notes = list(_notes(winner))
    head = header(winner, f"For `{_command(winner)}`, from this folder.", notes)
    content = {
        **_model(winner, decoder, targets),
        **_data(winner, local=local),
        **_training(winner),
        **_surroundings(winner),
    }
    shipped = Path(__file__).with_name("torchtune_parts") / "shipped.py"
    parts = shipped.read_text(encoding="utf-8")
    return {"config.yaml": yaml_text(head, content), f"{_PARTS}.py": parts}, notes


def _config(winner: Winner, *, local: bool) -> Any:
    """Of transformers, of the base model.

    Raises:
        StudyError: it is of a type that torchtune does not build, or `local` and not here.
    """
    if local:
        # Types that torchtune does not build are refused before transformers is loaded.
        require_family(winner.model, _recorded_type(winner))
        if winner.base_model:
            return SimpleNamespace(**winner.base_model["settings"])
    from transformers import AutoConfig

    told = {"trust_remote_code": winner.config.trust_remote_code and not local}
    return AutoConfig.from_pretrained(winner.model, local_files_only=local, **told)


def _recorded_type(winner: Winner) -> str:
    """`model_type` of the base model: as recorded, or as its files say. Raises ModelError: none are here."""
    if winner.base_model:
        return str(winner.base_model["settings"]["model_type"])
    model = winner.model
    path = _files(model) / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{model}: there is no config.json of it on this machine") from None


def _files(model: str) -> Path:
    """Folder of a base model's files on this machine; one of the hub may have none."""
    source = Path(model)
    if not source.is_dir():
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model, "config.json")
        source = Path(found).parent if isinstance(found, str) else source
    return source


def _require_expressible(winner: Winner) -> None:
    lora = winner.lora
    if lora["init_lora_weights"] is not True:
        raise StudyError(
            f"torchtune begins with LoRA's usual weights, not with {lora['init_lora_weights']}; "
            "export --to trl"
        )
    for name in ("target_parameters", "modules_to_save"):
        if lora.get(name):
            raise StudyError(
                f"torchtune adapts linear layers alone ({name}: {', '.join(lora[name])}); export --to trl"
            )
    if winner.dtype not in _DTYPES:
        raise StudyError(f"torchtune's recipes train in bf16 or fp32, not in {winner.dtype}; export --to trl")


def _command(winner: Winner) -> str:
    n = winner.split.devices
    recipe = "lora_finetune_single_device" if n == 1 else f"--nproc_per_node {n} lora_finetune_distributed"
    return f"tune run {recipe} --config config.yaml"


def _rows(encoded: Encoded) -> Iterator[Mapping[str, Sequence[int]]]:
    """Rows of `train.jsonl`; blocks say how many tokens each of their examples has."""
    parts = encoded.parts
    for start, end in zip(encoded.starts.tolist(), encoded.ends.tolist(), strict=True):
        tokens = encoded.tokens[start:end].tolist()
        counted = encoded.counted[start:end].tolist()
        labels = [token if learnt else _IGNORED for token, learnt in zip(tokens, counted, strict=True)]
        row = {"tokens": tokens, "labels": labels}
        if parts is not None:
            firsts = [i for i, place in enumerate(parts.places[start:end]) if place == 0]
            row["seq_lens"] = [b - a for a, b in pairwise([*firsts, end - start])]
        yield row


# -- config.yaml ------------------------------------------------------------------------------------


def _model(winner: Winner, decoder: Decoder, targets: Mapping[str, Any]) -> dict[str, Any]:
    lora = winner.lora
    # torchtune scales by alpha / rank, a rank-stabilised adapter by alpha / sqrt(rank).
    alpha = lora["lora_alpha"] * (math.sqrt(lora["r"]) if lora.get("use_rslora") else 1)
    folder, files = _weights(winner)
    return {
        "model": {
            "_component_": decoder.builder,
            **decoder.numbers,
            **targets,
            "lora_rank": lora["r"],
            "lora_alpha": alpha,
            "lora_dropout": lora["lora_dropout"],
            "use_dora": bool(lora.get("use_dora")),
        },
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": folder,
            "checkpoint_files": files,
            "model_type": decoder.checkpoint,
            "output_dir": "${output_dir}",
        },
        "resume_from_checkpoint": False,
        "save_adapter_weights_only": True,
    }


def _weights(winner: Winner) -> tuple[str, list[str]]:
    """Where the base model's weights will be, and the names of their files.

    Raises:
        ModelError: no file of weights in safetensors is known.
    """
    folder = winner.model if Path(winner.model).is_dir() else _BASE
    files = sorted(path.name for path in _files(winner.model).glob("model*.safetensors"))
    if not files:
        raise ModelError(
            f"{winner.model}: a config of torchtune names the files of the weights (model*.safetensors), and "
            "there are none here; name a folder with them as model, or export --to trl"
        )
    return folder, files


def _data(winner: Winner, *, local: bool) -> dict[str, Any]:
    trained, split = winner.trained, winner.split
    return {
        "tokenizer": {
            "_component_": f"{_PARTS}.Padding",
            "pad_id": _padding(winner, local=local),
            "max_seq_len": winner.max_length,
        },
        "dataset": {
            "_component_": f"{_PARTS}.Rows",
            "source": ROWS,
            "count": int(trained["steps"]) * int(trained["effective_batch"]),
            "seed": winner.training["seed"],
            "packed": winner.packs,
        },
        "shuffle": False,
        "batch_size": split.micro,
        "gradient_accumulation_steps": split.accumulation,
        "epochs": 1,
        "max_steps_per_epoch": None,
        "seed": winner.training["seed"],
    }


def _padding(winner: Winner, *, local: bool) -> int:
    if local and winner.base_model:
        return int(winner.base_model["pad_id"])
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(winner.adapter)
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def _training(winner: Winner) -> dict[str, Any]:
    training = winner.training
    name = training.get("optim", OPTIMIZERS[ADAMW].transformers)
    row = next(row for row in OPTIMIZERS.values() if row.transformers == name)
    warm, kind = int(training.get("warmup_steps", 0)), training.get("lr_scheduler_type", "linear")
    schedule: dict[str, Any] = {
        "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
    }
    if kind != "cosine":
        schedule = {"_component_": f"{_PARTS}.schedule", "name": kind}
        if arguments := training.get("lr_scheduler_kwargs"):
            schedule["arguments"] = arguments
    return {
        "optimizer": {
            "_component_": row.place.replace(":", "."),
            "lr": training["learning_rate"],
            "weight_decay": training.get("weight_decay", 0.0),
            **row.arguments,
        },
        "lr_scheduler": {**schedule, "num_warmup_steps": warm},
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "clip_grad_norm": training.get("max_grad_norm"),
        "compile": False,
        "enable_activation_checkpointing": any(
            training.get(name) for name in ("gradient_checkpointing", "activation_checkpointing")
        ),
        "enable_activation_offloading": False,
    }


def _surroundings(winner: Winner) -> dict[str, Any]:
    return {
        "output_dir": "adapter",
        "device": "cuda",
        "dtype": _DTYPES[winner.dtype],
        "metric_logger": {
            "_component_": "torchtune.training.metric_logging.DiskLogger",
            "log_dir": "${output_dir}/logs",
        },
        "log_every_n_steps": 1,
        "log_peak_memory_stats": True,
    }


# -- what it cannot say -----------------------------------------------------------------------------


def _notes(winner: Winner) -> Iterator[str]:
    trained = winner.trained
    yield (
        "needs: torchtune 0.6.1 with torchao 0.15, which is the last that has what it imports; "
        "torchtune is not developed any further"
    )
    if not Path(winner.model).is_dir():
        yield f"base model: first `tune download {winner.model} --output-dir {_BASE}`"
    yield (
        f"rows: {ROWS} holds the tokens that Loracle learnt, with {_IGNORED} as label where none counts; "
        "other data have to be made tokens in the same way"
    )
    yield (
        "epochs: one, over a list that has the rows as often as they were seen, in the order in which "
        "Loracle took them; dropout masks are others"
    )
    yield from winner.about_warmup()
    rows = int(trained.get("blocks", trained["examples"]))
    given = int(trained["steps"]) * int(trained["effective_batch"])
    if winner.epochs is not None and (missing := given - round(winner.epochs * rows)) > 0:
        yield f"last step: a whole batch, where Loracle's had {missing} rows less"
    if winner.lora.get("use_rslora"):
        yield (
            f"lora_alpha: the winner's {winner.lora['lora_alpha']} x sqrt(rank), as torchtune has no "
            "rank-stabilised scale; use the adapter with this alpha and without use_rslora"
        )
    if winner.dtype == "auto":
        yield "dtype: nobody recorded what the base model had; bf16 here"
    if _DTYPES[winner.dtype] == "bf16":
        yield "precision: the adapter's numbers are bfloat16, too; Loracle's are float32"
    yield from winner.beyond_arguments()
    yield from winner.unsaid(_TRAINING, _LORA, _IMPLIED)
