"""The parts of the page, in order: each takes the findings and gives HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loracle.config.metrics import OWN_METRICS, metric_of
from loracle.report.findings.records import Example, Findings, NearEqual
from loracle.report.findings.search_cost import show_trainings
from loracle.report.page import wording
from loracle.report.page.belief.parts import importance_part, ratio, slices_part, stands_in
from loracle.report.page.belief.prior import held_parts, prior_part
from loracle.report.page.markup import (
    Part,
    block,
    chart,
    code_in,
    items,
    own,
    paragraph,
    section,
    table,
    text,
)
from loracle.report.page.pareto import pareto_part
from loracle.report.page.trials_table import axis_fields, trials_table
from loracle.report.wording import (
    chosen_line,
    show_difference,
    show_score,
    show_value,
    shown_knobs,
)
from loracle.text.quantities import show_bytes, show_duration, show_money

# `standing`: a word for the eye, and the look of it.
_STANDINGS = {
    "better": ("better than the standard settings", "good"),
    "no_difference": ("no difference that can be told", "even"),
    "worse": ("worse than the standard settings", "bad"),
    "untested": ("higher, but not shown to be better", "even"),
    "trade_off": ("better by one objective, worse by another", "even"),
    "same": ("the standard settings won", "even"),
    "not_compared": ("nothing was compared", "even"),
    None: ("not finished", "even"),
}


def sections(found: Findings) -> list[Part]:
    """All of them."""
    return [
        _verdict(found),
        _recipe(found),
        *([pareto_part(found)] if found.pareto else []),
        _progress(found),
        _curves(found),
        trials_table(found),
        _parallel(found),
        slices_part(found),
        importance_part(found),
        prior_part(found),
        *held_parts(found),
        _near_equals(found),
        _cliff(found),
        _proxy(found),
        _examples(found),
        _cost(found),
        _provenance(found),
    ]


# -- the answer -----------------------------------------------------------------------------------------


def _verdict(found: Findings) -> Part:
    word, look = _badge(found)
    head, *rest = found.verdict
    said = [f'<p class="lead">{code_in(head)}</p>', *(f"<p>{code_in(line)}</p>" for line in rest)]
    badge = f'<p class="badge {look}">{text(word)}</p>'
    numbers = _numbers(found)
    compared = table(found.comparison, "Winner and standard settings") if found.comparison else ""
    notices = ""
    if found.notices:
        notices = f"<h3>To know</h3>{items(code_in(notice + '.') for notice in found.notices)}"
    ended = f"The search ended: {found.stopped}. " if found.stopped else ""
    how = f"{ended}There are {found.candidates:,} configs to choose from."
    return section(
        "verdict", "Verdict", "Verdict", badge, *said, numbers, compared, notices, paragraph(text(how))
    )


def _badge(found: Findings) -> tuple[str, str]:
    """The word for the eye, and its look: never a good one where the winner loses what must not be lost."""
    word, look = _STANDINGS[found.standing]
    guards = found.comparison_data["winner"]["guards"] if found.comparison_data else {}
    if all(reading["kept"] for reading in guards.values()):
        return word, look
    return (
        f"{word}, but loses what must not be lost" if look == "good" else "loses what must not be lost",
        "bad",
    )


def _numbers(found: Findings) -> str:
    """The few numbers that answer the question, large."""
    data = found.comparison_data
    if data is None:
        return ""
    compared = data["by_objective"] if found.pareto and "by_objective" in data else None
    if compared and found.standing not in ("same", "not_compared"):
        cells = [cell for one in compared for cell in _by_objective(one)]
    else:
        cells = _of_one(found, data)
    inside = "".join(f"<div><dt>{text(title)}</dt><dd>{text(shown)}</dd></div>" for title, shown in cells)
    return f'<dl class="numbers">{inside}</dl>' if inside else ""


def _of_one(found: Findings, data: Mapping[str, Any]) -> list[tuple[str, str]]:
    cells = []
    where = "on test data"
    if found.metric in OWN_METRICS:
        where = "in its final run" if found.ran_again else "in its trial"
    for name, title in (("winner", f"winner, {where}"), ("standard", "standard settings")):
        side = data.get(name)
        if side and side["score"] is not None and not (name == "standard" and found.standing == "same"):
            cells.append((title, wording.score(found, side["score"])))
    gap = data["difference"]
    if gap["mean"] is not None and found.standing != "same":
        unit = metric_of(found.metric).unit
        ends = f"{wording.gain(found, gap['low'])} to {wording.gain(found, gap['high'])}"
        shown = f"{wording.gain(found, gap['mean'])} {unit}".rstrip()
        cells.append((f"difference, 95 % interval {ends}", shown))
    return cells


def _by_objective(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Winner against standard by one objective of several."""
    metric, title = one["metric"], metric_of(one["metric"]).title
    shown = [show_score(one[f"{side}_value"], metric) for side in ("winner", "standard")]
    cells = [(f"{title}: winner, and standard settings, on test data", " / ".join(shown))]
    if one["mean"] is not None:
        by = show_difference(one["mean"], one["low"], one["high"], metric)
        cells.append((f"{title}: {by.partition(' (')[2].removesuffix(')')}", by.partition(" (")[0]))
    return cells


