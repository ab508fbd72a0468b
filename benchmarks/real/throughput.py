"""Training throughput and peak memory on a real model: Loracle's loop, a bare PEFT loop, TRL's SFTTrainer.

    OMP_NUM_THREADS=1 python benchmarks/real/throughput.py --out benchmarks/results/real-throughput.json

All see the same batches of the same token ids, the same model and dtype, the same adapter (rank 16 on all
linear modules, dropout 0.05), AdamW, and the gradient clipped to a norm of 1. Each run is a process of its
own with one thread; the sides take turns. What is measured begins after the first step and ends with the last
one: processor seconds, and tokens without padding. Memory is the most that the process had resident, whole
(`peak_mb`) and over what it had with the model loaded and free memory given back (`growth_mb`).

* loracle: `train_adapter` with the micro-batch that a run would choose, in a process with the imports and the
  environment of a run's worker.
* bare: pads a batch, `model(input_ids, attention_mask, labels).loss`, backward, clip, step.
* trl: SFTTrainer without saving, logging and gradient checkpointing, on the tokens that count alone, the
  batches in order, all else as it comes. `--sides trl-checkpointing` is the same with its default, on.

The others load nothing of Loracle but the meter of memory, and what makes rows is no side's process.

Data are windows of this project's own documentation: of 24 to 40 tokens, of which the last 2 to 6 count
(`completion`), or all (`text`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from fetch import MODEL
from speed import about

from loracle.config.execution.heap import lean_heap
from loracle.training.memory.measurement import ProcessMeter, release

ROOT = Path(__file__).parent.parent.parent
SIDES = ("loracle", "bare", "trl", "trl-checkpointing")
RANK, ALPHA, DROPOUT, RATE, CLIP = 16, 32, 0.05, 1e-4, 1.0
SEED = 0
ROWS = (
    ("bfloat16", 16, "completion"),
    ("float32", 4, "completion"),
    ("bfloat16", 4, "completion"),
    ("float32", 16, "completion"),
    ("bfloat16", 16, "text"),
    ("bfloat16", 4, "text"),
    ("float32", 4, "text"),
    ("float32", 16, "text"),
)


def make_rows(model: Path, n: int, kind: str) -> list[tuple[list[int], list[int]]]:
    """Token ids, and 1 where they count."""
    from transformers import AutoTokenizer

    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    ids = AutoTokenizer.from_pretrained(model)(text)["input_ids"]
    random = np.random.default_rng(SEED)
    lengths, counted = random.integers(24, 41, n), random.integers(2, 7, n)
    rows = []
    for start, length, count in zip(random.integers(0, len(ids) - 41, n), lengths, counted, strict=True):
        own = ids[start : start + length]
        k = count if kind == "completion" else length - 1
        rows.append((own, [0] * int(length - k) + [1] * int(k)))
    return rows


class Clock:
    """Processor seconds and resident memory of a training, from the end of its first step on."""

    def __init__(self) -> None:
        self._meter = ProcessMeter()
        self._ends: list[float] = []
        self.loaded = 0

    def start(self) -> None:
        """Call with the model loaded."""
        release(torch.device("cpu"))
        self.loaded = self._meter.used()
        self._meter.restart()

    def step(self) -> None:
        self._ends.append(time.process_time())

    def result(self) -> dict[str, float]:
        peak = self._meter.peak()
        assert peak is not None
        return {
            "seconds": self._ends[-1] - self._ends[0],
            "steps": len(self._ends) - 1,
            "peak": peak,
            "growth": peak - self.loaded,
        }


# -- the three sides --------------------------------------------------------------------------------


def train_loracle(model: Path, dtype: str, batch: int, rows: list[Any], clock: Clock) -> dict[str, Any]:
    from loracle.config.settings import RunConfig, TrainingConfig
    from loracle.training.memory.start import begin

    whole = {"model": str(model), "data": {"train": "none"}, "device": "cpu", "dtype": dtype}
    config = RunConfig.model_validate(whole)
    tokenizer = begin(config)  # as a worker does

    import loracle.training.objective  # noqa: F401  # what a worker loads
    from loracle.training.dataset.tokens import Encoded
    from loracle.training.loop import Step, train_adapter
    from loracle.training.memory.counting import build_memory_model
    from loracle.training.model.base_model import load_base
    from loracle.training.schedule import example_order

    base = load_base(config, tokenizer=tokenizer)
    order = example_order(len(rows), len(rows), SEED)
    placed = [rows[0]] * len(rows)
    for row, place in zip(rows, order, strict=True):  # so that the same batches are made
        placed[int(place)] = row
    tokens = [np.array(ids, dtype=np.int32) for ids, _ in placed]
    counted = [np.array(one, dtype=bool) for _, one in placed]
    lengths = np.array([len(one) for one in tokens])
    counts = np.array([int(one.sum()) for one in counted])
    ends = np.cumsum(lengths)
    data = Encoded(
        np.concatenate(tokens),
        np.concatenate(counted),
        ends - lengths,
        ends,
        lengths - counts,
        counts,
        np.arange(len(rows)),
        np.zeros(len(rows), dtype=bool),
    )
    knobs = {"rank": RANK, "alpha": ALPHA, "dropout": DROPOUT, "batch_size": batch, "learning_rate": RATE}
    settings = TrainingConfig(epochs=1, max_gradient_norm=CLIP)
    memory = build_memory_model(base, settings, data)
    micro_batch = memory.micro_batch(knobs)
    settings = settings.model_copy(update={"micro_batch": micro_batch})
    clock.start()
    losses = []

    def note(step: Step) -> None:
        losses.append(step.loss)
        clock.step()

    with train_adapter(base, data, knobs, settings, seed=SEED, progress=note):
        found = clock.result()
    return found | {"micro_batch": micro_batch, "loss": losses[0]}


def load_plain(model: Path, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
    for parameter in plain.parameters():
        parameter.sum()  # read from the file now, and not in the first step
    return plain


def lora_config() -> Any:
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules="all-linear"
    )


def train_bare(model: Path, dtype: str, batch: int, rows: list[Any], clock: Clock) -> dict[str, Any]:
    from peft import get_peft_model

    plain = load_plain(model, dtype)
    clock.start()
    adapted = get_peft_model(plain, lora_config()).train()
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, fused=True)
    losses = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        width = max(len(ids) for ids, _ in part)
        ids = torch.zeros((len(part), width), dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, (own, counted) in enumerate(part):
            ids[row, : len(own)] = torch.tensor(own)
            mask[row, : len(own)] = 1
            labels[row, : len(own)] = torch.where(torch.tensor(counted) > 0, torch.tensor(own), -100)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = adapted(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        losses.append(float(loss))
        clock.step()
        optimizer.step()
        optimizer.zero_grad()
    return clock.result() | {"loss": losses[0]}


def train_trl(
    model: Path, dtype: str, batch: int, rows: list[Any], clock: Clock, *, checkpointing: bool
) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    plain = load_plain(model, dtype)
    clock.start()

    class Ends(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step()

    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=dtype == "bfloat16",
            gradient_checkpointing=checkpointing,
            per_device_train_batch_size=batch,
            num_train_epochs=1,
            learning_rate=RATE,
            max_grad_norm=CLIP,
            completion_only_loss=True,
            max_length=None,
            train_sampling_strategy="sequential",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        )
        trainer = SFTTrainer(
            model=plain,
            args=settings,
            train_dataset=Dataset.from_dict(
                {"input_ids": [ids for ids, _ in rows], "completion_mask": [counted for _, counted in rows]}
            ),
            processing_class=AutoTokenizer.from_pretrained(model),
            peft_config=lora_config(),
            callbacks=[Ends()],
        )
        trainer.train()
        return clock.result() | {"loss": trainer.state.log_history[-1].get("train_loss")}


def measure(side: str, model: Path, dtype: str, batch: int, rows: list[Any]) -> dict[str, Any]:
    """One run in this process; all steps are timed but the first."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    clock = Clock()
    if side == "loracle":
        found = train_loracle(model, dtype, batch, rows, clock)
    elif side == "bare":
        found = train_bare(model, dtype, batch, rows, clock)
    else:
        found = train_trl(model, dtype, batch, rows, clock, checkpointing=side == "trl-checkpointing")
    tokens = sum(len(ids) for ids, _ in rows[batch:])
    return found | {"tokens": tokens, "tokens_a_second": tokens / found["seconds"]}


