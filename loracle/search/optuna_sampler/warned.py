"""What a sampler warns of, once a study: in sentences, at the line of the user's own code."""

from __future__ import annotations

import sys
import warnings

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import Study

from loracle.config.spellings import SPELLINGS, meant_by, says_lora
from loracle.records.space import SearchSpace
from loracle.search.optuna_sampler import suggestions
from loracle.search.optuna_sampler.parameters import fits, number_of, texts_of
from loracle.search.optuna_sampler.question import Scene
from loracle.text.escape import printable

_OTHERS = ("loracle", "optuna", "ray")  # whose code is none of the user's


class Warned:
    """Remembers what was said of which study."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()

    def first(self, study: Study, what: str) -> bool:
        """Whether nothing was said of this yet; from now on it was."""
        new = (study.study_name, what) not in self._said
        self._said.add((study.study_name, what))
        return new

    def once(self, study: Study, what: str, said: str | None) -> None:
        """Warns of something, unless it was said before or there is nothing to say."""
        if said is not None and self.first(study, what):
            warnings.warn(said, stacklevel=levels())


def strange(
    scene: Scene, base: SearchSpace | None, name: str, distribution: BaseDistribution, drawn_by: str
) -> str | None:
    """That a parameter is no knob, and what is done with it; None: the trial may yet show that it is one.

    Args:
        scene: the study.
        base: the user's own space.
        name, distribution: of the parameter.
        drawn_by: the sampler of what is not searched.
    """
    known = SPELLINGS.keys() if base is None else suggestions.names_of(base)
    meant, usual = meant_by(name, set(known) - set(scene.knobs.values()))
    if name in scene.knobs:
        how = "searched by numbers alone, without what is known of LoRA"
    else:
        how = f"drawn by {drawn_by} in every trial and not searched with the others"
    second = meant_by(name, set(scene.knobs.values()) - {name})
    if second[1] and name not in known:
        (first,) = (other for other, knob in scene.knobs.items() if knob == second[0])
        what = f"is {second[0]}, and so is {first!r}, which the objective asks for as well"
    elif base is not None:
        what = f"is no knob of the search space ({', '.join(base.names)})"
    elif meant == "alpha" and usual and not says_lora(name):
        why = f"as {distribution} has other values than that"
        if fits(meant, name, distribution):
            if not any(trial.over and scene.knobs.get(name) in trial.given for trial in scene.trials):
                return None  # a rank may follow
            why = "as no rank is asked for"
        how += "; if LoRA's is meant, call it 'lora_alpha'"
        return f"{name!r} is no alpha of LoRA, {why}: it is {how}"
    elif usual:
        what = f"is no {meant}, as {distribution} has other values than that"
    else:
        what = "is no hyperparameter that Loracle knows"
    hint = f"; if {meant!r} is meant, call it so" if meant and not (usual and base is None) else ""
    return f"{name!r} {what}: it is {how}{hint}"


def left_out(space: SearchSpace, knob: str, name: str, distribution: BaseDistribution) -> str | None:
    """That a parameter has choices that the user's own space lacks; None: it has none."""
    if not isinstance(distribution, CategoricalDistribution):
        return None
    texts, values = texts_of(space).get(knob, ()), suggestions.columns(space)[knob]
    numbers = {choice: number_of(knob, choice, distribution, texts) for choice in distribution.choices}
    missing = [
        str(choice)
        for choice, number in numbers.items()
        if number is None or not np.isclose(values, number, rtol=1e-9, atol=1e-15).any()
    ]
    if not missing:
        return None
    return (
        f"{name!r} is never {printable(', '.join(missing), 100)}, as the search space holds no such {knob}; "
        "add it to the space, or leave the space out: then the choices are the space"
    )


def levels() -> int:
    """How many calls above the caller's the user's own code is: there a warning belongs."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _OTHERS:
        frame, level = frame.f_back, level + 1
    return level
