"""Two processes that train together over gloo, through accelerate's DDP or sharded by FSDP2, and one that trains alone.

``python -m tests.training.processes FOLDER CASE ...`` is what each process runs; ``outcomes`` starts both, once for all
tests of a session. What hangs ends after ``PATIENCE`` seconds.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, distributed, nn

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask
from yarbus.methods import VPT, CoVFT, LoRA
from yarbus.models.attachment import adapter_tensors
from yarbus.models.idle import run_idle_eyes
from yarbus.models.vlm import VLM

PATIENCE = 60
RATE = 0.01
COVFT = CoVFT(num_experts=3, context_dim=16)
ALL = {"vision": COVFT, "projector": "full", "language": "full"}
Step = Sequence[tuple[int, int]]
"""Micro-batches of one update: pictures in each row of process 0 and of process 1."""
LATE: list[Step] = [[(1, 0)], [(1, 0)], [(1, 1)]]
TURNS: list[Step] = [[(1, 0)], [(0, 1)]]
WORDS: list[Step] = [[(0, 0)]]
PARTS: list[Step] = [[(1, 0), (0, 0), (3, 1)], [(0, 1), (0, 0), (1, 3)]]


@dataclass(frozen=True)
class Case:
    """A model, what trains on it, and who sees pictures when."""

    family: str = "llava"
    places: dict[str, Any] = field(default_factory=lambda: ALL)
    steps: Sequence[Step] = field(default_factory=lambda: LATE)
    reentrant: bool | None = None
    """How activations are checkpointed; None not at all."""
    is_cured: bool = True
    """False takes the dummy picture away."""


CASES = {
    "late": Case(),
    "late, qwen": Case(family="qwen2_5_vl"),
    "turns": Case(steps=TURNS),
    "turns, checkpointed": Case(steps=TURNS, reentrant=False),
    "turns, checkpointed by reentry, qwen": Case("qwen2_5_vl", steps=TURNS, reentrant=True),
    "words": Case(steps=WORDS),
    "words, the vision method alone": Case(places={"vision": COVFT}, steps=WORDS),
    "words, the vision method alone, checkpointed, qwen": Case("qwen2_5_vl", {"vision": COVFT}, WORDS, reentrant=False),
    "parts": Case(steps=PARTS),
    "parts, qwen": Case("qwen2_5_vl", steps=PARTS, reentrant=False),
    "random": Case(places={"vision": CoVFT(num_experts=3, routing="random")}, steps=TURNS),
    "sparse": Case(places={"vision": CoVFT(num_experts=3, context_dim=16, routing="sparse")}, steps=TURNS),
    "lora": Case(places={"vision": LoRA(rank=2, dropout=0.0), "projector": "full"}, steps=TURNS),
    "vpt": Case(places={"vision": VPT(num_prompts=3)}, steps=TURNS, reentrant=False),
    "full": Case("qwen2_5_vl", {"vision": "full", "projector": "full"}, TURNS),
    "projector alone": Case(places={"projector": "full"}, steps=TURNS),
    "late, mllama": Case(family="mllama"),
    "turns, mllama, the vision method alone": Case("mllama", {"vision": COVFT}, TURNS),
}
SHARDED = ("late", "late, qwen", "turns, checkpointed", "words, the vision method alone", "parts, qwen", "lora")
"""Cases that are sharded as well."""
UNCURED = Case(steps=[[(1, 0)]], is_cured=False)


def built(case: Case) -> tuple[Any, Any]:
    """The case's model, its new tensors moved as training would, and its processor."""
    model, processor = tiny.EVERY[case.family]()
    torch.manual_seed(1)
    yarbus.attach(model, processor, **case.places, text_encoder="language_embeddings")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in adapter_tensors(model).values():
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    model.train()
    if case.reentrant is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": case.reentrant})
    if not case.is_cured:
        hooks = model.base_model._forward_pre_hooks
        for number in [number for number, hook in hooks.items() if hook is run_idle_eyes]:
            del hooks[number]
    return model, processor


def batch_of(processor: Any, pictures: int, seed: int) -> Any:
    """Two rows with that many pictures each."""
    random = np.random.default_rng(seed)
    shown = [Image.fromarray(random.integers(0, 255, (28, 28, 3), dtype=np.uint8)) for _ in range(2 * pictures)]
    batch = ask(processor, shown, QUESTIONS[seed % 3 :][:2], images_per_row=pictures)
    return {**batch, "labels": batch["input_ids"]}


Read = Callable[[nn.Module], dict[str, Tensor]]