# -- all of them ------------------------------------------------------------------------------------


def run_side(side: str, model: Path, dtype: str, batch: int, rows: list[Any]) -> dict[str, Any]:
    one = json.dumps([side, str(model), dtype, batch])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if side == "loracle":
        environment |= lean_heap()
    command = [sys.executable, __file__, "--one", one]
    done = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{side} {dtype} {batch}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians with smallest and largest, and ratios of medians; memory is the most of all rounds."""
    found: dict[str, Any] = {}
    for side, own in runs.items():
        speeds = [run["tokens_a_second"] for run in own]
        found[side] = {
            "tokens_a_cpu_second": [round(f(speeds), 2) for f in (min, statistics.median, max)],
            "growth_mb": round(max(run["growth"] for run in own) / 1e6, 1),
            "peak_mb": round(max(run["peak"] for run in own) / 1e6, 1),
            "loss": own[0]["loss"],
        }
        if "micro_batch" in own[0]:
            found[side]["micro_batch"] = own[0]["micro_batch"]
    ours = found["loracle"]
    for side in runs.keys() - {"loracle"}:
        other = found[side]
        other["loracle_is_faster_by"] = round(
            ours["tokens_a_cpu_second"][1] / other["tokens_a_cpu_second"][1], 3
        )
        other["loracle_grows_by"] = round(ours["growth_mb"] / other["growth_mb"], 3)
        other["loracle_peaks_at"] = round(ours["peak_mb"] / other["peak_mb"], 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="*", default=range(len(ROWS)), help="numbers from 0")
    parser.add_argument("--sides", nargs="*", default=SIDES[:3], choices=SIDES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        side, model, dtype, batch = json.loads(arguments.one)
        print(json.dumps(measure(side, Path(model), dtype, batch, json.load(sys.stdin))))
        return
    results = []
    for dtype, batch, kind in (ROWS[number] for number in arguments.rows):
        rows = make_rows(arguments.model, batch * (arguments.steps + 1), kind)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in arguments.sides}
        for _ in range(arguments.rounds):
            for side in arguments.sides:
                runs[side].append(run_side(side, arguments.model, dtype, batch, rows))
        results.append({"dtype": dtype, "batch": batch, "data": kind, "sides": summary(runs)})
        print(json.dumps(results[-1], indent=1), flush=True)
        if arguments.out:
            content = about() | {"steps": arguments.steps, "rounds": arguments.rounds}
            arguments.out.write_text(
                json.dumps(content | {"rows": results}, indent=1) + "\n", encoding="utf-8"
            )


if __name__ == "__main__":
    main()
