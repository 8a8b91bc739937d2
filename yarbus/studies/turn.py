"""One variant's turn at being measured: it answers, then trains some steps, in a process that does nothing else.

Answers come first: what a process has taken and given back would count in a peak on the CPU. Training is that of a
recipe's last stage on ``GuardedTrainer``, guards included, and nothing is written.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from yarbus.analysis.overhead import BESIDE, Protocol
from yarbus.analysis.timing import OTHER, Kept, Laps, timed_modules
from yarbus.core.recipe import load_recipe
from yarbus.core.records import environment
from yarbus.models.load import base_on_meta
from yarbus.models.text_encoder import TextEncoder
from yarbus.models.vlm import VLM
from yarbus.studies.subject import Subject, architecture_of, load_subject
from yarbus.studies.work import quieten
from yarbus.training.footprint import Asked
from yarbus.training.memory import bytes_now, peak_bytes, reset_peak
from yarbus.training.stages import stage_seed, training_arguments
from yarbus.training.trainer import GuardedTrainer

LOADING, ANSWERING, TRAINING = "loading", "answering", "training"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a process is asked to measure."""

    recipe: dict[str, Any]
    """Of one variant; its last stage is measured."""
    protocol: Protocol
    made_up: Asked | None = None
    """Rows that are made up, and weights drawn at random; None takes the recipe's own."""
    threads: int = 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: of an accelerator, or of the machine, which torch tells in words alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _sizes(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What there is of a batch, as tensors: to read a number off them would wait for the device."""
    labels, mask, pixels = batch.get("labels"), batch["attention_mask"], batch.get("pixel_values")
    return {
        "rows": len(batch["input_ids"]),
        "tokens": mask.sum(),
        "answer_tokens": None if labels is None else (labels >= 0).sum(),
        "pixel_values": None if pixels is None else list(pixels.shape),
    }


def _mean_sizes(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of a forward, tokens and supervised ones of a row, and the shape of the pixels that came most often."""
    rows = sum(one["rows"] for one in found)
    pixels = Counter(tuple(one["pixel_values"]) for one in found if one["pixel_values"] is not None)

    def mean(name: str) -> float | None:
        known = [int(one[name]) for one in found if one[name] is not None]
        return sum(known) / rows if known else None

    return {
        "rows": rows / len(found),
        "tokens": mean("tokens"),
        "answer_tokens": mean("answer_tokens"),
        "pixel_values": list(pixels.most_common(1)[0][0]) if pixels else None,
    }


def _to(batch: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)

    return {name: moved(value) for name, value in batch.items() if name not in ("labels", "context_turn_index")}


def _made(found: list[dict[str, float]], kind: str, subject: Subject) -> list[dict[str, float]]:
    """The parts of each repeat; what it takes to make a row up is none of them."""
    if subject.makes_rows:
        return found
    return [{part: seconds for part, seconds in one.items() if part != BESIDE[kind]} for one in found]


def answer(subject: Subject, protocol: Protocol) -> dict[str, Any]:
    """Greedy answers to one question at a time, each seen for the first time, by part.

    In the precision in which the stage computes: where that is bfloat16 the weights are, too, as one would serve them.
    """
    model, device = subject.model, subject.device
    is_half = subject.recipe.stages[subject.stage].precision == "bfloat16"
    dtype = torch.bfloat16 if is_half else torch.float32
    vlm = VLM.of(model.to(dtype).eval())
    encoder: TextEncoder | None = getattr(vlm.base_model, "context_encoder", None)
    laps = Laps(device, protocol.clock)
    forwards: list[str] = []

    def part_of_forward() -> str:
        forwards.append("decode" if forwards else "prefill")
        return forwards[-1]

    parts: list[tuple[nn.Module, Callable[[], str]]] = [
        (model, part_of_forward),
        (vlm.vision_tower, lambda: "tower"),
        (vlm.projector, lambda: "projector"),
    ]
    if encoder is not None and encoder.encoder is not None:
        parts.append((encoder.encoder, lambda: "text_encoder"))
    length = {"min_new_tokens": protocol.new_tokens, "max_new_tokens": protocol.new_tokens}
    found, sizes = [], []
    reset_peak(device)
    with timed_modules(laps, parts), torch.no_grad():
        for number in range(protocol.warmup + protocol.answers):
            forwards.clear()
            if encoder is not None:
                encoder.clear_cache()
            laps.switch(BESIDE["answers"])
            laps.take()
            batch = subject.question(number)
            laps.switch(OTHER)
            batch = _to(batch, device, dtype)
            model.generate(**batch, **length, do_sample=False, num_beams=1)
            laps.switch(OTHER)
            if number >= protocol.warmup:
                found.append(laps.take())
                sizes.append(_sizes(batch))
    peak = peak_bytes(device)
    model.float()
    prompt = {**_mean_sizes(sizes), "precision": str(dtype).removeprefix("torch.")}
    return {"answers": _made(found, "answers", subject), "prompt": prompt, "peak": peak}


@dataclass(eq=False)
class StepWatch(TrainerCallback):
    """Follows a trainer through its steps: forward and backward of each micro-batch, the update, what lies between.

    ``read`` is a reader of the trainer's: it is called when the last gradient is there and was looked at.
    """

    model: nn.Module
    laps: Laps
    warmup: int
    steps: list[dict[str, float]] = field(default_factory=list)
    sizes: list[dict[str, Any]] = field(default_factory=list)
    kept: int | None = None
    """Bytes of the first forward."""

    def __post_init__(self) -> None:
        self._stack = ExitStack()
        self._keeping: Kept | None = None
        self._sizes: list[dict[str, Any]] = []

    def __enter__(self) -> "StepWatch":
        for hook in (
            self.model.register_forward_pre_hook(self._begin, with_kwargs=True, prepend=True),
            self.model.register_forward_hook(self._end),
        ):
            self._stack.callback(hook.remove)
        return self

    def __exit__(self, *error: object) -> None:
        if self._keeping is not None:
            self._keeping.__exit__()
        self._stack.close()

    def _begin(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled() and kwargs.get("labels") is not None:
            self._sizes.append(_sizes(kwargs))
            if self.kept is None:
                self._keeping = Kept([*model.parameters(), *model.buffers()])
                self._keeping.__enter__()
        self.laps.switch("forward")

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        self.laps.switch("backward" if torch.is_grad_enabled() else OTHER)
        if self._keeping is not None:
            self._keeping.__exit__()
            self.kept, self._keeping = self._keeping.nbytes, None

    def read(self, step: int, model: nn.Module, sample_ids: list[str]) -> None:
        self.laps.switch("update")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.laps.switch(OTHER)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.laps.switch(OTHER)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.laps.switch(BESIDE["steps"])
        parts, sizes, self._sizes = self.laps.take(), self._sizes, []
        if state.global_step > self.warmup:
            self.steps.append(parts)
            self.sizes += sizes


def train_steps(subject: Subject, protocol: Protocol) -> dict[str, Any]:
    """Optimizer steps of the last stage, by part; what the first forward kept; the most memory at once."""
    recipe, stage, device = subject.recipe, subject.recipe.stages[subject.stage], subject.device
    steps = protocol.warmup + protocol.steps
    watch = StepWatch(subject.model, Laps(device, protocol.clock, BESIDE["steps"]), protocol.warmup)
    with TemporaryDirectory() as home:
        arguments = training_arguments(stage, Path(home), steps, recipe.seed, stage_seed(recipe.seed, subject.stage))
        arguments.save_strategy = SaveStrategy.NO
        if not subject.makes_rows:  # a made-up row asks the model what it looks like
            arguments.dataloader_num_workers = 0
        trainer = GuardedTrainer(
            model=subject.model,
            args=arguments,
            train_dataset=subject.samples,
            data_collator=subject.collate,
            learning_rates=stage.rates,
            readers=[watch.read],
            shared=() if subject.mixture is None else subject.mixture.shared,
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        with watch:
            trainer.train()
        peak = trainer.peak_bytes
    batch = {**_mean_sizes(watch.sizes), "micro_batches": arguments.gradient_accumulation_steps}
    return {"steps": _made(watch.steps, "steps", subject), "batch": batch, "peak": peak, "kept": watch.kept}


def measure(turn: Turn) -> dict[str, Any]:
    """What the turn found: seconds of each answer and step by part, bytes, sizes of batches, the machine.

    Memory that runs out is told under ``failed``; what was measured before stands. Any other error is raised.
    """
    torch.set_num_threads(turn.threads)
    quieten()
    recipe = load_recipe(turn.recipe)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert device is not None
    # Modelling code is imported now, so that it is no part of what the model takes.
    base_on_meta(architecture_of(recipe))
    found: dict[str, Any] = {
        "failed": {}, "bytes": {}, "machine": environment(), "device": _named(device),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }  # fmt: skip
    before = bytes_now(device)
    phase = LOADING
    try:
        subject = load_subject(recipe, turn.made_up, device)
        phase = ANSWERING
        said = answer(subject, turn.protocol)
        found |= {"answers": said["answers"], "prompt": said["prompt"]}
        found["bytes"]["answering"] = max(0, said["peak"] - before)
        phase = TRAINING
        done = train_steps(subject, turn.protocol)
        found |= {"steps": done["steps"], "batch": done["batch"]}
        found["bytes"] |= {"training": max(0, done["peak"] - before), "kept": done["kept"]}
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        found["failed"][phase] = f"out of memory: {str(error).splitlines()[0] if str(error) else 'no more to be had'}"
    return found


def _named(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"type": device.type, "name": name}