def _recipe(found: Findings) -> Part:
    parts = []
    for place, recipe in enumerate(found.recipes):
        name = f"recipe-{place}"
        opened = " open" if place == 0 else ""
        parts.append(
            f"<details{opened}><summary>{text(recipe.dialect)} <code>{text(recipe.file)}</code></summary>"
            f'<button type="button" class="copy" data-copies="{name}">Copy</button>'
            f'<pre id="{name}" tabindex="0" aria-label="{text(recipe.dialect)}: {text(recipe.file)}">'
            f"{block(recipe.text)}</pre></details>"
        )
    note = ""
    if found.recipes and found.recipes[0].dialect == "peft":
        note = paragraph(
            code_in(
                "Settings alone; `loracle export RUN --to FORMAT FOLDER` writes them with adapter and rows."
            )
        )
    parts.append(_without_recipe(found))
    return section("recipe", "Recipe", "The recipe", note, *parts, why=found.left_out.get("recipes"))


def _without_recipe(found: Findings) -> str:
    """Formats that have a text of settings and none here, and why."""
    if not found.without_recipe:
        return ""
    lines = [f"<strong>{text(name)}.</strong> {text(why)}." for name, why in found.without_recipe.items()]
    return f"<h3>Formats that are not here</h3>{items(lines)}"


# -- the search -----------------------------------------------------------------------------------------


def _progress(found: Findings) -> Part:
    why = found.left_out.get("progress")
    word = "lowest" if found.less_is_better else "highest"
    label = f"Scores of all trials, the {word} so far, and the standard settings as a line."
    where = "" if found.metric in OWN_METRICS else ", on validation data"
    wins = f"what the belief trusts most, and not the {word} score alone, which is partly luck"
    if found.pareto:
        where = f" by {text(found.title)}, the first objective{where}"
        wins = "the compromise between all objectives"
    note = paragraph(
        f"Scores are those of the trials{where}. What wins is {wins}.",
        f"Open marks lost a guard and do not count as the {word} so far." if _any_lost(found) else "",
        "" if found.unit else "What is far from all others stands at the edge.",
        "" if found.chosen is None else text(chosen_line(found.chosen, found.metric)),
    )
    return section("progress", "Best so far", "Best so far", chart("progress-chart", label), note, why=why)


def _curves(found: Findings) -> Part:
    label = "Training loss by step, a line for each trial."
    marks = any(curve.validation_losses for curve in found.curves)
    note = paragraph(
        f"Each point is the mean over a stretch of steps{'; marks are of validation rows' * marks}."
    )
    why = found.left_out.get("curves")
    return section("curves", "Curves", "Learning curves", chart("curves-chart", label), note, why=why)


def _any_lost(found: Findings) -> bool:
    return any(row.broken for row in found.trials)