def plain_gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def trained(
    case: Case, model: nn.Module, forward: nn.Module, processor: Any, ranks: Sequence[int], read: Read = plain_gradients
) -> list[dict[str, Tensor]]:
    """Gradients of each update, of the mean loss over these processes' micro-batches."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    found = []
    for number, step in enumerate(case.steps):
        optimizer.zero_grad()
        for part, pictures in enumerate(step):
            is_last = part == len(step) - 1
            for rank in ranks:
                batch = batch_of(processor, pictures[rank], seed=10 * number + 3 * part + rank)
                synced = nullcontext() if is_last or not hasattr(forward, "no_sync") else forward.no_sync()
                with synced:
                    (forward(**batch).loss / len(step) / len(ranks)).backward()
        found.append(read(model))
        optimizer.step()
    return found


@cache
def alone(name: str) -> list[dict[str, Tensor]]:
    """Gradients of each update of a case in one process that does the work of both."""
    model, processor = built(CASES[name])
    return trained(CASES[name], model, model, processor, ranks=(0, 1))


# ---- what each process runs ----


def shard(model: Any) -> nn.Module:
    """FSDP2: every block a unit, and the root. The frozen text encoder stays whole."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    vlm = VLM.of(model)
    encoder = getattr(model.base_model, "context_encoder", None)
    whole = set() if encoder is None else set(encoder.parameters())
    for block in (*vlm.blocks(), *vlm.language_blocks):
        fully_shard(block)
    fully_shard(model, ignored_params=whole)
    register_fsdp_forward_method(model, "generate")
    return model


def whole_gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.full_tensor().clone() for name, p in model.named_parameters() if p.grad is not None}


def answers(model: Any, processor: Any, pictures: int, seed: int) -> Tensor:
    """What is generated greedily; asked about no picture, it is words alone."""
    batch = batch_of(processor, pictures, seed)
    batch.pop("labels")
    model.eval()
    return model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False)


def run(rank: int, folder: Path, names: Sequence[str]) -> None:
    """All cases on one process; what it found is left in the folder."""
    from accelerate import Accelerator, InitProcessGroupKwargs

    accelerator = Accelerator(
        cpu=True, kwargs_handlers=[InitProcessGroupKwargs(backend="gloo", timeout=timedelta(seconds=PATIENCE))]
    )
    assert accelerator.num_processes == 2
    for name in names:
        kind, _, case_name = name.partition(" ")
        if kind == "ddp":
            model, processor = built(CASES[case_name])
            found: Any = trained(CASES[case_name], model, accelerator.prepare(model), processor, [rank])
        elif kind == "fsdp":
            model, processor = built(CASES[case_name])
            found = trained(CASES[case_name], model, shard(model), processor, [rank], whole_gradients)
        elif kind == "generate":
            model, processor = built(CASES[case_name])
            found = answers(shard(model), processor, 1 - rank, seed=rank)
        else:
            found = uncured(rank)
        torch.save(found, folder / f"{name}.{rank}")
        if kind != "uncured":
            accelerator.wait_for_everyone()
    while rank == 1 and "uncured" in names and not (folder / "uncured.0").exists():
        time.sleep(0.2)  # who leaves early is found out early
    sys.stdout.flush()
    os._exit(0)  # a group in which somebody waited in vain cannot be taken down


def uncured(rank: int) -> str:
    """What becomes of one update in which process 1 has words alone and no dummy picture."""
    group = distributed.new_group(timeout=timedelta(seconds=5))
    model, processor = built(UNCURED)
    try:
        found = trained(
            UNCURED, model, nn.parallel.DistributedDataParallel(model, process_group=group), processor, [rank]
        )
    except RuntimeError as error:
        return f"waited in vain: {error}"
    missing = [name for name, p in model.named_parameters() if p.requires_grad and name not in found[0]]
    return f"{len(missing)} tensors without a gradient" if missing else "gradients"


# ---- what tests call ----


def start(folder: Path, names: Sequence[str], module: str = "tests.training.processes") -> None:
    """Runs two processes of a module to their end; raises with what they said where one failed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
    }
    logs = [folder / f"log.{rank}" for rank in range(2)]
    processes = []
    for rank, log in enumerate(logs):
        environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-m", module, str(folder), *names]
        with log.open("w") as file:
            processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    if codes != [0, 0]:
        said = "\n".join(log.read_text()[-3000:] for log in logs)
        raise RuntimeError(f"processes ended with {codes}:\n{said}")


@cache
def outcomes() -> dict[str, list[Any]]:
    """``ddp CASE``, ``fsdp CASE``, ``generate CASE``, ``uncured`` -> what process 0 and process 1 found."""
    names = [f"ddp {name}" for name in CASES] + [f"fsdp {name}" for name in SHARDED]
    names += ["generate late", "generate late, qwen", "uncured"]
    with tempfile.TemporaryDirectory() as folder:
        start(Path(folder), names)
        return {
            name: [torch.load(Path(folder) / f"{name}.{rank}", weights_only=True) for rank in range(2)]
            for name in names
        }


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(int(os.environ["RANK"]), Path(sys.argv[1]), sys.argv[2:])
