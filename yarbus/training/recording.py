"""What a recipe's ``record`` section writes while the eyes train: their gradients, and how experts share out images.

- ``gradients/step-000010.safetensors``: the accumulated, unclipped gradient of update 10, as two fp32 vectors:
  ``all`` (every tensor of the eyes that trains) and ``layernorm`` (the blocks' norms, which most methods have in
  common). A vector of up to ``dim`` elements is exact, concatenated in the order of the tensors' names; a longer one
  is a count-sketch.
- ``routing.jsonl``: the routing of a fixed set of training rows after 0, k, 2k, ... updates.

Nothing here touches weights, gradients, random generators or the loader: a run with records has the weights of a run
without, bit for bit.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from yarbus.core.errors import CheckpointError
from yarbus.core.records import JsonlWriter, make_folder, sync
from yarbus.core.sections import RecordSection
from yarbus.data.collate import Collator, Visit
from yarbus.data.sample import Sample
from yarbus.methods.covft import ContextualMixture, mixtures_of
from yarbus.models.attachment import parameter_groups
from yarbus.models.observe import observe
from yarbus.models.sketch import count_sketch, key_of
from yarbus.models.vlm import VLM
from yarbus.training.checkpoint import step_folder, step_of
from yarbus.training.metrics import drop_after

EYES = ("vision", "vision_new", "router")
"""Groups whose gradient is the eyes'."""
SEED = "yarbus gradients 1"
"""Of the hash functions: a constant, so that gradients of any two runs of one method can be compared."""


# ---- gradients ----


