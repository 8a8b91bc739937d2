"""LoRA: a low-rank update beside linear layers (arXiv:2106.09685), in the vision tower or the language model.

``y = W x + b + (alpha / rank) B A dropout(x)``: the paper's ``A`` and ``B`` are ``lora_A`` and ``lora_B``, its
``r`` is ``rank``.

These are not peft's layers, because those do not stand a user's own peft on top. Measured with peft 0.21 on a tiny
LLaVA: whether through ``inject_adapter_in_model`` or one ``peft.tuners.lora.Linear`` at a time,
``get_peft_model`` takes every LoRA layer it finds for its own and makes the user's adapter the active one. A
trained update is then silently off (logits moved by 1.8 to 2.6), and their ``merge_and_unload`` drops it for good.
With the same adapter name it survives until both want one layer: then ours is overwritten. Injection also freezes the
whole model and leaves ``peft_config`` on it, and both rename the base's weights (``q_proj.base_layer.weight``).

Here ``A`` and ``B`` stand inside the linear layer, beside its weight, and a hook adds what they say to its output. The
layer stays the object it was, under its own name: detach has nothing to put back, a user's peft wraps it as any other
and unwraps it again (it freezes our tensors, as it does all that it did not add), and a full save is the base's tensors
and some more. Those have the names of a peft adapter file behind its prefix, ``q_proj.lora_A.weight``, so that either
library can read the other's numbers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from yarbus.core.errors import ConfigError
from yarbus.models.attach import forget, release
from yarbus.models.attachment import Attachment, Method, Start, attachment_of
from yarbus.models.vlm import VLM


class Down(nn.Module):
    """A: the few numbers that the update reads of each input."""

    def __init__(self, linear: nn.Linear, rank: int, dropout: float) -> None:
        super().__init__()
        like = linear.weight
        self.weight = nn.Parameter(torch.empty(rank, linear.in_features, device=like.device, dtype=like.dtype))
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.weight, a=sqrt(5))

    def forward(self, values: Float[Tensor, "*axes inputs"]) -> Float[Tensor, "*axes rank"]:
        return F.linear(self.dropout(values), self.weight)


class Up(nn.Module):
    """B: what they add to the layer's output; nothing at the start."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        like = linear.weight
        self.weight = nn.Parameter(torch.zeros(linear.out_features, rank, device=like.device, dtype=like.dtype))
        self.scale = scale

    def forward(self, values: Float[Tensor, "*axes rank"]) -> Float[Tensor, "*axes outputs"]:
        return F.linear(values, self.weight) * self.scale

    def add(self, linear: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Forward hook of the linear layer."""
        return output + self(linear.lora_A(args[0]))  # type: ignore[operator]


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """A trained low-rank update beside frozen linear layers; ``fold`` puts it into their weights.

    ``lora_A`` has zero gradient at the very start, since ``lora_B`` is zero: that is what makes the start exact.
    """

    name: ClassVar[str] = "lora"
    places: ClassVar[tuple[str, ...]] = ("vision", "language")
    start: ClassVar[Start] = "identity"
    silent: ClassVar[tuple[str, ...]] = (".lora_A.",)
    reasons: ClassVar[Mapping[str, str]] = {".lora_A.": "lora_B starts as zero, which makes the start exact"}
    paper: ClassVar[str] = "arXiv:2106.09685"

    rank: Annotated[int, Ge(1)] = 8
    """Width of the update (CoVFT's script; 512 in Table 7)."""
    alpha: Annotated[float, Gt(0)] = 16.0
    """The update is scaled by alpha / rank; CoVFT's code keeps 2 (methods.md 3.4: so 1024 at rank 512)."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.05
    """Of the update's input, in training (CoVFT's script)."""
    targets: Literal["all-linear"] | None = None
    """Which layers: None is the attention's in the tower and all in the language model, ``all-linear`` adds the
    tower's feed-forward networks. Never the head."""
    rest: Literal["frozen", "trained"] = "frozen"
    """Everything else in the place. ``trained`` is what CoVFT's code does in the tower: it freezes the wrapped
    layers and leaves feed-forward networks, norms and embeddings trainable."""

    @classmethod
    def preset(cls, name: Literal["paper", "official", "ours"], **changes: object) -> "LoRA":
        """The method as its paper says, as CoVFT's code does, or as we recommend (the paper's)."""
        presets: dict[str, dict[str, object]] = {"paper": {}, "official": {"rest": "trained"}, "ours": {}}
        if name not in presets:
            raise ConfigError(f"unknown preset '{name}' of lora", fix=f"use one of: {', '.join(presets)}")
        return replace(cls(**presets[name]), **changes)  # type: ignore[arg-type]

    def groups(self, place: str) -> tuple[str, ...]:
        if place == "vision":
            return ("vision", "vision_new") if self.rest == "trained" else ("vision_new",)
        return (place,)

    def linears(self, vlm: VLM, place: str) -> Iterator[nn.Linear]:
        """The layers that get an update, dead ones too."""
        if place == "language":
            head = vlm.model.get_output_embeddings()
            for module in vlm.language_model.modules():
                if isinstance(module, nn.Linear) and module is not head:
                    yield module
            return
        for block in vlm.blocks():
            for path in vlm.tower.attention:
                yield block.get_submodule(path)  # type: ignore[misc]
            if self.targets == "all-linear":
                yield from vlm.feed_forward_linears(block)

    @property
    def depends_on_micro_batch(self) -> bool:
        return self.dropout > 0

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        linears = list(self.linears(vlm, place))
        if self.rest == "trained":
            wrapped = {id(parameter) for linear in linears for parameter in linear.parameters()}
            rest = [p for p in vlm.place_parameters(place).values() if id(p) not in wrapped]
            attachment.train(rest, group=place)
        group = "vision_new" if place == "vision" else place
        dead = {id(module) for owner in vlm.dead_modules() for module in owner.modules()}
        for linear in linears:
            if id(linear) in dead:
                attachment.drop(vlm, place, linear, group, self.rank * (linear.in_features + linear.out_features))
                continue
            down, up = Down(linear, self.rank, self.dropout), Up(linear, self.rank, self.alpha / self.rank)
            attachment.insert(vlm, linear, "lora_A", down)
            attachment.insert(vlm, linear, "lora_B", up)
            attachment.after(vlm, linear, up.add)
            attachment.train([down.weight, up.weight], group=group)


@torch.no_grad()
def fold(model: nn.Module) -> nn.Module:
    """Puts every LoRA update into the weight beside it and takes the update's tensors away. Changes in place.

    The sum is taken in fp32, then cast to the weight's precision. A model in which nothing else was inserted is an
    ordinary model afterwards: nothing is attached, and it has the weights it has. Where another method's modules stay,
    it keeps its attachment, but the base is gone: ``detach`` refuses as for any tensor trained in place (with
    ``keep_base`` it restores), and ``save_adapter`` refuses, since an adapter would lack what was folded; save the
    full model, or the adapter before.

    Raises ``ConfigError`` if the model holds no LoRA.
    """
    attachment = attachment_of(model)
    places = {place for place, method in attachment.places.items() if isinstance(method, LoRA)}
    if not places:
        raise ConfigError("no LoRA to fold", why="no place of this model holds one", fix="attach or load it first")
    paths = sorted(path.removesuffix(".lora_B") for path in attachment.added if path.endswith(".lora_B"))
    for path in paths:
        linear = model.get_submodule(path)
        attachment.remember(f"{path}.weight", linear.weight)  # type: ignore[arg-type]
        update = linear.lora_B.weight.float() @ linear.lora_A.weight.float()  # type: ignore[union-attr, operator]
        linear.weight.copy_(linear.weight.float() + linear.lora_B.scale * update)  # type: ignore[union-attr, operator]
    forget(model, [f"{path}.{leaf}" for path in paths for leaf in ("lora_A", "lora_B")])
    for place in places:
        del attachment.places[place]
    attachment.active -= places
    attachment.folded |= places
    if not attachment.inserted:
        release(model)
    return model
