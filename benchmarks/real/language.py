"""What reading the prompts costs where the tuned model itself reads them, on a real model.

    python benchmarks/real/language.py FOLDER                # an hour on one core
    python benchmarks/real/language.py FOLDER --only language bfloat16

FOLDER holds the model. Presets `paper` (the published space of 45,360 configs) and `language` (the default
space) read with the tuned model, learnable token on, as a run's driver does. Each row has a process of
its own, for its peaks of memory: `features` is what all candidates take before the first proposal, `proposal`
the choice after eleven trials: the fit, and reading all candidates with the fitted token. Seconds are of
processor time on one thread; memory is beyond the loaded model. Writes `../results/real-language.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from speed import about

RESULTS = Path(__file__).parent.parent / "results" / "real-language.json"
ROWS = [(preset, dtype) for preset in ("language", "paper") for dtype in ("bfloat16", "float32")]
TRIALS = 11


def measure(folder: str, preset: str, dtype: str) -> dict[str, Any]:
    """One row."""
    import numpy as np
    import torch

    from loracle.config.settings import LanguageConfig
    from loracle.errors import ModelError
    from loracle.language.features import TreeFeatures, build_features
    from loracle.language.prompt import load_prompt
    from loracle.language.reader import load_language_model
    from loracle.records.space import default_space, paper_space
    from loracle.records.trial import History, Outcome, Trial
    from loracle.search.presets import PRESETS
    from loracle.search.propose import propose
    from loracle.training.memory.measurement import meter_of

    torch.set_num_threads(1)
    meter = meter_of(torch.device("cpu"))
    assert meter is not None
    space = paper_space() if preset == "paper" else default_space()
    began = time.process_time()
    model = load_language_model(LanguageConfig(), tuned=folder, device="cpu", dtype=dtype)
    assert model is not None
    prompt = load_prompt("lora-v1", space, n_examples=1000, epochs=1)
    loaded, row = meter.used(), {"preset": preset, "dtype": dtype, "candidates": len(space.candidates)}
    row["load_seconds"] = round(time.process_time() - began, 1)

    def spent(name: str, work: Any) -> Any:
        meter.restart()
        start = time.process_time()
        found = work()
        row[f"{name}_seconds"] = round(time.process_time() - start, 1)
        row[f"{name}_gb"] = round(((meter.peak() or 0) - loaded) / 1e9, 2)
        print(row, flush=True)
        return found

    spent("fingerprint", lambda: model.fingerprint)
    try:
        features = spent(
            "features",
            lambda: build_features(space, prompt, model, learnable_token=True, cache_dir=None),
        )
    except ModelError as error:
        return row | {"refused": str(error).replace(folder, Path(folder).name)}
    row["tree"] = isinstance(features, TreeFeatures)
    if isinstance(features, TreeFeatures):
        row |= {"prefix_tokens": len(features.tree.trie.prefix), "nodes": len(features.tree.trie)}
        row["plain_tokens"] = features.tree.trie.plain_tokens
    random = np.random.default_rng(0)
    chosen = random.choice(space.candidates, TRIALS, replace=False).tolist()
    outcomes = [Outcome(float(value)) for value in random.normal(size=TRIALS)]
    trials = [Trial(i, one, out) for i, (one, out) in enumerate(zip(chosen, outcomes, strict=True))]
    history = History(tuple(trials))
    surrogate = replace(PRESETS[preset].surrogate, learnable_token=True)  # of `language` it is a setting
    own = replace(PRESETS[preset], surrogate=surrogate, seed_configs=())  # they would come without a fit
    spent("proposal", lambda: propose(space, history, own, features=features, seed=0))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--only", nargs=2, metavar=("PRESET", "DTYPE"))
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.out:
        row = measure(options.folder, *options.only)
        Path(options.out).write_text(json.dumps(row), encoding="utf-8")
        return
    content = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"rows": []}
    for preset, dtype in [tuple(options.only)] if options.only else ROWS:
        out = RESULTS.with_suffix(f".{preset}.{dtype}")
        command = [sys.executable, __file__, options.folder, "--only", preset, dtype, "--out", str(out)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        row = json.loads(out.read_text(encoding="utf-8"))
        out.unlink()
        others = [r for r in content["rows"] if (r["preset"], r["dtype"]) != (preset, dtype)]
        content = {
            **about(),
            "model": Path(options.folder).name,
            "rows": [*others, row],
        }
        RESULTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
