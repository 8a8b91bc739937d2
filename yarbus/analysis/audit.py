"""Proof that what should train does: gradients, movement, and logits that stay equal.

A gradient that is missing or zero is traced to its cause by trying: the forward is watched (which modules run, and
whether autograd was on), and repeated without activation checkpointing where that is on.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from math import hypot
from typing import Any, Literal

import torch
from torch import Tensor, nn

from yarbus.core.places import GROUPS, PLACES
from yarbus.models.attachment import Attachment, attachment_of
from yarbus.models.observe import evaluating

CHECKPOINTING = "checkpointing without input gradients"
NO_GRAD = "a no_grad wrapper"
NEVER_RUN = "an unreachable block"
UNUSED = "an output that never reaches the loss"
FROZEN = "requires_grad is off"
SILENT = "a gradient of exactly zero"
NON_FINITE = "a gradient that is not finite"
ZERO_RATE = "a rate of zero"
NO_GROUP = "in no group of the optimizer"
ROUNDING = "updates that vanish in rounding"
FIXES = {
    CHECKPOINTING: "checkpoint with use_reentrant=False, or call model.enable_input_require_grads()",
    NO_GRAD: "take the no_grad or inference_mode away around its module",
    NEVER_RUN: "attach to blocks that run (first_block, last_block), or freeze it",
    UNUSED: "name its module in the tower's dead_tail, remove the detach behind it, or freeze it",
    FROZEN: "set requires_grad, or train the stage with yarbus",
    SILENT: "audit with other rows; if it stays, nothing that it does changes the loss",
    NON_FINITE: "look for NaN in that module's weights and input, or for 16 bits that overflow",
    ZERO_RATE: "give its group a rate, or the schedule more steps than its warm-up",
    NO_GROUP: "hand the optimizer all that trains: models.attachment.parameter_groups",
    ROUNDING: "raise the rate, or keep the weights in float32",
}
"""Likely cause -> what to do."""

Rates = Mapping[str, float]
Verdict = Literal["pass", "fail", "not applicable"]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
HALF_TOLERANCE = 2e-2
"""Of the largest logit: how far two ways of computing the same may lie apart."""


@dataclass(frozen=True)
class Fault:
    """One tensor that is not as it should be."""

    tensor: str
    cause: str
    where: str = ""
    """Module at fault, where one can be told."""

    def __str__(self) -> str:
        return f"{self.tensor}: {self.cause}" + (f" ({self.where})" if self.where else "")

    @property
    def fix(self) -> str:
        """What to do."""
        return FIXES.get(self.cause, "look at it with yarbus.audit(model, batch)")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question that was asked of the model."""

    name: str
    verdict: Verdict
    found: str
    """In a few words, with numbers."""
    faults: tuple[Fault, ...] = ()
    excused: dict[str, str] = field(default_factory=dict)
    """Tensor -> why its method says that it may be so."""

    @property
    def failed(self) -> bool:
        """Whether the answer is no."""
        return self.verdict == "fail"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All checks of one model."""

    checks: tuple[Check, ...]
    movement: list[dict[str, Any]] = field(default_factory=list)
    """By place and group: how far it moved over the run, relative to where it began."""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not any(check.failed for check in self.checks)

    @property
    def first_fault(self) -> Fault | None:
        """The first tensor that a check names."""
        return next((fault for check in self.checks if check.failed for fault in check.faults), None)

    def to_json(self) -> dict[str, Any]:
        """As ``analysis/audit.json`` has it."""
        checks = [asdict(check) for check in self.checks]
        for check in checks:
            for fault in check["faults"]:
                fault["fix"] = Fault(**fault).fix
        return {
            "schema": 1,
            "passed": self.passed,
            "checks": checks,
            "movement": self.movement,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = []
        for check in self.checks:
            lines.append(f"{check.verdict:<15}{check.name}: {check.found}")
            lines += [f"{'':<15}{fault}; fix: {fault.fix}" for fault in check.faults]
        return "\n".join([*lines, *self.notes])


# ---- gradients ----


@dataclass
class _Seen:
    """What a module did in one forward and backward."""

    ran: bool = False
    ran_with_grad: bool = False


@contextmanager
def _watching(model: nn.Module) -> Iterator[dict[str, _Seen]]:
    """Whether each module runs, and whether autograd is on while it does."""
    seen: dict[str, _Seen] = {}
    with ExitStack() as stack:
        for path, module in model.named_modules():
            seen[path] = _Seen()

            def look(module: nn.Module, args: Any, one: _Seen = seen[path]) -> None:
                one.ran = True
                one.ran_with_grad |= torch.is_grad_enabled()

            stack.callback(module.register_forward_pre_hook(look).remove)
        yield seen


@contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    """Gradients, training modes and random generators are afterwards what they were."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    modes = {module: module.training for module in model.modules()}
    devices = [parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"]
    try:
        with torch.random.fork_rng(devices=sorted({device.index or 0 for device in devices})):
            yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name]
        for module, mode in modes.items():
            module.training = mode