def _parallel(found: Findings) -> Part:
    varied = any(len({row.config[name] for row in found.ended}) > 1 for name in found.knobs)
    why = None if varied else "There are no two trials of different settings to compare."
    label = "Each trial as a line across its settings to its score."
    said = "One line a trial. The stronger its blue, the better its score; red lines failed"
    said += ", grey ones lost a guard." if _any_lost(found) else "."
    how = (
        '<p class="brushed">Drag along an axis to keep only the trials in that part of it, here and in the '
        'table of all trials; click on the axis to let go. <output id="brush-count" aria-live="polite">'
        '</output> <button type="button" id="brush-reset" hidden>Show all</button></p>'
    )
    inside = (chart("parallel-chart", label, "tall"), paragraph(said, ratio(found)), how, axis_fields(found))
    return section("parallel", "Settings", "All settings at once", *inside, why=why)


# -- what follows ---------------------------------------------------------------------------------------


def _near_equals(found: Findings) -> Part:
    title = "As good within noise, but cheaper"
    if not found.near_equals:
        return section("cheaper", "Cheaper", title, why=found.left_out.get("near_equals"))
    unit = metric_of(found.metric).unit
    steps = any(one.steps is not None for one in found.near_equals)
    heads = [
        *shown_knobs(found.near_equals[0].config),
        *["steps"] * steps,
        f"believed difference{unit and f', {unit}'}",
        "trial",
    ]
    rows = [["", *heads], *(_near_row(found, i, one, steps) for i, one in enumerate(found.near_equals))]
    note = paragraph(
        "A smaller rank or fewer steps than the leading config, and a believed difference of less than the "
        f"noise of one score{'; what likely loses a guard is left out' if found.watched else ''}.",
        stands_in(found),
    )
    return section("cheaper", "Cheaper", title, note, table(rows, title))


def _near_row(found: Findings, place: int, one: NearEqual, steps: bool) -> list[str]:
    ends = f"{wording.gain(found, one.low)} to {wording.gain(found, one.high)}"
    return [
        str(place + 1),
        *(show_value(value) for value in shown_knobs(one.config).values()),
        *["" if one.steps is None else f"{one.steps:,}"] * steps,
        f"{wording.gain(found, one.difference)} ({ends})",
        "not tried" if one.trial is None else str(one.trial),
    ]


def _cliff(found: Findings) -> Part:
    cliff = found.cliff
    if cliff is None:
        return section("cliff", "Cliff", "Where the cliff is", why=found.left_out.get("cliff"))
    numbers = ", ".join(map(str, cliff.trials))
    said = paragraph(
        f"From {own(cliff.of)} of {show_value(cliff.breaks)} on, every trial diverged or collapsed "
        f"({len(cliff.trials)} of {len(cliff.trials)}: trials {numbers}). The largest that did well has "
        f"{show_value(cliff.holds)}; {cliff.within} trials did."
    )
    return section("cliff", "Cliff", "Where the cliff is", said)


def _proxy(found: Findings) -> Part:
    title = "Trials against full training"
    users = found.metric in OWN_METRICS
    rows = [["", "in its trial", "in its final run" if users else "on all data, test"]]
    rows += [
        [pair.name, wording.score(found, pair.trial), wording.score(found, pair.final)]
        for pair in found.proxy
    ]
    note = paragraph(
        code_in("Trials may use part of the data; final runs use all, where the trainer takes `fraction`.")
        if users
        else "Trials train on part of the data and are scored on validation data; final trainings use all, "
        "and are scored once, on test data."
    )
    said = ""
    if len(found.proxy) == 2:
        a, b = found.proxy
        order = (a.trial - b.trial) * (a.final - b.final)
        said = "Both order the two alike."
        if order < 0:
            said = "The two come out in another order: trials misled here."
        elif order == 0 and (a.trial, a.final) != (b.trial, b.final):
            said = "One of them does not tell the two apart."
        elif order == 0:
            said = "Neither tells the two apart."
    body = table(rows, title) if found.proxy else ""
    return section(
        "proxy", "Full training", title, paragraph(said), body, note, why=found.left_out.get("proxy")
    )


