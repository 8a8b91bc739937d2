"""CoVFT: context-aware visual fine-tuning (arXiv 2603.21077), Sec. 3.3 and 3.4.

The paper's letters here: ``x`` is ``tokens`` (input of a block's feed-forward network), ``t`` the
pooled question, ``c`` the ``context``, ``g`` the ``routing_weights``, ``L_v`` the tokens of an
image. Where we depart: keys see the image half only and have no bias (the text half and the bias
cancel in the softmax, exactly), one query is pooled without materialising keys or values over
tokens, and experts are stored stacked. ``merged`` routing and ``expert_jitter`` are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from math import sqrt
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from yarbus.core.errors import ConfigError
from yarbus.models.attachment import Attachment, Method, Start
from yarbus.models.context import ContextSlot
from yarbus.models.images import ImageMap
from yarbus.models.vlm import VLM

Routing = Literal["dense", "uniform", "merged"]
ContextKind = Literal["cve", "text"]


class ResidualBlock(nn.Module):
    """LayerNorm(x + down(activation(up(x)))), twice as wide inside (Eq. 6-7)."""

    def __init__(self, dim: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * dim)
        self.down = nn.Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.activation = activation

    def forward(self, values: Float[Tensor, "*axes dim"]) -> Float[Tensor, "*axes dim"]:
        return self.norm(values + self.down(self.activation(self.up(values))))


class TextContext(nn.Module):
    """The context is the question alone: LN(t). The same for every image of a row."""

    def __init__(self, text_dim: int, context_dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(text_dim, context_dim) if text_dim != context_dim else None
        self.norm = nn.LayerNorm(context_dim)

    def forward(
        self, tokens: Float[Tensor, "*tokens dim"], question: Float[Tensor, "images text_dim"], images: ImageMap
    ) -> tuple[Float[Tensor, "images context_dim"], None]:
        return self.norm(question if self.projection is None else self.projection(question)), None


class ContextVectorExtractor(nn.Module):
    """CVE: the question looks at the image's tokens, and what it finds is the context (Eq. 6-8).

    One query per image (the question) attends to the image's tokens; keys and values are the token beside the
    question. Written without keys or values over tokens (methods.md 4.4): per head h, ``u_h = W_key,h^T q_h``,
    gaze = softmax(tokens u_h / sqrt(head_dim)), value = W_value,h (gaze-weighted token) + its question half.
    """

    def __init__(
        self, vision_dim: int, text_dim: int, context_dim: int, num_heads: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        if context_dim % num_heads:
            raise ConfigError(
                f"context_dim {context_dim} is not divisible by num_heads {num_heads}", fix="choose a divisor"
            )
        self.num_heads = num_heads
        # Per block, not once for all: a tensor that requires grad must not travel between blocks through the slot
        # (reentrant checkpointing would cut its gradient).
        self.projection = nn.Linear(text_dim, context_dim) if text_dim != context_dim else None
        self.image_residual = ResidualBlock(vision_dim, activation)
        self.text_residual = ResidualBlock(context_dim, activation)
        self.query = nn.Linear(context_dim, context_dim)
        self.key_weight = nn.Parameter(torch.empty(context_dim, vision_dim))
        self.value = nn.Linear(vision_dim + context_dim, context_dim)
        self.output = nn.Linear(context_dim, context_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The initialisation of ``nn.MultiheadAttention``: Xavier-uniform, biases zero."""
        for weight in (self.query.weight, self.key_weight, self.value.weight):
            nn.init.xavier_uniform_(weight)
        for bias in (self.query.bias, self.value.bias, self.output.bias):
            nn.init.zeros_(bias)

    def forward(
        self, tokens: Float[Tensor, "*tokens dim"], question: Float[Tensor, "images text_dim"], images: ImageMap
    ) -> tuple[Float[Tensor, "images context_dim"], Float[Tensor, "*tokens heads"]]:
        tokens = self.image_residual(tokens)
        text = self.text_residual(question if self.projection is None else self.projection(question))
        heads, vision_dim = self.num_heads, tokens.shape[-1]
        query = self.query(text).unflatten(-1, (heads, -1))  # [images, heads, head_dim]
        keys = self.key_weight.unflatten(0, (heads, -1))  # [heads, head_dim, dim]
        looked_for = torch.einsum("ihk,hkd->ihd", query, keys) * query.shape[-1] ** -0.5
        gaze = images.softmax(images.linear(tokens, looked_for).float()).to(tokens.dtype)
        found = images.weighted_sum(gaze, tokens)  # [images, heads, dim]
        image_half = self.value.weight[:, :vision_dim].unflatten(0, (heads, -1))
        values = torch.einsum("ihd,hkd->ihk", found, image_half).flatten(1)
        values = values + F.linear(text, self.value.weight[:, vision_dim:], self.value.bias)
        return self.output(values), gaze


