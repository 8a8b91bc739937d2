"""Advice in plain words from measured figures: is there conflict, should the tower be tuned, and how sure is that.

Two kinds of evidence. *Short runs* say what sharing the tower costs a task (``gap``) and what tuning it brings
(``gain``): where they were made they decide. *Gradients* say whether tasks ask for the same first step, and in which
blocks they differ: on their own they are a lead. Where an interval does not leave its threshold, nothing is claimed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

MIN_GAP_NATS = 0.1
"""Held-out loss that sharing costs, in nats per answer token: conflict where a task's whole interval lies above this,
none where the intervals of all tasks lie below."""
MIN_GAIN_NATS = 0.0
"""Held-out loss that tuning must bring on the mean of the tasks before it is called worth it."""
MIN_COSINE = 0.0
"""Noise-corrected cosine below which two tasks ask for opposite first steps."""
MIN_CEILING = 0.0
"""A same-task cosine that does not leave this is noise: nothing can be read from such gradients."""
COLLAPSED = 0.05
"""Share of the greatest entropy below which routing has collapsed."""
THRESHOLDS = {
    "least gap in nats": MIN_GAP_NATS,
    "least gain in nats": MIN_GAIN_NATS,
    "opposite below a corrected cosine of": MIN_COSINE,
    "noise up to a same-task cosine of": MIN_CEILING,
}
THRESHOLDS_FROM = (
    "Thresholds were set on mixtures and data seeds of the embedded world other than those that the advice was "
    "checked on (docs/explanation/what-we-found.md)."
)

CONFLICT, AGREEMENT, UNDECIDED = "conflict", "agreement", "undecided"
CONDITION, TUNE, FREEZE = "condition", "tune", "freeze"


def is_above(estimate: Row | None, threshold: float) -> bool:
    """The whole interval lies above; never where there is no interval."""
    return estimate is not None and estimate["low"] is not None and estimate["low"] > threshold


def is_below(estimate: Row | None, threshold: float) -> bool:
    """The whole interval lies below; never where there is no interval."""
    return estimate is not None and estimate["high"] is not None and estimate["high"] < threshold


def listed(names: Sequence[Any]) -> str:
    """``a, b and c``."""
    texts = [str(name) for name in names]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def shown(estimate: Row, digits: int = 2) -> str:
    """An estimate with its interval, in a sentence."""
    if estimate["mean"] is None:
        return "not to be told from noise"
    value = f"{estimate['mean']:+.{digits}f}"
    if estimate["low"] is None:
        return f"{value} (no interval)"
    return f"{value} ({estimate['low']:+.{digits}f} to {estimate['high']:+.{digits}f})"


def of_gradients(gradients: Row) -> tuple[str, list[str]]:
    """(verdict, sentences) of the gradients alone."""
    overall = gradients["overall"]
    same, corrected = overall["same_task"], overall["corrected"]
    if not is_above(same, MIN_CEILING):
        return UNDECIDED, [
            f"Gradients: two halves of one task do not agree with each other (cosine {shown(same)}), so nothing can be "
            "read from the cosine between tasks. Take more samples per task."
        ]
    facts = (
        f"Gradients at the start: cosine {shown(overall['across'])} between tasks, {shown(same)} between two halves of "
        "one task"
    )
    if corrected["low"] is None:
        return UNDECIDED, [f"{facts}. So few samples do not tell noise from that: take more per task."]
    facts += f"; without the noise of few samples {shown(corrected)} between tasks."
    opposing, known = overall["opposing_pairs_of_tasks"]
    pairs = f" {opposing} of {known} pairs of tasks point apart." if known > 1 else ""
    if is_below(corrected, MIN_COSINE):
        return CONFLICT, [facts + pairs + " The tasks ask for opposite first steps."]
    if is_above(corrected, MIN_COSINE):
        return AGREEMENT, [facts + pairs + " The tasks ask for partly the same first step."]
    return UNDECIDED, [facts + pairs + " That interval includes 0."]


def of_runs(gap: Row) -> tuple[str, list[str]]:
    """(verdict, sentences) of the short runs: what sharing the tower costs."""
    tasks = gap["tasks"]
    losers = [task for task, line in tasks.items() if is_above(line["gap"], MIN_GAP_NATS)]
    clear = [task for task, line in tasks.items() if is_below(line["gap"], MIN_GAP_NATS)]
    shares = "; ".join(f"{task} {shown(line['gap'], 3)}" for task, line in tasks.items())
    facts = (
        f"Short runs of {gap['steps']} steps, {gap['seeds']} seeds: held-out loss on the mixture minus the task alone "
        f"at equal questions, in nats per token: {shares}."
    )
    if losers:
        verb = "does" if len(losers) == 1 else "do"
        return CONFLICT, [f"{facts} {listed(losers)} {verb} better alone."]
    if len(clear) == len(tasks):
        return AGREEMENT, [f"{facts} No task loses {MIN_GAP_NATS:g} nats or more by sharing."]
    return UNDECIDED, [f"{facts} For {listed([t for t in tasks if t not in clear])} the interval does not decide."]


def _gains(gap: Row) -> tuple[list[str], list[str], str]:
    """(tasks that tuning helps, tasks that it harms, a sentence)."""
    tasks = gap["tasks"]
    helped = [task for task, line in tasks.items() if is_above(line["gain"], MIN_GAIN_NATS)]
    harmed = [task for task, line in tasks.items() if is_below(line["gain"], -MIN_GAIN_NATS)]
    figures = "; ".join(f"{task} {shown(line['gain'], 3)}" for task, line in tasks.items())
    return helped, harmed, f"Tuning against freezing, held-out loss saved on the mixture in nats per token: {figures}."


def blocks_of_conflict(gradients: Row) -> list[int]:
    """Blocks whose corrected cosine lies below the whole tower's, interval and all; empty if none can be told apart."""
    overall = gradients["overall"]["corrected"]["mean"]
    if overall is None:
        return []
    return [line["block"] for line in gradients["by_block"] if is_below(line["corrected"], overall)]


