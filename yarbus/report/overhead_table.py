"""The record of ``yarbus overhead`` on the terminal: steps, answers, and what they were measured on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from yarbus.report.cost_table import count_text, memory_text
from yarbus.report.estimates import decimal

Row = Mapping[str, Any]
DASH = "\N{EN DASH}"
STEP_PARTS = ("forward", "backward", "update")
ANSWER_PARTS = {"text_encoder": "question", "tower": "tower", "projector": "projector", "prefill": "prefill"}
"""Parts of an answer -> how a narrow column calls them."""
BUSY = 0.5
"""Share of the cores that others may have used by the time a turn began, before its times are called rough."""


def _ms(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _spread(found: Row | None, unit: Callable[[float], str]) -> Text:
    """A number with its interval, if it has one, on the line below."""
    if found is None:
        return Text(DASH, style="dim")
    if found["low"] is None:
        return Text(unit(found["value"]))
    return Text.assemble(unit(found["value"]), "\n", (f"{unit(found['low'])}{DASH}{unit(found['high'])}", "dim"))


def _plain(found: Row | None) -> Text:
    return Text(DASH, style="dim") if found is None else Text(_ms(found["value"]))


def _size(found: Row | None, reference: str) -> Text:
    """Bytes, and on the line below how many times the reference's."""
    if found is None:
        return Text(DASH, style="dim")
    times = found["times"].get(reference)
    return Text.assemble(
        memory_text(found["bytes"]), ("" if times is None else f"\n\N{MULTIPLICATION SIGN} {decimal(times)}", "dim")
    )


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("variant", overflow="fold")
    for head in heads:
        table.add_column(Text(head), justify="right", no_wrap=True)
    return table


def _times(found: Row | None, references: Sequence[str]) -> list[Text]:
    times = {} if found is None else found["times"]
    return [Text("") if one not in times else _spread(times[one], decimal) for one in references]


def step_table(record: Row) -> Table:
    """A line for each variant: one optimizer step of its last stage."""
    references = record["references"]
    heads = ["trained", "step", *(f"\N{MULTIPLICATION SIGN} {name}" for name in references), *STEP_PARTS]
    table = _table("A training step, in ms (95 % interval)", [*heads, "kept", "memory"])
    for name, one in record["variants"].items():
        step = one["step"]
        parts = [_plain(step and step["parts"][part]) for part in STEP_PARTS]
        seconds = _spread(step and step["seconds"], _ms)
        sizes = (_size(one[kind], references[0]) for kind in ("kept", "training"))
        table.add_row(Text(name), count_text(one["trained"]), seconds, *_times(step, references), *parts, *sizes)
    return table


def answer_table(record: Row) -> Table:
    """A line for each variant: one answer to one question."""
    references = record["references"]
    heads = ["answer", *(f"\N{MULTIPLICATION SIGN} {name}" for name in references), *ANSWER_PARTS.values(), "a token"]
    title = f"An answer of {record['protocol']['new_tokens']} tokens, in ms (95 % interval)"
    table = _table(title, [*heads, "memory"])
    for name, one in record["variants"].items():
        found = one["answer"]
        parts = [_plain(found and found["parts"][part]) for part in ANSWER_PARTS]
        token = _plain(found and found["token"])
        seconds = _spread(found and found["seconds"], _ms)
        table.add_row(
            Text(name), seconds, *_times(found, references), *parts, token, _size(one["answering"], references[0])
        )
    return table


def _turns(record: Row) -> list[Row]:
    return [turn for one in record["variants"].values() for turn in one["turns"].values()]


def _device(record: Row, turns: Sequence[Row]) -> str:
    device = next((turn["device"] for turn in turns if "device" in turn), None)
    if device is None:
        return ""
    if device["type"] != "cpu":
        return f" on {device['name'] or device['type']}"
    return f" on a CPU with {record['threads']} thread{'s' if record['threads'] != 1 else ''}"


def _batch(sizes: Row) -> str:
    words = f"{sizes['rows']:g} row{'s' if sizes['rows'] != 1 else ''} of {sizes['tokens']:.0f} tokens"
    if sizes["answer_tokens"] is not None:
        words += f" ({sizes['answer_tokens']:.0f} of them answer)"
    pixels = sizes["pixel_values"]
    return words if pixels is None else f"{words}, pixels {' x '.join(map(str, pixels))}"


def conditions(record: Row) -> list[str]:
    """Sentences: the machine, what a batch was like, how often it was measured, how busy the machine was."""
    turns, protocol = _turns(record), record["protocol"]
    weights = "random weights and made-up rows" if record["random_weights"] else "the recipe's own rows"
    lines = [f"Measured{_device(record, turns)}, {weights}."]
    about = next(iter(record["variants"].values()))
    if batch := next((turn["batch"] for turn in turns if "batch" in turn), None):
        forwards = batch["micro_batches"]
        many = "one forward" if forwards == 1 else f"{forwards} forwards"
        lines.append(f"A step, {about['precision']}: {many} of {_batch(batch)}.")
    if prompt := next((turn["prompt"] for turn in turns if "prompt" in turn), None):
        lines.append(f"An answer, {prompt['precision']}: to {_batch(prompt)}, asked for the first time.")
    of = f"{protocol['steps']} steps and {protocol['answers']} answers after {protocol['warmup']} to warm up"
    rounds = len(record["order"])
    clock = "" if protocol["clock"] == "wall" else f" Seconds of {protocol['clock']} time."
    lines.append(f"{rounds} round{'s' if rounds != 1 else ''} of {of}, variants in turn; medians.{clock}")
    loads = [turn["load"] for turn in turns if turn.get("load") is not None]
    cpus = record["machine"]["machine"]["cpus"] or 1 if record["machine"] else 1
    if loads and max(loads) > BUSY * cpus + record["threads"]:
        lines.append(f"Other work shared the machine (load {max(loads):.1f} on {cpus} cores): times are rough.")
    return lines


def _failures(record: Row) -> list[str]:
    return [
        f"{name}, {phase}: {why}." for name, one in record["variants"].items() for phase, why in one["failed"].items()
    ]


def overhead_table(record: Row) -> Group:
    """All of it; for rich."""
    is_cpu = any(turn.get("device", {}).get("type") == "cpu" for turn in _turns(record))
    memory = "of the process, above what it took before it loaded the model" if is_cpu else "allocated on the device"
    first = record["references"][0]
    kept = f"Kept: by one forward for its backward. Memory: the most at once, {memory}. Small: times {first}'s."
    sentences = [*map(Text, conditions(record)), Text(kept), *(Text(line, style="bold") for line in _failures(record))]
    return Group(step_table(record), Text(""), answer_table(record), Text(""), *sentences)
