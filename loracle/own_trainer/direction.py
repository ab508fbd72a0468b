"""Whether more or less of a metric is better, by its name, where the name leaves no doubt."""

from __future__ import annotations

import re

from loracle.errors import ConfigError
from loracle.text.escape import printable

# Words of a name, whole.
_LESS = re.compile(
    r"loss(es)?|perplexit(y|ies)|ppl|nll|crossentropy|xent|err(or)?s?|r?mse|mae|mape|[wcte]er|bp[bcw]|brier|"
    r"ece|kl|divergence"
)
_MORE = re.compile(
    r"acc(uracy)?|f1|precision|recall|em|match(es)?|correct|pass|(au)?roc|auc|mcc|(sacre|g)?bleu|chrf|"
    r"rouge([12l]|lsum)?|meteor|bertscore|bleurt|comet|pearsonr?|spearmanr?|r2|m?ap|ndcg|mrr|iou|kappa|"
    r"similarity|rewards?"
)
# Say nothing of their own: which data, and how it was averaged.
_BESIDE = re.compile(r"eval(uation)?|test|train(ing)?|val(id|idation)?|dev|mean|avg|average")


def sign_of(metric: str, direction: str | None) -> float:
    """1 where more of a metric is better, -1 where less of it is.

    Args:
        metric: its name.
        direction: `maximize` or `minimize`; None: as the name says.

    Raises:
        ConfigError: no such direction, or the name does not say it.
    """
    if direction in ("maximize", "minimize"):
        return 1.0 if direction == "maximize" else -1.0
    if direction is not None:
        raise ConfigError(f"direction is minimize or maximize; got {printable(repr(direction), 40)}")
    words = set(re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", metric).lower()))
    # Entropy alone is how sure a model is of its own answers, which is neither good nor bad.
    less = {"bits", "per"} <= words or {"cross", "entropy"} <= words or any(map(_LESS.fullmatch, words))
    more = any(map(_MORE.fullmatch, words))
    if less != more:
        return -1.0 if less else 1.0
    if {word for word in words if not _BESIDE.fullmatch(word)} == {"score"}:
        return 1.0
    raise ConfigError(
        f"direction: the name {printable(repr(metric), 60)} does not say whether more or less of it is "
        "better; give direction, 'maximize' or 'minimize'"
    )