def _blocks_sentence(blocks: Sequence[int], gradients: Row) -> str:
    if blocks:
        return f"The tasks differ most in block{'s' if len(blocks) > 1 else ''} {listed(blocks)}."
    executed = gradients["blocks"]
    upper = executed[len(executed) // 2 :]
    where = f"blocks {upper[0]} to {upper[-1]}" if len(upper) > 1 else f"block {upper[0]}"
    return f"No block stands out beyond chance; the paper's choice is the upper half, here {where}."


def _swapped_sentence(swapped: Row) -> str:
    loss = swapped["mean"]["loss_other_task"]
    if loss["mean"] is None:
        return "The benchmarks hold no question of another task to swap with."
    heard = "the trained tower uses its context" if is_above(loss, 0.0) else "no use of the context is seen"
    points = {key: None if value is None else 100 * value for key, value in loss.items()}
    return f"Told the question of another task, the trained run loses {shown(points, 1)} points: {heard}."


def _routing_sentence(routing: Row) -> str:
    """Whether the trained router chooses, always takes the same, or has not left an even mixture."""
    shares = {
        line["block"]: line["entropy"]["mean"] / line["max_entropy"]
        for line in routing["by_block"]
        if line["entropy"] is not None and line["entropy"]["mean"] is not None
    }
    collapsed = [block for block, share in shares.items() if share < COLLAPSED]
    if collapsed:
        where = f"block{'s' if len(collapsed) > 1 else ''} {listed(collapsed)}"
        return (
            f"The trained run's router has collapsed in {where}: an image goes to one expert alone and the router's "
            "gradient vanishes. Lower its rate before judging conditioning by this run."
        )
    if not shares:
        return ""
    low, high = 100 * min(shares.values()), 100 * max(shares.values())
    return f"The trained run's routing has {low:.0f} to {high:.0f} % of its greatest entropy."


def advise(record: Row, swapped: Row | None = None, routing: Row | None = None) -> dict[str, Any]:
    """The record ``advice`` of conflict.json: from its ``gradients``, its ``gap`` if made, and a run's records.

    Number of experts is not advised: the comparison of methods measures that.
    """
    gradients, gap = record["gradients"], record.get("gap")
    lead, sentences = of_gradients(gradients)
    figures: list[dict[str, Any]] = [
        {"name": "cosine between tasks, noise corrected", "value": gradients["overall"]["corrected"], "unit": "cosine"},
        {"name": "cosine between halves of one task", "value": gradients["overall"]["same_task"], "unit": "cosine"},
    ]
    if gap is None:
        verdict, action = lead, {CONFLICT: CONDITION, AGREEMENT: TUNE}.get(lead, UNDECIDED)
        sureness = (
            "A lead, not a finding: gradients at the start say what the first step would be, not where training ends. "
            "Short runs (--steps) measure it."
        )
        headline = {
            CONFLICT: "The tasks pull the tower apart at the start: condition it on the question, or freeze it.",
            AGREEMENT: "No conflict seen at the start: tuning the tower is worth trying.",
        }.get(verdict, "The gradients do not decide; short runs would (yarbus conflict RECIPE --steps N).")
    else:
        verdict, found = of_runs(gap)
        helped, harmed, gains = _gains(gap)
        sentences = [*found, gains, *sentences]
        action, headline = _decide(verdict, helped, harmed, list(gap["tasks"]))
        sureness = _sureness(verdict, lead, gap)
        for task, line in gap["tasks"].items():
            figures.append({"name": f"{task}: cost of sharing", "value": line["gap"], "unit": "nats per token"})
            figures.append({"name": f"{task}: gain of tuning", "value": line["gain"], "unit": "nats per token"})
    blocks = blocks_of_conflict(gradients) if verdict == CONFLICT else []
    if verdict == CONFLICT:
        sentences.append(_blocks_sentence(blocks, gradients))
    if swapped is not None:
        sentences.append(_swapped_sentence(swapped))
    if routing is not None and (sentence := _routing_sentence(routing)):
        sentences.append(sentence)
    return {
        "verdict": verdict,
        "action": action,
        "sureness": sureness,
        "headline": headline,
        "sentences": sentences,
        "blocks": blocks,
        "figures": figures,
        "thresholds": THRESHOLDS,
        "thresholds_from": THRESHOLDS_FROM,
    }


def _decide(verdict: str, helped: Sequence[str], harmed: Sequence[str], tasks: Sequence[str]) -> tuple[str, str]:
    """(action, headline) where short runs were made."""
    if verdict == CONFLICT:
        if harmed and not helped:
            return FREEZE, f"Conflict, and tuning the shared tower harms {listed(harmed)} and helps nothing: freeze it."
        against = f" (tuning harms {listed(harmed)})" if harmed else ""
        headline = f"Conflict: try conditioning the tower on the question{against}, and compare it with freezing."
        return CONDITION, headline
    if verdict == AGREEMENT:
        if harmed and not helped:
            return FREEZE, f"No conflict, but tuning harms {listed(harmed)} at this rate: freeze, or lower the rate."
        if helped and not harmed:
            return TUNE, f"No conflict seen, and tuning helps {listed(helped)}: tune the tower."
        if helped and harmed:
            return (
                UNDECIDED,
                f"No conflict seen; tuning helps {listed(helped)} and harms {listed(harmed)}: your choice.",
            )
        return UNDECIDED, "No conflict seen, and whether tuning helps is not decided."
    if harmed and not helped:
        return FREEZE, f"Whether tasks conflict is not decided, but tuning harms {listed(harmed)} at this rate: freeze."
    if len(helped) == len(tasks):
        return TUNE, "Whether tasks conflict is not decided, but tuning helps every one of them: tune the tower."
    return UNDECIDED, "The short runs do not decide: train longer ones, under more seeds or on more rows."


def _sureness(verdict: str, lead: str, gap: Row) -> str:
    horizon = f"Measured after {gap['steps']} steps; longer training may end elsewhere."
    if verdict == UNDECIDED:
        return f"Not sure: an interval reaches across its threshold. {horizon}"
    clear = "every task" if verdict == AGREEMENT else "at least one task"
    agrees = {verdict: "point the same way", UNDECIDED: "do not decide"}
    direction = agrees.get(lead, "point the other way: the runs weigh more")
    return f"The short runs are clear of the threshold for {clear}; the gradients at the start {direction}. {horizon}"
