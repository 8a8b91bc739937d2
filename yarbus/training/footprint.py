"""What a training step takes of a device's memory, term by term, from one forward on shapes (``models.shapes``).

Exact, since shapes leave nothing open: weights, gradients, optimizer state, and what autograd keeps of the forward for
the batch that is asked about. Estimated: that batch (real rows differ; here all are as long as the longest), ``peak``
(the order in which backward frees and makes tensors is taken from the order of the forward; temporaries inside of an
operation are left out), and what differs between devices: attention counts as a fused kernel, autocast by the CPU's
rules (CUDA keeps the outputs of norms and softmax in fp32), and neither an allocator's unused blocks, a framework's
own few hundred MiB, nor the frozen text encoder's activations count.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from yarbus.core.errors import ConfigError, UserError
from yarbus.core.sections import Stage
from yarbus.models.shape_batch import BatchShape, shape_batch, stand_in_encoder, tokens_of_picture
from yarbus.models.shapes import Shapes, storage_of
from yarbus.models.vlm import VLM
from yarbus.training.trainer import KEEPS_BY_MASK, supervised_positions

TOKENS = 2048
"""Tokens of a row where neither the recipe nor the caller says how long rows may be."""
FAULTS = (RuntimeError, TypeError, KeyError, ValueError, AttributeError, IndexError, UserError)
"""What a model's forward may raise on a batch that its family did not mean."""
BYTES = 4
"""Of a trained number, its gradient and each of AdamW's two: training holds fp32 weights, bfloat16 is autocast."""