def _backward(model: nn.Module, batch: Mapping[str, Any], names: Iterable[str]) -> dict[str, Tensor | None]:
    """The gradient of the loss for each tensor; None where none arrived."""
    for parameter in model.parameters():
        parameter.grad = None
    model.train()
    torch.manual_seed(0)
    loss = model(**batch, use_cache=False).loss
    if loss.requires_grad:
        loss.backward()
    return {name: model.get_parameter(name).grad for name in names}


def _checkpointed(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def check_gradients(
    model: nn.Module, batch: Mapping[str, Any], names: Iterable[str], *, has_trained: bool = False
) -> Check:
    """Whether each tensor has a gradient that is finite and not zero on this batch; changes nothing.

    A zero gradient is excused where the tensor's method lists it (``Method.mute``; ``Method.silent`` as well where
    ``has_trained`` is false, since that holds at the start alone).
    """
    names, attachment = list(names), attachment_of(model)
    batch = loss_inputs(batch)
    with _as_before(model):
        gradients = _backward(model, batch, names)
        zeros = [name for name, one in gradients.items() if one is not None and not one.any()]
        broken = [name for name, one in gradients.items() if one is not None and not one.isfinite().all()]
        excused = {name: why for name in zeros if (why := _excuse(attachment, name, has_trained)) is not None}
        lost = [name for name, one in gradients.items() if one is None]
        del gradients
        causes = _causes(model, batch, lost) if lost else {}
        origin = _first_not_finite(model, batch) if broken else ""
    causes |= dict.fromkeys(broken, (NON_FINITE, origin))
    causes |= {name: (SILENT, "") for name in zeros if name not in excused}
    faults = tuple(Fault(name, *causes[name]) for name in names if name in causes)
    heard = len(names) - len(zeros) - len(lost) - len(broken)
    found = f"{heard} of {len(names)} tensors that train have a gradient"
    if excused:
        found += f", {len(excused)} may be zero"
    return Check(name="gradients", verdict="fail" if faults else "pass", found=found, faults=faults, excused=excused)


def loss_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What the forward takes of a batch, with labels."""
    inputs = {name: value for name, value in batch.items() if name != "sample_ids"}
    return inputs if "labels" in inputs else {**inputs, "labels": inputs["input_ids"]}


def _excuse(attachment: Attachment, name: str, has_trained: bool) -> str | None:
    """Why its method says that a tensor may have no gradient; None where it does not."""
    method = attachment.places[attachment.parameters[name].place]
    parts = method.mute if has_trained else (*method.mute, *method.silent)
    part = next((part for part in parts if part in name), None)
    return None if part is None else method.reasons.get(part, f"method '{method.name}' lists it")


def _causes(model: nn.Module, batch: Mapping[str, Any], lost: list[str]) -> dict[str, tuple[str, str]]:
    """Why no gradient arrived, by tensor, and the module at fault where one can be told."""
    causes = {name: (FROZEN, "") for name in lost if not model.get_parameter(name).requires_grad}
    rest = [name for name in lost if name not in causes]
    checkpointed = _checkpointed(model)
    for module in checkpointed:
        module.gradient_checkpointing = False
    try:
        with _watching(model) as seen:
            again = _backward(model, batch, rest)
    finally:
        for module in checkpointed:
            module.gradient_checkpointing = True
    wrapped = _wrapped(model, seen)
    for name in rest:
        owner = _owner(name)
        if again[name] is not None:
            causes[name] = (CHECKPOINTING, "")
        elif not seen[owner].ran and not _has_run_beside(model, seen, owner):
            causes[name] = (NEVER_RUN, _outermost_idle(seen, owner))
        elif wrapped:
            inside = [path for path in wrapped if name.startswith(f"{path}.")]
            causes[name] = (NO_GRAD, (inside or wrapped)[0])
        else:
            causes[name] = (UNUSED, owner)
    return causes


@torch.no_grad()
def _first_not_finite(model: nn.Module, batch: Mapping[str, Any]) -> str:
    """The first module of a forward whose output is not finite; empty where the loss or the backward begins it."""
    found: list[str] = []
    with ExitStack() as stack:
        for path, module in model.named_modules():

            def look(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
                if not found and isinstance(output, Tensor) and not output.isfinite().all():
                    found.append(path)

            stack.callback(module.register_forward_hook(look).remove)
        model(**batch, use_cache=False)
    return found[0] if found else ""


def _wrapped(model: nn.Module, seen: Mapping[str, _Seen]) -> list[str]:
    """Modules whose inside runs without autograd, though the forward was begun with it; frozen encoders of ours apart.

    A wrapper stands around a forward, and hooks run before it: it shows in the modules inside.
    """
    blind = [path for path, one in seen.items() if one.ran and not one.ran_with_grad and not _is_ours(model, path)]
    return sorted({_owner(path) for path in blind if _owner(path) not in blind})


def _is_ours(model: nn.Module, path: str) -> bool:
    """Whether a module came with a frozen encoder that was put beside the base: those run without autograd."""
    base = attachment_of(model).required_grad
    named = {f"{path}.{name}": one for name, one in model.get_submodule(path).named_parameters()}
    around = _owner(path)
    if not named:  # an activation: judged by what it stands in
        return bool(around) and _is_ours(model, around)
    return not any(name in base or one.requires_grad for name, one in named.items())


def _has_run_beside(model: nn.Module, seen: Mapping[str, _Seen], owner: str) -> bool:
    """Whether the module around ran and called others: then it may read this one's weights without a call."""
    around = _owner(owner)
    beside = [path for path, one in seen.items() if _owner(path) == around and path != owner and one.ran]
    return bool(around) and seen[around].ran and bool(beside)


def _outermost_idle(seen: Mapping[str, _Seen], path: str) -> str:
    """The largest part around a module of which nothing ran but, at most, its own call."""
    ran = [other for other, one in seen.items() if one.ran]
    while path and not any(other.startswith(f"{_owner(path)}.") for other in ran if other != _owner(path)):
        path = _owner(path)
    return path


# ---- movement ----


def movement(
    start: Mapping[str, Tensor], end: Mapping[str, Tensor], attachment: Attachment
) -> tuple[list[dict[str, Any]], list[str]]:
    """How far each place and group moved, |end - start| / |start|, and the tensors that did not move at all."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    still = []
    for name, after in end.items():
        trained = attachment.parameters.get(name)
        if trained is None or not trained.is_reachable:
            continue
        before = start[name].to(after)
        row = rows.setdefault(
            (trained.place, trained.group),
            {"place": trained.place, "group": trained.group, "tensors": 0, "still": 0, "distance": 0.0, "size": 0.0},
        )
        is_still = torch.equal(after, before)
        still += [name] if is_still else []
        row["tensors"] += 1
        row["still"] += is_still
        row["distance"] = hypot(row["distance"], float(torch.linalg.vector_norm((after - before).double())))
        row["size"] = hypot(row["size"], float(torch.linalg.vector_norm(before.double())))
    for row in rows.values():
        size = row.pop("size")
        row["relative"] = row["distance"] / size if size else None
    order = sorted(rows.values(), key=lambda row: (PLACES.index(row["place"]), GROUPS.index(row["group"])))
    return order, still


def check_movement(
    rows: list[dict[str, Any]], still: list[str], attachment: Attachment, causes: Mapping[str, str], rates: Rates
) -> Check:
    """Whether every tensor that trained is another than it was.

    ``causes``: what the gradients' check found; ``rates``: group -> the highest rate that was logged.
    """
    excused, faults = {}, []
    for name in still:
        trained = attachment.parameters[name]
        why = _excuse(attachment, name, has_trained=True)
        if name in causes:
            faults.append(Fault(name, causes[name]))
        elif why is not None:
            excused[name] = why
        else:
            faults.append(Fault(name, ZERO_RATE if rates.get(trained.group) == 0 else ROUNDING))
    count = sum(row["tensors"] for row in rows)
    found = f"{count - len(still)} of {count} tensors moved"
    if excused:
        found += f", {len(excused)} may stand still"
    return Check(
        name="movement", verdict="fail" if faults else "pass", found=found, faults=tuple(faults), excused=excused
    )


def check_rates(model: nn.Module, names: Iterable[str], optimizer: torch.optim.Optimizer) -> Check:
    """Whether an optimizer holds every tensor that trains, at a rate above zero."""
    rates = {id(tensor): float(group["lr"]) for group in optimizer.param_groups for tensor in group["params"]}
    faults, names = [], list(names)
    for name in names:
        rate = rates.get(id(model.get_parameter(name)))
        if rate is None or rate == 0:
            faults.append(Fault(name, NO_GROUP if rate is None else ZERO_RATE))
    found = f"{len(names) - len(faults)} of {len(names)} tensors have a rate above zero"
    return Check(name="rates", verdict="fail" if faults else "pass", found=found, faults=tuple(faults))


# ---- equal logits ----


@torch.no_grad()
def logits_of(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """The logits of a batch in evaluation mode, in fp32 on the CPU."""
    with evaluating(model):
        inputs = {name: value for name, value in batch.items() if name not in ("sample_ids", "labels")}
        return model(**inputs, use_cache=False).logits.float().cpu()


def check_equal(name: str, expected: Tensor, found: Tensor, dtype: torch.dtype) -> Check:
    """Whether two ways to the same logits agree within the precision of the weights."""
    if expected.shape != found.shape:
        return Check(name=name, verdict="fail", found=f"logits {list(found.shape)} instead of {list(expected.shape)}")
    scale = max(float(expected.abs().max()), 1e-12)
    apart = float((expected - found).abs().max())
    allowed = TOLERANCE.get(dtype, HALF_TOLERANCE) * scale
    says = "logits are equal" if apart == 0 else f"logits differ by {apart:.2g} at most"
    verdict: Verdict = "pass" if apart <= allowed else "fail"  # NaN fails
    return Check(name=name, verdict=verdict, found=f"{says} (allowed {allowed:.2g}, largest {scale:.3g})")