class ContextualMixture(nn.Module):
    """Copies of one feed-forward network, blended per image by what the question asks (Eq. 8-10).

    The experts are stored stacked: their weighted sum is two matrix products, with the routing weights scaling
    each expert's share of the hidden units in between.
    """

    def __init__(
        self, linears: list[nn.Linear], method: "CoVFT", vlm: VLM, text_dim: int, slot: ContextSlot, block: int
    ):
        super().__init__()
        *inputs, down = linears
        self.num_experts = method.num_experts
        self.routing = method.routing
        self.block_index = block
        self.slot = slot
        self.activation = ACT2FN[vlm.activation]
        like = down.weight
        with like.device:
            self.up_weight = nn.Parameter(self._stack(inputs[-1].weight))  # [experts, hidden, dim]
            self.up_bias = self._stack_bias(inputs[-1])
            # Gated networks: down(activation(gate(x)) * up(x)).
            self.gate_weight = nn.Parameter(self._stack(inputs[0].weight)) if len(inputs) == 2 else None
            self.gate_bias = self._stack_bias(inputs[0]) if len(inputs) == 2 else None
            self.down_weight = nn.Parameter(self._stack(down.weight, at=1))  # [dim, experts, hidden]
            self.down_bias = self._stack_bias(down)
            self.extractor: nn.Module | None = None
            self.router: nn.Linear | None = None
            if method.routes:
                self.extractor = method.extractor(vlm, text_dim).to(like.dtype)
                self.router = nn.Linear(method.context_dim, method.num_experts, dtype=like.dtype)
                nn.init.xavier_uniform_(self.router.weight)
                nn.init.zeros_(self.router.bias)
        self._jitter(method.expert_jitter)

    def _stack(self, weight: Tensor, at: int = 0) -> Tensor:
        return torch.stack([weight.detach()] * self.num_experts, dim=at)

    def _stack_bias(self, linear: nn.Linear) -> nn.Parameter | None:
        return None if linear.bias is None else nn.Parameter(self._stack(linear.bias))

    @torch.no_grad()
    def _jitter(self, relative: float) -> None:
        """Noise on each expert's last weights that cancels in the mean over experts (methods.md 4.5)."""
        if not relative or self.num_experts == 1 or self.down_weight.device.type == "meta":
            return
        noise = torch.randn_like(self.down_weight)
        noise -= noise.mean(dim=1, keepdim=True)
        self.down_weight += noise * relative * self.down_weight.std()

    @torch.no_grad()
    def expert_distance(self) -> float:
        """How far the experts have come apart: mean over pairs of ||W_i - W_j|| / ||mean W||, in fp32.

        ``W_i`` is every tensor of expert i as one vector. 0 while the experts are copies, and for a single expert.
        """
        stacked = [self.up_weight, self.up_bias, self.gate_weight, self.gate_bias]
        stacked += [self.down_weight.transpose(0, 1), self.down_bias]
        by_expert = [tensor.flatten(1).float() for tensor in stacked if tensor is not None]  # [experts, numbers]
        pairs = list(combinations(range(self.num_experts), 2))
        if not pairs:
            return 0.0
        # Differences, not a Gram matrix: experts a thousandth apart would drown in its rounding.
        squares = [sum(float((part[i] - part[j]).square().sum()) for part in by_expert) for i, j in pairs]
        size = sqrt(sum(float(part.mean(dim=0).square().sum()) for part in by_expert))
        return sum(map(sqrt, squares)) / len(pairs) / size

    def routing_weights(self, tokens: Float[Tensor, "*tokens dim"]) -> tuple[Float[Tensor, "images experts"], ImageMap]:
        """How much each expert counts for each image; rows sum to 1 (Eq. 9). Always computed in fp32."""
        context = self.slot.read()
        images = context.tower
        assert images is not None, "the tower ran without images"
        images.check(tokens)
        if self.extractor is None or self.router is None:
            return tokens.new_full((len(images.rows), self.num_experts), 1 / self.num_experts), images
        vector, gaze = self.extractor(tokens, context.pooled_by_image().to(tokens.dtype), images)
        with torch.autocast(tokens.device.type, enabled=False):
            logits = F.linear(vector.float(), self.router.weight.float(), self.router.bias.float())
        weights = logits.softmax(dim=-1)
        if self.slot.recorder is not None:
            self.slot.record("context", self.block_index, vector)
            self.slot.record("routing_weights", self.block_index, weights)
            if gaze is not None:
                self.slot.record("gaze", self.block_index, gaze)
        return weights, images

    def forward(self, tokens: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens dim"]:
        weights, images = self.routing_weights(tokens)
        weights = weights.to(tokens.dtype)
        if self.num_experts == 1:
            return self.blend(tokens, torch.ones_like(weights), images)
        return self.merge(tokens, weights, images) if self.routing == "merged" else self.blend(tokens, weights, images)

    def _hidden(self, through: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        """activation(up), or activation(gate) * up in a gated network; ``through`` applies stacked weights."""
        up = through(self.up_weight, self.up_bias)
        if self.gate_weight is None:
            return self.activation(up)
        return self.activation(through(self.gate_weight, self.gate_bias)) * up

    def blend(self, tokens: Tensor, weights: Tensor, images: ImageMap) -> Tensor:
        """Sum of the experts' outputs by weight (Eq. 10)."""

        def through(up: Tensor, bias: Tensor | None) -> Tensor:
            return F.linear(tokens, up.flatten(0, 1), None if bias is None else bias.flatten())

        hidden = self._hidden(through)
        share = weights.repeat_interleave(self.up_weight.shape[1], dim=-1)
        output = F.linear(hidden * images.spread(share), self.down_weight.flatten(1))
        return output if self.down_bias is None else output + images.spread(weights @ self.down_bias)

    def merge(self, tokens: Tensor, weights: Tensor, images: ImageMap) -> Tensor:
        """One network per image, its weights the average of the experts' by routing weight (ours)."""

        def average(parameter: Tensor | None) -> Tensor | None:
            return None if parameter is None else torch.tensordot(weights, parameter, dims=1)

        def through(up: Tensor, bias: Tensor | None) -> Tensor:
            return images.linear(tokens, torch.tensordot(weights, up, dims=1), average(bias))

        hidden = self._hidden(through)
        down = torch.einsum("ie,deh->idh", weights, self.down_weight)
        return images.linear(hidden, down, average(self.down_bias))


@dataclass(frozen=True, kw_only=True)
class CoVFT(Method):
    """Context-aware mixture of experts in the later vision blocks (Sec. 3.3-3.4)."""

    name: ClassVar[str] = "covft"
    places: ClassVar[tuple[str, ...]] = ("vision",)
    start: ClassVar[Start] = "rounding"
    """Experts start as copies and their weights sum to 1. With ``expert_jitter`` outputs move by its size."""

    context: ContextKind = "cve"
    """What routes: ``cve`` (question and image, Eq. 6-8) or ``text`` (the question alone, Table 2)."""
    routing: Routing = "dense"
    """``dense`` (Eq. 10), ``uniform`` (1/E each, Table 2), or ``merged`` (ours): one network of averaged weights."""
    num_experts: Annotated[int, Ge(1)] = 4
    """Expert networks per block (Table 5). 1 is the control: the same tensors tuned without a mixture or router."""
    first_block: Annotated[int, Ge(0)] | None = None
    """First block replaced; None is the middle of the executed blocks (11 of 0-22 in LLaVA-1.5, Table 4)."""
    last_block: Annotated[int, Ge(0)] | None = None
    """Last block replaced; None is the last one executed."""
    context_dim: Annotated[int, Ge(1)] = 768
    """Width of the context; where the text encoder's differs, one Linear per block goes from one to the other."""
    num_heads: Annotated[int, Ge(1)] = 4
    """Heads of the CVE's attention (official code)."""
    activation: str | None = "gelu"
    """Of the CVE's residual blocks: GELU in the paper, ``quick_gelu`` in the official code, None is the tower's."""
    expert_jitter: Annotated[float, Ge(0)] = 0.0
    """Relative noise on the experts' last weights, cancelling in their mean. Without it identical experts give
    router and context exactly zero gradient at the start (methods.md 4.5)."""
    layernorm: Literal["all", "from_start", "none"] = "all"
    """Whose LayerNorms train: those of all blocks (official code), from the first replaced block on, or none."""

    @classmethod
    def preset(cls, name: Literal["paper", "official", "ours"], **changes: object) -> "CoVFT":
        """The method as the paper says, as the official code does, or as we recommend."""
        presets: dict[str, dict[str, object]] = {
            "paper": {},
            "official": {"activation": "quick_gelu"},
            "ours": {"activation": None, "expert_jitter": 1e-3},
        }
        if name not in presets:
            raise ConfigError(f"unknown preset '{name}' of covft", fix=f"use one of: {', '.join(presets)}")
        return replace(cls(**presets[name]), **changes)  # type: ignore[arg-type]

    @property
    def routes(self) -> bool:
        """Whether there is a choice among experts that something has to make."""
        return self.num_experts > 1 and self.routing != "uniform"

    @property
    def reads_question(self) -> bool:
        return self.routes

    def groups(self, place: str) -> tuple[str, ...]:
        norms = () if self.layernorm == "none" else ("vision",)
        return (*norms, "vision_new", *(("router",) if self.routes else ()))

    def extractor(self, vlm: VLM, text_dim: int) -> nn.Module:
        """The module that makes the context of one block."""
        if self.context == "text":
            return TextContext(text_dim, self.context_dim)
        activation = ACT2FN[self.activation or vlm.activation]
        return ContextVectorExtractor(vlm.vision_dim, text_dim, self.context_dim, self.num_heads, activation)

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        encoder = getattr(vlm.base_model, "context_encoder", None)
        text_dim = 0 if encoder is None else encoder.dim
        blocks = vlm.executed_blocks(self.first_block, self.last_block)
        for index, block in enumerate(vlm.blocks()):
            if self.layernorm == "all" or (self.layernorm == "from_start" and index >= min(blocks)):
                for norm in vlm.tower.norms:
                    attachment.train(list(block.get_submodule(norm).parameters()), group="vision")
        for index, block in blocks.items():
            linears = list(vlm.feed_forward_linears(block))
            mixture = ContextualMixture(linears, self, vlm, text_dim, attachment.slot, index)
            attachment.replace(vlm, block, vlm.tower.feed_forward, mixture)
            routing = [module for module in (mixture.extractor, mixture.router) if module is not None]
            router = {id(parameter) for module in routing for parameter in module.parameters()}
            attachment.train([p for p in mixture.parameters() if id(p) not in router], group="vision_new")
            attachment.train([p for module in routing for p in module.parameters()], group="router")


def mixtures_of(model: nn.Module) -> dict[int, ContextualMixture]:
    """The model's mixtures of more than one expert, by block from the first on."""
    found = [module for module in model.modules() if isinstance(module, ContextualMixture) and module.num_experts > 1]
    return {mixture.block_index: mixture for mixture in sorted(found, key=lambda mixture: mixture.block_index)}