def _examples(found: Findings) -> Part:
    title = "Examples where the two differ"
    if found.examples is None:
        return section("examples", "Examples", title, why=found.left_out.get("examples"))
    both, test = found.examples, "" if found.metric in OWN_METRICS else "test "
    said = (
        f"Of {both.items:,} {test}items the winner does better on {both.n_won:,}, the standard settings on "
        f"{both.n_lost:,}."
    )
    parts = [paragraph(said)]
    for name, some, count in (
        ("The winner does better", both.won, both.n_won),
        ("The standard settings do better", both.lost, both.n_lost),
    ):
        if some:
            shown = "" if count == len(some) else f" ({len(some)} of {count:,})"
            opened = " open" if name.startswith("The winner") else ""
            inside = "".join(_example(one) for one in some)
            head = f"<summary>{text(name + shown)}</summary>"
            parts.append(f'<details{opened}>{head}<div class="examples">{inside}</div></details>')
    return section("examples", "Examples", title, *parts)


def _example(one: Example) -> str:
    lines = [("item", str(one.index))]
    lines += [(name, said) for name, said in (("prompt", one.prompt), ("reference", one.reference)) if said]
    lines += [("winner", one.winner), ("standard", one.standard)]
    inside = "".join(f"<dt>{text(name)}</dt><dd>{own(said)}</dd>" for name, said in lines)
    return f"<dl>{inside}</dl>"


# -- what it took, what it is made of -------------------------------------------------------------------


def _cost(found: Findings) -> Part:
    if found.cost is None:
        return section("cost", "Cost", "What it cost", why=found.left_out.get("cost"))
    cost = found.cost
    rows = [["trials", show_duration(cost.trials_seconds)]]
    if cost.finals_seconds:
        rows.append(["final trainings", show_duration(cost.finals_seconds)])
    whose = "of both" if cost.finals_seconds else "of these"
    rows += [[f"{whose}: {name}", show_duration(seconds)] for name, seconds in cost.by_part.items()]
    if cost.tokens is not None:
        rows.append(["tokens trained on", f"{cost.tokens:,}"])
    if cost.search is not None:
        of = cost.search
        shown = f"{of.trained:,} trained on, {of.read:,} read and {of.generated:,} written for scoring"
        rows.append(["tokens of the search", shown])
        rows.append(["the search", f"{show_trainings(of.trainings)} ({of.one_training:,.0f} tokens each)"])
    if cost.peak_memory_bytes is not None:
        rows.append(["peak memory", show_bytes(cost.peak_memory_bytes)])
    if cost.money is not None:
        rows.append(["money (execution.cost_per_hour)", show_money(cost.money)])
    if cost.kilowatt_hours is not None:
        rows.append(["energy (execution.watts)", f"{cost.kilowatt_hours:.3g} kWh"])
    note = paragraph(found.left_out.get("search_cost", ""), _interrupted(found))
    return section("cost", "Cost", "What it cost", table(rows, "Cost", first_is_head=False), note)


def _interrupted(found: Findings) -> str:
    """What the cost lacks."""
    n = sum(row.state == "interrupted" for row in found.trials)
    if not n:
        return ""
    some, they = ("1 interrupted trial is", "it") if n == 1 else (f"{n} interrupted trials are", "they")
    return f"{some} not in it: nobody measured what {they} took before the interruption."


def _provenance(found: Findings) -> Part:
    rows = [[name, shown] for name, shown in _flat(found.provenance) if shown]
    body = table(rows, "Provenance", first_is_head=False)
    return section("provenance", "Provenance", "What it is made of", body)


def _flat(content: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in content.items():
        title = f"{above} {name}".strip()
        if isinstance(value, Mapping):
            found += _flat(value, "" if name == "recorded" else title)
        elif value is not None:
            found.append((title, str(value)))
    return found
