"""A metric of one's own: the share of a word's letters that stand where they belong."""


def letters_in_place(predictions: list[str], references: list[str], items: list[dict]) -> list[float]:
    """One number an answer, so that scores and differences have intervals.

    Args:
        predictions: what the model wrote, whole.
        references: what it should have written.
        items: what else is known of each row: `index`, `prompt`, `reference`, `choices`.
    """
    pairs = zip(predictions, references, strict=True)
    return [sum(a == b for a, b in zip(said, right, strict=False)) / len(right) for said, right in pairs]