def trained_eyes(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every tensor of the eyes that trains now, by name, in the order of names; empty where none does."""
    groups = parameter_groups(model)
    named = {name: tensor for group in EYES for name, tensor in groups.get(group, {}).items()}
    return dict(sorted(named.items()))


def gradient_sets(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """``all``: what ``trained_eyes`` gives; ``layernorm``: those of them that are norms of executed blocks."""
    vlm, everything = VLM.of(model), trained_eyes(model)
    executed = vlm.blocks()[: vlm.num_executed()]
    norms = {id(p) for block in executed for norm in vlm.tower.norms for p in block.get_submodule(norm).parameters()}
    return {
        "layernorm": {name: tensor for name, tensor in everything.items() if id(tensor) in norms},
        "all": everything,
    }


def gradient_vector(tensors: Mapping[str, nn.Parameter], name: str, dim: int) -> Float[Tensor, " numbers"]:
    """The gradient of these tensors: exact where it has up to ``dim`` elements, else a sketch of ``dim`` numbers.

    A tensor that the batch did not reach (text alone reaches no eye) counts as zeros.
    """
    if _elements(tensors) <= dim:
        parts = [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in tensors.values()]
        return torch.cat([part.reshape(-1).float().cpu() for part in parts]) if parts else torch.zeros(0)
    device = next(iter(tensors.values())).device
    total = torch.zeros(dim, device=device)
    for parameter, tensor in tensors.items():
        if tensor.grad is not None:
            total += count_sketch(tensor.grad, key_of(SEED, name, parameter), dim)
    return total.cpu()


def _elements(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def write_tensors(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """A safetensors file that is there whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_bytes(save(tensors, metadata))
        sync(beside)
        beside.replace(path)
        sync(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise CheckpointError(
            "cannot write", where=path, why=error.strerror or str(error), fix="free the disk and resume"
        ) from error


@dataclass(frozen=True)
class GradientWriter:
    """A reader that writes the eyes' gradient of every ``every``-th update."""

    folder: Path
    every: int
    dim: int

    def __call__(self, step: int, model: nn.Module, sample_ids: list[str]) -> None:
        if step % self.every:
            return
        metadata = {"step": str(step), "dim": str(self.dim)}
        vectors = {}
        for name, tensors in gradient_sets(model).items():
            vectors[name] = gradient_vector(tensors, name, self.dim)
            metadata[f"{name}_elements"] = str(_elements(tensors))
            metadata[f"{name}_kind"] = "exact" if _elements(tensors) <= self.dim else "sketch"
            metadata[f"{name}_names_sha256"] = hashlib.sha256("\n".join(tensors).encode()).hexdigest()
        make_folder(self.folder)
        write_tensors(vectors, metadata, step_folder(self.folder, step).with_suffix(".safetensors"))


# ---- routing ----


def probe_rows(samples: Sequence[Sample], count: int) -> list[int]:
    """Indices of up to ``count`` rows with a picture, spread evenly over tasks; the same for the same rows."""
    by_task: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        if sample.images:
            by_task.setdefault(sample.task or "", []).append(row)
    for task in sorted(by_task):
        Random(0).shuffle(by_task[task])  # a file sorted by scene must not give one scene
    chosen: list[int] = []
    while len(chosen) < count and any(by_task.values()):
        for task in sorted(by_task):
            if by_task[task] and len(chosen) < count:
                chosen.append(by_task[task].pop())
    return sorted(chosen)


def entropies(weights: Float[Tensor, "images experts"]) -> Float[Tensor, " images"]:
    """-sum w ln w of each image's routing weights, in nats; ln(experts) where all count the same."""
    return torch.special.entr(weights.double()).sum(dim=-1)


def block_line(
    mixture: ContextualMixture, weights: Float[Tensor, "images experts"] | None, tasks: Sequence[str | None]
) -> dict[str, Any]:
    """One block's entry of a line; ``weights`` None: a mixture whose experts all count the same, always."""
    line: dict[str, Any] = {"block": mixture.block_index, "entropy": None, "max_entropy": None}
    line |= {"mean_weights": None, "by_task": None, "expert_distance": mixture.expert_distance()}
    if weights is None or not len(weights):
        return line
    members = {task: [i for i, one in enumerate(tasks) if one == task] for task in sorted(filter(None, set(tasks)))}
    return line | {
        "entropy": entropies(weights).mean().item(),
        "max_entropy": math.log(mixture.num_experts),
        "mean_weights": weights.double().mean(dim=0).tolist(),
        "by_task": {task: weights[rows].double().mean(dim=0).tolist() for task, rows in members.items()},
    }


@dataclass(eq=False)
class RoutingWriter(TrainerCallback):
    """Writes how the probe's images are routed: before the first update, and after every ``every``-th."""

    path: Path
    model: nn.Module
    visits: Sequence[Visit]
    """The probe: rows of the stage, each with the question of its first visit."""
    collate: Collator
    every: int
    micro_batch: int
    """Rows per forward: as many as fit while training."""
    batches: list[dict[str, Any]] = field(default_factory=list)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self.write(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self.write(state.global_step)

    def write(self, step: int) -> None:
        """One line about the model as it is after ``step`` updates."""
        mixtures = mixtures_of(self.model)
        tasks: list[str | None] = []
        weights: dict[int, Tensor] = {}
        if any(mixture.router is not None for mixture in mixtures.values()):
            observed = observe(self.model, self._probe())
            task_of = {str(row): sample.task for sample, _, row in self.visits}
            tasks, weights = [task_of[name] for name in observed.sample_ids], observed.routing_weights
        blocks = [block_line(mixture, weights.get(block), tasks) for block, mixture in mixtures.items()]
        with JsonlWriter(self.path) as writer:
            writer.write({"step": step, "blocks": blocks})

    def _probe(self) -> list[dict[str, Any]]:
        """The probe's batches, made once. Rows go by their number: sources may use one id for several rows."""
        if not self.batches:
            for start in range(0, len(self.visits), self.micro_batch):
                visits = self.visits[start : start + self.micro_batch]
                self.batches.append({**self.collate(visits), "sample_ids": [str(row) for _, _, row in visits]})
        return self.batches


# ---- a stage's records ----


def record_gradients(record: RecordSection, model: nn.Module, home: Path) -> list[GradientWriter]:
    """The readers that a stage's trainer needs: none where nothing is asked for or no tensor of the eyes trains."""
    wanted = record.vision_gradient
    if wanted is None or not trained_eyes(model):
        return []
    return [GradientWriter(home / "gradients", wanted.every, wanted.dim)]


def record_routing(
    record: RecordSection,
    model: nn.Module,
    home: Path,
    samples: Sequence[Sample],
    collate: Collator,
    micro_batch: int,
) -> list[RoutingWriter]:
    """The callbacks that a stage's trainer needs: none where no experts stand or no tensor of the eyes trains."""
    wanted = record.routing
    if wanted is None or not trained_eyes(model) or not mixtures_of(model):
        return []
    visits = [(samples[row], 0, row) for row in probe_rows(samples, wanted.samples)]
    return [RoutingWriter(home / "routing.jsonl", model, visits, collate, wanted.every, micro_batch)]


def drop_records(home: Path, step: int) -> None:
    """Removes what a stage resumed at ``step`` will record again; 0: it begins anew."""
    drop_after(home / "routing.jsonl", step if step else -1)
    for file in _files(home / "gradients"):
        if step_of(file.with_suffix("")) > step or file.name.startswith("."):
            file.unlink()


def _files(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else ()
