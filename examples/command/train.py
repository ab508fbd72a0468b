"""A training script that knows nothing of Loracle: flags in, `result.json` out, progress on the screen.

It fits a low-rank map B A to noisy data by gradient descent, in a fraction of a second. As with LoRA, steps
that are too large diverge, and steps that are too small learn nothing.

`--fail 3:crash,4:hang` makes runs 3 and 4 fail, to see what becomes of a search then; `once-crash` fails in
the first attempt alone.
"""

import argparse
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

WIDTH, HIDDEN, EXAMPLES, NOISE = 32, 8, 4000, 0.05


def hang() -> None:
    """Starts a process of its own session, as launchers do, and waits for it forever."""
    child = os.posix_spawnp("sleep", ["sleep", "3600"], os.environ, setsid=True)
    print(f"started {child}", flush=True)
    time.sleep(3600)


FAILURES = {
    "crash": lambda: sys.exit("ValueError: an example of a crash"),
    "memory": lambda: sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
    "hang": hang,
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


def train(rank: int, alpha: float, rate: float, batch: int, seed: int, fraction: float) -> float:
    """Mean squared error on held-out data; a mean of NOISE squared is left over at best."""
    random = np.random.default_rng(seed)
    target = random.normal(size=(WIDTH, HIDDEN)) @ random.normal(size=(HIDDEN, WIDTH)) / WIDTH
    x = random.normal(size=(EXAMPLES, WIDTH))
    y = x @ target.T + NOISE * random.normal(size=(EXAMPLES, WIDTH))
    a, b = random.normal(size=(rank, WIDTH)) / math.sqrt(WIDTH), np.zeros((WIDTH, rank))
    scale = alpha / rank
    n = int(fraction * (EXAMPLES - 1000))  # the last thousand are for validation
    steps = 4 * n // batch
    for step in range(1, steps + 1):
        chosen = random.integers(n, size=batch)
        error = x[chosen] @ (scale * b @ a).T - y[chosen]  # (batch, WIDTH)
        gradient = error.T @ x[chosen] / batch  # (WIDTH, WIDTH)
        a, b = a - rate * scale * b.T @ gradient, b - rate * scale * gradient @ a.T
        if step % max(1, steps // 20) == 0:
            print(f"step {step}/{steps} loss {np.mean(error**2):.4f}", flush=True)
    return float(np.mean((x[-1000:] @ (scale * b @ a).T - y[-1000:]) ** 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--alpha", type=float, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the training data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for result.json")
    parser.add_argument("--run", default="", help="name of this run, for --fail")
    parser.add_argument("--fail", default="", help="such as 3:crash,4:hang")
    arguments = parser.parse_args()

    kind = dict(part.split(":") for part in arguments.fail.split(",") if part).get(arguments.run, "")
    before = arguments.out / "failed"
    if not (kind.startswith("once-") and before.exists()):
        before.touch()
        FAILURES.get(kind.removeprefix("once-"), lambda: None)()
    with np.errstate(all="ignore"):
        loss = train(
            arguments.rank,
            arguments.alpha,
            arguments.lr,
            arguments.batch_size,
            arguments.seed,
            arguments.fraction,
        )
    result = {"eval": {"loss": math.nan if kind == "nan" else loss, "rmse": math.sqrt(loss)}}
    (arguments.out / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
