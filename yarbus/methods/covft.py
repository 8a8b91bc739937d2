"""CoVFT: context-aware visual fine-tuning (arXiv 2603.21077), Sec. 3.3 and 3.4.

The paper's letters here: ``x`` is ``tokens`` (input of a block's feed-forward network), ``c`` the context
(``methods.contexts``), ``g`` the ``routing_weights``. Where we depart: in the CVE keys see the image half only and
have no bias (the text half and the bias cancel in the softmax, exactly), and one query is pooled without materialising
keys or values over tokens. ``merged`` routing, ``expert_jitter``, ``temperature`` and the losses of sparse routing are
ours; of sparse and random routing the paper has the names, methods.md 4.7 the rest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import sqrt
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from yarbus.core.errors import ConfigError, DataError
from yarbus.methods.auxiliary import add_loss, router_losses
from yarbus.methods.contexts import ConcatContext, ContextVectorExtractor, ImageContext, TextContext
from yarbus.methods.experts import draw, jitter
from yarbus.methods.hidden import down_from
from yarbus.models.attachment import Attachment, Method, Start
from yarbus.models.images import ImageMap
from yarbus.models.sketch import key_of
from yarbus.models.slot import Context, ContextSlot
from yarbus.models.vlm import VLM

Routing = Literal["dense", "sparse", "uniform", "random", "merged"]
ContextKind = Literal["cve", "image", "text", "concat"]
Extractor = ConcatContext | ContextVectorExtractor | ImageContext | TextContext


class ContextualMixture(nn.Module):
    """Copies of one feed-forward network, blended per image by what the question asks (Eq. 8-10).

    The experts are stored stacked, each kind of tensor as one, and run one after another: neither all experts' outputs
    nor all their hidden units are there at once, and of the hidden units only the activation's input is kept.
    """

    def __init__(
        self, linears: list[nn.Linear], method: "CoVFT", vlm: VLM, text_dim: int, slot: ContextSlot, block: int
    ):
        super().__init__()
        *inputs, down = linears
        self.method = method
        self.num_experts = method.num_experts
        self.routing = method.routing
        self.block_index = block
        self.key = key_of("experts", str(method.routing_seed), str(block))
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
            self.extractor: Extractor | None = None
            self.router: nn.Linear | None = None
            if method.routes:
                self.extractor = method.extractor(vlm, text_dim).to(like.dtype)
                self.router = nn.Linear(self.extractor.dim, method.num_experts, dtype=like.dtype)
                nn.init.xavier_uniform_(self.router.weight)
                nn.init.zeros_(self.router.bias)
        jitter(self.down_weight, method.expert_jitter, at=1)

    def _stack(self, weight: Tensor, at: int = 0) -> Tensor:
        return torch.stack([weight.detach()] * self.num_experts, dim=at)

    def _stack_bias(self, linear: nn.Linear) -> nn.Parameter | None:
        return None if linear.bias is None else nn.Parameter(self._stack(linear.bias))

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
        tokens = images.strip(tokens)
        if self.num_experts > 1 and self.routing == "random":
            return self._drawn_weights(tokens, context), images
        if self.extractor is None or self.router is None:
            return self._equal_weights(tokens, images), images
        question = context.pooled_by_image().to(tokens.dtype) if self.extractor.reads_question else None
        vector, gaze = self.extractor(tokens, question, images)
        with torch.autocast(tokens.device.type, enabled=False):
            logits = F.linear(vector.float(), self.router.weight.float(), self.router.bias.float())
            logits = logits / self.method.temperature
            weights = self._sparse_weights(logits, context) if self.routing == "sparse" else logits.softmax(dim=-1)
        if self.slot.recorder is not None:
            self.slot.record("context", self.block_index, vector)
            self.slot.record("routing_weights", self.block_index, weights)
            if gaze is not None:
                self.slot.record("gaze", self.block_index, gaze)
        return weights, images

    def _equal_weights(self, tokens: Tensor, images: ImageMap) -> Float[Tensor, "images experts"]:
        return tokens.new_full((len(images.rows), self.num_experts), 1 / self.num_experts)

    def _drawn_weights(self, tokens: Tensor, context: Context) -> Float[Tensor, "images experts"]:
        """1 / top_k for experts drawn at random, 0 for the others."""
        assert context.tower is not None
        if self.method.test_average and not self.training:
            return self._equal_weights(tokens, context.tower)
        if context.image_keys is None:
            raise DataError(
                "no key for random routing",
                why="inputs_embeds hold no tokens",
                fix="pass context_row_key, or input_ids",
            )
        top_k = self.method.top_k
        chosen = draw(context.image_keys, self.key, self.num_experts, top_k)
        weights = torch.zeros(len(chosen), self.num_experts, device=tokens.device).scatter(1, chosen, 1 / top_k)
        self.slot.record("routing_weights", self.block_index, weights)
        return weights

    def _sparse_weights(self, logits: Float[Tensor, "images experts"], context: Context) -> Tensor:
        """Softmax over the ``top_k`` largest logits; in training its gradient brings the router's own losses."""
        method = self.method
        chosen = logits.topk(method.top_k, dim=-1).indices
        is_chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, chosen, True)
        weights = logits.masked_fill(~is_chosen, float("-inf")).softmax(dim=-1)
        if not method.has_losses or not self.training or not (torch.is_grad_enabled() or context.has_gradient):
            return weights
        balance, z_loss = router_losses(logits, chosen, context, self.block_index)
        self.slot.record("balance_loss", self.block_index, balance)
        self.slot.record("z_loss", self.block_index, z_loss)
        return add_loss(weights, method.balance_loss * balance + method.z_loss * z_loss, self.slot.loss_scale)

    def forward(self, tokens: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens dim"]:
        weights, images = self.routing_weights(tokens)
        own, weights = images.strip(tokens), weights.to(tokens.dtype)
        if self.num_experts > 1 and self.routing == "merged":
            return self.merge(own, weights, images).view_as(tokens)
        mix = self.select if self.selects else self.blend
        output = mix(own, weights, images)
        if self.down_bias is not None:
            output = output + images.spread(weights @ self.down_bias)
        return output.view_as(tokens)

    @property
    def selects(self) -> bool:
        """Whether an image runs through ``top_k`` of the experts alone."""
        averages = self.routing == "random" and self.method.test_average and not self.training
        return self.num_experts > 1 and self.routing in ("sparse", "random") and not averages

    def blend(self, tokens: Tensor, weights: Tensor, images: ImageMap) -> Tensor:
        """Sum of the experts' outputs by weight (Eq. 10), before the last bias."""
        output: Tensor | None = None
        for share, *expert in zip(images.spread(weights).split(1, dim=-1), *self._by_expert(), strict=True):
            part = self._run(tokens, share, *expert)
            output = part if output is None else output + part
        assert output is not None
        return output

    def select(self, tokens: Tensor, weights: Tensor, images: ImageMap) -> Tensor:
        """``blend`` where ``top_k`` weights per image are not zero: each expert runs on its own images alone."""
        top_k = self.method.top_k
        # By row of the tokens: an image, or a token where images are packed.
        shares, chosen = images.spread(weights).flatten(end_dim=-2).topk(top_k, dim=-1)
        order = chosen.flatten().argsort(stable=True)
        sizes = chosen.flatten().bincount(minlength=self.num_experts).tolist()
        shares = shares.flatten()[order].view(-1, *[1] * (tokens.ndim - 1))
        rows = (order // top_k).split(sizes)
        parts = [
            self._run(tokens.index_select(0, own), share, *expert)
            for own, share, *expert in zip(rows, shares.split(sizes), *self._by_expert(), strict=True)
        ]
        return torch.cat(parts).index_select(0, order.argsort()).unflatten(0, (len(chosen), top_k)).sum(dim=1)

    def _by_expert(self) -> Iterable[Iterable[Tensor | None]]:
        """The last arguments of ``_run``, each as one tensor per expert."""
        for parameter in (self.down_weight, self.up_weight, self.up_bias, self.gate_weight, self.gate_bias):
            axis = 1 if parameter is self.down_weight else 0
            yield [None] * self.num_experts if parameter is None else parameter.unbind(axis)

    def _run(
        self,
        tokens: Tensor,
        share: Tensor,
        down: Tensor,
        up: Tensor,
        up_bias: Tensor | None,
        gate: Tensor | None,
        gate_bias: Tensor | None,
    ) -> Tensor:
        """One expert's output, times its share."""
        inputs = [F.linear(tokens, up, up_bias)]
        if gate is not None:
            inputs.append(F.linear(tokens, gate, gate_bias))
        return down_from(self.activation, down, share.to(inputs[0].dtype), *inputs)

    def merge(self, tokens: Tensor, weights: Tensor, images: ImageMap) -> Tensor:
        """One network per image, its weights the average of the experts' by routing weight (ours)."""

        def average(parameter: Tensor) -> Tensor:  # under autocast tokens, and so weights, may be bf16
            return torch.tensordot(weights.to(parameter.dtype), parameter, dims=1)

        def into(weight: Tensor, bias: Tensor | None) -> Tensor:
            return images.linear(tokens, average(weight), None if bias is None else average(bias))

        hidden = into(self.up_weight, self.up_bias)
        if self.gate_weight is None:
            hidden = self.activation(hidden)
        else:
            hidden = self.activation(into(self.gate_weight, self.gate_bias)) * hidden
        down = torch.einsum("ie,deh->idh", weights, self.down_weight)
        return images.linear(hidden, down, None if self.down_bias is None else average(self.down_bias))


@dataclass(frozen=True, kw_only=True)
class CoVFT(Method):
    """Context-aware mixture of experts in the later vision blocks (Sec. 3.3-3.4)."""

    name: ClassVar[str] = "covft"
    places: ClassVar[tuple[str, ...]] = ("vision",)
    start: ClassVar[Start] = "rounding"
    """Experts start as copies and their weights sum to 1. With ``expert_jitter`` outputs move by its size."""
    silent: ClassVar[tuple[str, ...]] = (".extractor.", ".router.")
    """Identical experts give the router and what feeds it no gradient (methods.md 4.5)."""
    reasons: ClassVar[Mapping[str, str]] = dict.fromkeys(
        silent, "experts start as copies: which one is chosen is alike"
    )
    paper: ClassVar[str] = "arXiv:2603.21077"

    context: ContextKind = "cve"
    """What routes: ``cve`` (question and image, Eq. 6-8), or of Table 2 ``text`` (the question alone), ``image`` (the
    mean token alone; reads no question) and ``concat`` (both side by side)."""
    routing: Routing = "dense"
    """``dense`` (Eq. 10), ``uniform`` (1/E each, Table 2), ``sparse`` (the ``top_k`` largest, Table 2), ``random``
    (``top_k`` drawn anew for each image, block and visit, 1/k each, Table 2), or ``merged`` (ours): one network of
    averaged weights."""
    num_experts: Annotated[int, Ge(1)] = 4
    """Expert networks per block (Table 5). 1 is the control: the same tensors tuned without a mixture or router."""
    top_k: Annotated[int, Ge(1)] = 2
    """Experts of an image in sparse and random routing (Table 2). Sparse with 1: its weight is always 1, so that only
    the router's own losses reach the router."""
    first_block: Annotated[int, Ge(0)] | None = None
    """First block replaced; None is the middle of the executed blocks (11 of 0-22 in LLaVA-1.5, Table 4)."""
    last_block: Annotated[int, Ge(0)] | None = None
    """Last block replaced; None is the last one executed."""
    context_dim: Annotated[int, Ge(1)] = 768
    """Width of the question in the context; where the text encoder's differs, one Linear per block goes between."""
    num_heads: Annotated[int, Ge(1)] = 4
    """Heads of the CVE's attention (official code)."""
    activation: str | None = "gelu"
    """Of the CVE's residual blocks: GELU in the paper, ``quick_gelu`` in the official code, None is the tower's."""
    expert_jitter: Annotated[float, Ge(0)] = 0.0
    """Relative noise on the experts' last weights, cancelling in their mean. Without it identical experts give
    router and context exactly zero gradient at the start (methods.md 4.5)."""
    layernorm: Literal["all", "from_start", "none"] = "all"
    """Whose LayerNorms train: those of all blocks (official code), from the first replaced block on, or none."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Divides the router's logits (ours): below 1 it chooses more sharply."""
    balance_loss: Annotated[float, Ge(0)] = 0.0
    """Coefficient of sparse routing's load balance loss E sum f P per block; the paper names none (methods.md 4.7)."""
    z_loss: Annotated[float, Ge(0)] = 0.0
    """Coefficient of sparse routing's mean squared log-sum-exp of the logits per block (ours)."""
    test_average: bool = False
    """Random routing: average all experts at test instead of drawing there too."""
    routing_seed: int = 0
    """Random routing: another seed draws other experts for the same rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.routing in ("sparse", "random") and 1 < self.num_experts < self.top_k:
            raise ConfigError(
                f"top_k {self.top_k} of {self.num_experts} experts", fix="choose a top_k of at most num_experts"
            )

    @classmethod
    def preset(cls, name: Literal["paper", "official", "ours"], **changes: object) -> "CoVFT":
        """The method as the paper says, as the official code does, or as we recommend."""
        presets: dict[str, dict[str, object]] = {
            "paper": {},
            "official": {"activation": "quick_gelu"},
            "ours": {"activation": None, "expert_jitter": 1e-3, "balance_loss": 0.01, "z_loss": 0.001},
        }
        if name not in presets:
            raise ConfigError(f"unknown preset '{name}' of covft", fix=f"use one of: {', '.join(presets)}")
        return replace(cls(**presets[name]), **changes)  # type: ignore[arg-type]

    @property
    def routes(self) -> bool:
        """Whether a router has to choose among experts."""
        return self.num_experts > 1 and self.routing not in ("uniform", "random")

    @property
    def reads_question(self) -> bool:
        return self.routes and self.context != "image"

    @property
    def reads_question_tokens(self) -> bool:
        return False

    @property
    def draws_at_random(self) -> bool:
        return self.num_experts > 1 and self.routing == "random"

    @property
    def has_losses(self) -> bool:
        """Whether routers bring losses of their own."""
        return self.routes and self.routing == "sparse" and bool(self.balance_loss or self.z_loss)

    @property
    def depends_on_micro_batch(self) -> bool:
        return self.has_losses

    def groups(self, place: str) -> tuple[str, ...]:
        norms = () if self.layernorm == "none" else ("vision",)
        return (*norms, "vision_new", *(("router",) if self.routes else ()))

    def extractor(self, vlm: VLM, text_dim: int) -> Extractor:
        """The module that makes the context of one block."""
        if self.context == "text":
            return TextContext(text_dim, self.context_dim)
        if self.context == "image":
            return ImageContext(vlm.vision_dim)
        if self.context == "concat":
            return ConcatContext(vlm.vision_dim, text_dim, self.context_dim)
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
            if isinstance(mixture.extractor, ContextVectorExtractor):
                attachment.drop(vlm, place, mixture, "router", mixture.extractor.num_dead)


def mixtures_of(model: nn.Module) -> dict[int, ContextualMixture]:
    """The model's mixtures of more than one expert, by block from the first on."""
    found = [module for module in model.modules() if isinstance(module, ContextualMixture) and module.num_experts > 1]
    return {mixture.block_index: mixture for mixture in sorted(found, key=lambda mixture: mixture.block_index)}
