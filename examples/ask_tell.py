"""Loracle's search in your own loop: ask for a config, train it any way you like, tell the score."""

from loracle import PRESETS, Failure, FailureKind, Optimizer, Outcome, default_space


def train(config: dict[str, float]) -> Outcome:
    """Stands in for a training that diverges where the step is too large; larger scores are better."""
    step = config["alpha"] * config["learning_rate"]
    if step > 0.2:
        return Outcome(None, failure=Failure(FailureKind.DIVERGED, "the loss is NaN"))
    return Outcome(-abs(step - 0.02) - 0.1 / config["rank"])


optimizer = Optimizer(default_space(), PRESETS["numeric"], seed=0)
for _ in range(15):
    (index,) = optimizer.ask()
    optimizer.tell(index, train(optimizer.space.config(index)))
print(optimizer.recommend())