class NotEstimated(Exception):
    """A forward that does not run on shapes, with the reason: a plan goes on without it."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a recipe does not say of a batch."""

    devices: int = 1
    """GPUs that share it out, each with all of the model (DDP)."""
    tokens: int | None = None
    """Of a row; None is the stage's ``max_tokens``, the longest that training takes, or ``TOKENS``."""
    images: int = 1
    """Pictures of a row."""
    side: int | None = None
    """Of a picture, in pixels, where the family takes any; None is 784."""
    answer_tokens: int | None = None
    """Supervised tokens of a row; None is all that is no picture, the most there can be."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes on one device. ``peak`` is the most at once; the terms above it are not all there at the same time."""

    weights: int
    gradients: int
    optimizer: int
    """AdamW's two numbers for each trained one."""
    buckets: int
    """DDP's own copy of the gradients; 0 on one device."""
    activations: int
    """What backward needs of the forward, up to the lm_head."""
    weight_copies: int
    """bfloat16 copies of weights, which autocast makes and keeps until forward or backward is through."""
    logits: int
    """Logits, their fp32 copy, and the gradient of either."""
    recomputed: int
    """With gradient checkpointing: what the largest block keeps again while it is run a second time."""
    peak: int
    shape: BatchShape
    precision: str
    gradient_checkpointing: bool
    devices: int
    accumulates: bool
    """Whether gradients of earlier micro-batches are there while a forward runs."""
    if_not_checkpointed: int
    """``activations`` and the ``weight_copies`` that backward needs, were there no gradient checkpointing."""
    logits_at_all_positions: int
    """``logits`` where the loss reads every position of a row (plain Trainer), in proportion."""

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return asdict(self)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def batch_shape(stage: Stage, model: nn.Module, asked: Asked, per_picture: int) -> BatchShape:
    """The batch of one device: what the stage says, else what is asked for, else the usual.

    Raises ``ConfigError`` where pictures and answers do not fit into a row.
    """
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or TOKENS  # type: ignore[operator, union-attr]
    tokens = asked.tokens or min(stage.max_tokens or TOKENS, longest)
    rows = stage.micro_batch or max(1, stage.batch // asked.devices)
    shape = BatchShape(
        rows=rows, tokens=tokens, answer_tokens=asked.answer_tokens or 1, images=asked.images, side=asked.side
    )
    needed = asked.images * (per_picture + 1) + shape.answer_tokens
    if needed > tokens:
        why = f"{asked.images} pictures of {per_picture} tokens and the answer take {needed}"
        raise ConfigError(
            f"a row of {tokens} tokens is too short", why=why, fix="ask for more tokens or fewer pictures"
        )
    if asked.answer_tokens is not None:
        return shape
    return replace(shape, answer_tokens=max(1, tokens - asked.images * (per_picture + 1) - 1))


@dataclass
class _Event:
    """One moment of the forward that backward comes back to, in the opposite order."""

    nbytes: int = 0
    """Kept since then, and free after backward has passed."""
    weights: tuple[int, ...] = ()
    """Storages of weights whose gradients are there from then on."""
    passing: int = 0
    """Taken at most, beside what is kept, while backward passes a block."""


@dataclass
class _Kept:
    """What autograd keeps of a forward: distinct storages, the weights' own apart."""

    shapes: Shapes
    found: dict[int, int] = field(default_factory=dict)
    """Number of the storage -> bytes."""
    copies: dict[int, int] = field(default_factory=dict)
    """Of these, the ones that hold a weight in another precision."""
    events: list[_Event] = field(default_factory=list)

    def add(self, tensor: Tensor) -> Tensor:
        """Notes a tensor that autograd is about to keep."""
        address = storage_of(tensor)
        if address in self.shapes.weights:
            self.events.append(_Event(weights=(address,)))
            return tensor
        storage = self.shapes.storages.get(address)
        if storage is None or storage.number in self.found:  # what is older than the forward is the batch's own
            return tensor
        source = () if storage.copy_of is None else (storage.copy_of,)
        self.found[storage.number] = storage.nbytes
        if source:
            self.copies[storage.number] = storage.nbytes
        self.events.append(_Event(storage.nbytes, source))
        return tensor

    def keeping(self) -> saved_tensors_hooks:
        """While it is entered, what autograd keeps is noted."""
        return saved_tensors_hooks(self.add, lambda tensor: tensor)


@dataclass
class _Blocks:
    """Stands in the place of activation checkpointing: counts what it keeps, and what it keeps away."""

    outer: _Kept
    inner: dict[int, int] = field(default_factory=dict)
    """Number of the storage -> bytes of all that only a recomputation brings back."""
    passing: dict[int, int] = field(default_factory=dict)
    """Bytes that a block would keep -> the most that its recomputation and backward take at once. Blocks of one size
    are of one kind."""

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for tensor in args:
            if isinstance(tensor, Tensor):
                self.outer.add(tensor)
        own = _Kept(self.outer.shapes)
        with own.keeping():
            output = function(*args)
        self.inner |= own.found
        size = sum(own.found.values())
        if size not in self.passing:
            with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
                self.passing[size] = self._passing(output, args, size)
        weights = tuple(key for event in own.events for key in event.weights)
        self.outer.events.append(_Event(weights=weights, passing=self.passing[size]))
        return output

    def _passing(self, output: Any, args: tuple[Any, ...], size: int) -> int:
        outputs = [one for one in (output if isinstance(output, tuple) else (output,)) if isinstance(one, Tensor)]
        outputs = [one for one in outputs if one.requires_grad]
        inputs = [one for one in args if isinstance(one, Tensor) and one.requires_grad]
        shapes = self.outer.shapes
        if not outputs or not inputs:
            return size
        before, shapes.peak = shapes.live - size, shapes.live
        # Frees what the block kept, as a real backward does; nobody goes back through it after this.
        torch.autograd.grad(outputs, inputs, [torch.ones_like(one) for one in outputs], allow_unused=True)
        return shapes.peak - before


@dataclass
class _Forward:
    """The bytes of one forward and of the first steps of its backward."""

    activations: int
    saved_copies: int
    """Copies of weights that backward needs."""
    cached_copies: int
    """Copies of weights that autocast holds until the forward is over."""
    head_forward: int
    """The most at once from the lm_head to the loss."""
    head: int
    """The same, or on the way back to the lm_head's input if that takes more."""
    events: list[_Event]
    unchecked: int
    """What backward would need without checkpointing."""
    largest_block: int
    """What one block keeps at most."""

    def peak(self, gradients: Mapping[int, int], accumulates: bool) -> int:
        """The most at once beside weights and optimizer state. ``gradients``: bytes by the weight's storage."""
        kept = self.activations + self.saved_copies
        there = set(gradients) if accumulates else set()
        size = sum(gradients[key] for key in there)
        most = size + kept + max(self.cached_copies + self.head_forward, self.head)
        for event in reversed(self.events):
            most = max(most, size + kept + event.passing)
            new = {key for key in event.weights if key in gradients} - there
            size, there, kept = size + sum(gradients[key] for key in new), there | new, kept - event.nbytes
            most = max(most, size + kept)
        return max(most, sum(gradients.values()))


def _forward(model: Any, stage: Stage, shape: BatchShape, checkpointing: bool) -> tuple[_Forward, dict[int, int]]:
    """Runs a copy of the model on shapes; and the bytes of each trained weight's gradient by its storage."""
    stand_in_encoder(model)
    model.train()
    shapes = Shapes()
    shapes.clear(model)
    gradients = {storage_of(p): p.numel() * BYTES for p in model.parameters() if p.requires_grad}
    kept = _Kept(shapes)
    blocks = _Blocks(kept)
    if checkpointing:
        model._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=blocks)
        model.enable_input_require_grads()  # as Trainer does then
    heads: list[tuple[Tensor, int, int]] = []

    def at_head(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        shapes.peak = shapes.live
        heads.append((args[0], shapes.number, shapes.live))

    hook = VLM.of(model).lm_head.register_forward_pre_hook(at_head)
    is_half = stage.precision == "bfloat16"
    with shapes:
        batch = shape_batch(model, shape)
        keep, following = supervised_positions(batch["labels"], by_mask=KEEPS_BY_MASK)
        with kept.keeping(), torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            output = model(**batch, use_cache=False, logits_to_keep=keep, shift_labels=following)
            loss = output.loss
            del output
            hidden, first, before = heads[-1]
            copies = [storage for storage in shapes.storages.values() if storage.copy_of is not None]
            cached = [one.nbytes for one in copies if one.copy_of in gradients and one.number not in kept.copies]
            own_copies = sum(one.nbytes for one in copies if one.number >= first)
            head_forward = shapes.peak - before - own_copies
        if loss.requires_grad:
            wanted = [hidden] if hidden.requires_grad else list(VLM.of(model).lm_head.parameters())
            torch.autograd.grad(loss, wanted, retain_graph=True)
    hook.remove()
    activations = {number: n for number, n in kept.found.items() if number < first and number not in kept.copies}
    return (
        _Forward(
            activations=sum(activations.values()),
            saved_copies=sum(kept.copies.values()),
            cached_copies=sum(cached),
            head_forward=head_forward,
            head=max(head_forward, shapes.peak - before - own_copies),
            events=kept.events,
            unchecked=sum({**blocks.inner, **activations, **kept.copies}.values()),
            largest_block=max(blocks.passing, default=0),
        ),
        gradients,
    )


def footprint(model: nn.Module, stage: Stage, asked: Asked | None = None) -> Footprint:
    """The memory of one step of a stage. ``model``: attached for the stage; it is not changed.

    On the meta device this reads no weight and takes no memory worth speaking of. The second stage of CoVFT on
    LLaVA-1.5 took 4.0 seconds of processor time at 7B, 4.3 at 13B.

    Raises:
        ConfigError: pictures and answers do not fit into a row.
        NotEstimated: the forward does not run on shapes, or the family's pictures are not known.
    """
    asked = asked or Asked()
    checkpointing, devices = stage.gradient_checkpointing, asked.devices
    weights = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    try:
        per_picture = tokens_of_picture(model, asked.side) if asked.images else 0
    except FAULTS as error:
        raise NotEstimated(_first_line(error)) from error
    shape = batch_shape(stage, model, asked, per_picture)
    try:
        found, gradients = _forward(copy.deepcopy(model), stage, shape, checkpointing)
    except FAULTS as error:
        raise NotEstimated(_first_line(error)) from error
    accumulates = stage.batch > shape.rows * devices
    trained = sum(gradients.values())
    buckets = trained if devices > 1 else 0
    return Footprint(
        weights=weights,
        gradients=trained,
        optimizer=2 * trained,
        buckets=buckets,
        activations=found.activations,
        weight_copies=found.saved_copies + found.cached_copies,
        logits=found.head,
        recomputed=found.largest_block,
        peak=weights + 2 * trained + buckets + found.peak(gradients, accumulates),
        shape=shape,
        precision=stage.precision,
        gradient_checkpointing=checkpointing,
        devices=devices,
        accumulates=accumulates,
        if_not_checkpointed=found.unchecked,
        logits_at_all_positions=found.head * shape.tokens // shape.answer_tokens,
    )
