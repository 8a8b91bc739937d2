"""Q-MoE: a query-based connector whose experts the question chooses (Wang et al., ACM MM 2024).

No code is public; the abstract confirms queries, a mixture of experts inside the connector, routing by
text, and training along an "optimal path". Everything else is ours (methods.md 5.2). Letters: ``t`` is
the pooled ``question``, ``E`` ``num_experts``; a ``path`` is one expert per layer, ``[rows, layers]``.
Ours as well: blocks are pre-norm with GELU, the tower's features pass one LayerNorm, and keys have no
bias (it cancels in the softmax). Of the two paths tried for each row, one is the router's, one is drawn
from its weights. The router is pulled where the drawn one was better, and only there: pulled to its own
path as well, whose share is the largest from the start, it hardly ever leaves it, even in a landscape
without noise.

The output of an expert is not scaled by its routing weight, and ``argmax`` has no gradient: the router
learns from the added cross-entropy alone, which comes with a searched path. Without ``Guarded`` (or
before ``random_share`` of the steps) its gradient is zero.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from yarbus.core.errors import ConfigError
from yarbus.methods.auxiliary import add_loss
from yarbus.methods.experts import jitter
from yarbus.models.attachment import Attachment, Fidelity, Method, Start
from yarbus.models.context import context_of
from yarbus.models.observe import evaluating
from yarbus.models.slot import Context, ContextSlot
from yarbus.models.vlm import VLM

IGNORED = -100


class Attention(nn.Module):
    """Multi-head attention of queries over another sequence, or over themselves."""

    def __init__(self, dim: int, source_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(source_dim, dim, bias=False)
        self.value = nn.Linear(source_dim, dim)
        self.output = nn.Linear(dim, dim)

    def forward(
        self, queries: Float[Tensor, "images queries dim"], source: Float[Tensor, "images tokens source_dim"]
    ) -> Float[Tensor, "images queries dim"]:
        parts = (self.query(queries), self.key(source), self.value(source))
        heads = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        return self.output(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class RoutedFeedForward(nn.Module):
    """Copies of one feed-forward network, of which each image takes one."""

    def __init__(self, dim: int, num_experts: int, expert_jitter: float) -> None:
        super().__init__()
        up, down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        # Stacked: an expert that no image of a batch takes has a zero gradient, not none at all.
        self.up_weight, self.up_bias, self.down_weight, self.down_bias = (
            nn.Parameter(torch.stack([tensor.detach()] * num_experts))
            for tensor in (up.weight, up.bias, down.weight, down.bias)
        )
        jitter(self.down_weight, expert_jitter)

    def forward(
        self, tokens: Float[Tensor, "images queries dim"], experts: Sequence[int]
    ) -> Float[Tensor, "images queries dim"]:
        """``experts``: the one that each image takes."""
        networks = zip(
            *(p.unbind() for p in (self.up_weight, self.up_bias, self.down_weight, self.down_bias)), strict=True
        )
        order: list[int] = []
        parts: list[Tensor] = []
        for expert, (up, up_bias, down, down_bias) in enumerate(networks):
            images = [image for image, chosen in enumerate(experts) if chosen == expert]
            if images:
                parts.append(F.linear(F.gelu(F.linear(tokens[images], up, up_bias)), down, down_bias))
                order += images
        places = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(parts)[places]


class QueryBlock(nn.Module):
    """Queries look at one another, at the image, and pass the expert that their question chose."""

    def __init__(self, method: "QMoE", vision_dim: int) -> None:
        super().__init__()
        dim = method.width
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.self_attention = Attention(dim, dim, method.num_heads)
        self.cross_attention = Attention(dim, vision_dim, method.num_heads)
        self.feed_forward = RoutedFeedForward(dim, method.num_experts, method.expert_jitter)

    def forward(
        self,
        queries: Float[Tensor, "images queries dim"],
        features: Float[Tensor, "images tokens vision_dim"],
        experts: Sequence[int],
    ) -> Float[Tensor, "images queries dim"]:
        normed = self.norms[0](queries)
        queries = queries + self.self_attention(normed, normed)
        queries = queries + self.cross_attention(self.norms[1](queries), features)
        return queries + self.feed_forward(self.norms[2](queries), experts)


@dataclass(frozen=True)
class PreparedPath:
    """The path that one micro-batch trains on."""

    question: Tensor
    """[rows, text_dim] by which its forward is known: any other forward takes the router's path."""
    path: Tensor
    """[rows, layers]"""
    pull: Tensor
    """[rows] weight of the cross-entropy that pulls the router to it; 0 where the router's path is no worse."""


class QueryConnector(nn.Module):
    """``num_queries`` tokens per image for the language model, along a path of experts that the question chooses."""

    def __init__(self, method: "QMoE", num_queries: int, dims: tuple[int, int, int], slot: ContextSlot) -> None:
        """``dims``: of the tower's features, the text encoder and the language model."""
        super().__init__()
        vision_dim, text_dim, language_dim = dims
        self.method = method
        self.slot = slot
        self.queries = nn.Parameter(torch.empty(num_queries, method.width))
        nn.init.normal_(self.queries, std=0.02)
        self.feature_norm = nn.LayerNorm(vision_dim)
        self.blocks = nn.ModuleList(QueryBlock(method, vision_dim) for _ in range(method.num_layers))
        # One router per layer, stacked; all of them read the question alone, so that a path is known beforehand.
        self.router = nn.Linear(text_dim, method.num_layers * method.num_experts, bias=False)
        self.output = nn.Linear(method.width, language_dim)
        self.norm = nn.LayerNorm(language_dim)
        self.register_buffer("num_searches", torch.zeros((), dtype=torch.long))
        """Micro-batches whose path was searched; saved, so that a later stage goes on searching."""
        self.prepared: PreparedPath | None = None
        self.tried: Tensor | None = None
        """[rows, layers] the path that is being tried, during the search."""

    def routing_logits(self, question: Float[Tensor, "rows text_dim"]) -> Float[Tensor, "rows layers experts"]:
        """Before the softmax; always in fp32."""
        with torch.autocast(question.device.type, enabled=False):
            logits = F.linear(question.float(), self.router.weight.float())
        return logits.unflatten(-1, (self.method.num_layers, self.method.num_experts))

    def forward(
        self, features: Float[Tensor, "images tokens vision_dim"]
    ) -> Float[Tensor, "images queries language_dim"]:
        context = self.slot.read()
        images = context.projector
        assert images is not None, "the projector ran without images"
        images.check(features)
        logits = self.routing_logits(context.question().pooled)
        path, pull = self._path(context, logits)
        chosen = path[images.rows].T.tolist()  # [layers][images]
        queries = self.queries.expand(len(features), -1, -1)
        features = self.feature_norm(features)
        for block, experts in zip(self.blocks, chosen, strict=True):
            queries = block(queries, features, experts)
        tokens = self.norm(self.output(queries))
        if not self.training or not torch.is_grad_enabled():
            return tokens
        rows = images.rows.unique()  # a row without a picture took no path
        loss = F.cross_entropy(logits[rows].transpose(1, 2), path[rows], reduction="none").mean(dim=1)
        return add_loss(tokens, (pull[rows] * loss).mean(), self.slot.loss_scale)

    def _path(self, context: Context, logits: Tensor) -> tuple[Int[Tensor, "rows layers"], Float[Tensor, " rows"]]:
        """The path of this forward and its pull on the router; a recomputation takes the same."""
        notes = context.notes
        if ("path", 0) not in notes:
            question, prepared = context.question().pooled, self.prepared if self.training else None
            path, pull = logits.argmax(dim=-1), logits.new_zeros(len(logits))
            if self.tried is not None:
                path = self.tried
            elif prepared is not None and torch.equal(prepared.question, question):
                path, pull = prepared.path, prepared.pull
            notes["path", 0], notes["pull", 0] = path, pull
        return notes["path", 0], notes["pull", 0]

    def prepare(self, model: nn.Module, inputs: Mapping[str, Any], progress: float) -> None:
        """Settles the path of the micro-batch: a random one at first, later the better of two for each row.

        Once paths have been searched, no later stage begins with random ones; a frozen connector takes the router's.
        """
        self.prepared = None
        if inputs.get("pixel_values") is None or not self.router.weight.requires_grad:
            return
        context = context_of(model.base_model, inputs["input_ids"], inputs, inputs)
        question = context.question().pooled
        logits = self.routing_logits(question)
        if progress < self.method.random_share and not self.num_searches:
            path = torch.randint(self.method.num_experts, logits.shape[:-1]).to(logits.device)
            self.prepared = PreparedPath(question, path, logits.new_zeros(len(logits)))
            return
        routed = logits.argmax(dim=-1)
        # Drawn on the CPU, whose generator is part of every checkpoint: a resumed run draws the same.
        drawn = torch.multinomial(logits.softmax(dim=-1).flatten(0, 1).cpu(), 1).view_as(routed).to(routed.device)
        losses = [self._losses(model, inputs, path) for path in (routed, drawn)]
        is_better = (losses[1] < losses[0]).repeat_interleave(context.num_turns)
        path = torch.where(is_better[:, None], drawn, routed)
        self.num_searches += 1
        self.prepared = PreparedPath(question, path, self.method.router_weight * is_better)

    def _losses(self, model: nn.Module, inputs: Mapping[str, Any], path: Tensor) -> Float[Tensor, " batch"]:
        """Each row's mean cross-entropy along a path, with dropout off."""
        labels = inputs["labels"][:, 1:]
        is_answer = labels != IGNORED
        positions = is_answer.any(dim=0).nonzero()[:, 0]
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        with self._trying(path), evaluating(model):
            logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits
        losses = F.cross_entropy(logits.float().transpose(1, 2), labels[:, positions], reduction="none")
        return losses.sum(dim=1) / is_answer.sum(dim=1).clamp(min=1)

    @contextmanager
    def _trying(self, path: Tensor) -> Iterator[None]:
        self.tried = path
        try:
            yield
        finally:
            self.tried = None


@dataclass(frozen=True, kw_only=True)
class QMoE(Method):
    """A query-based connector with experts chosen by the question; it replaces the projector wholly.

    The language model sees ``num_queries`` tokens per image instead of 576: say so beside any comparison of speed.
    The router's gradient is zero until paths are searched (``Guarded`` does that in training). The search costs two
    more forward passes per micro-batch, without gradient.
    """

    name: ClassVar[str] = "qmoe"
    places: ClassVar[tuple[str, ...]] = ("projector",)
    start: ClassVar[Start] = "changes"
    """A new connector that has seen nothing: it needs a stage of its own before the language model trains with it."""
    silent: ClassVar[tuple[str, ...]] = ("router.",)
    mute: ClassVar[tuple[str, ...]] = ("router.",)
    reasons: ClassVar[Mapping[str, str]] = {"router.": "only a searched path pulls the router, and only a better one"}
    paper: ClassVar[str] = "Q-MoE: Connector for MLLMs with Text-Driven Routing, ACM MM 2024"
    fidelity: ClassVar[Fidelity] = "low"

    num_queries: Annotated[int, Ge(1)] | None = 144
    """Tokens per image (ours). None: as many as the projector gave, so that prompts stay as long as they were."""
    width: Annotated[int, Ge(1)] = 768
    """Width of the queries (ours)."""
    num_layers: Annotated[int, Ge(1)] = 6
    """Layers of self-attention, cross-attention and experts (ours)."""
    num_heads: Annotated[int, Ge(1)] = 12
    """Heads of both attentions (ours)."""
    num_experts: Annotated[int, Ge(1)] = 4
    """Experts per layer, of which a row takes one (ours)."""
    expert_jitter: Annotated[float, Ge(0)] = 1e-3
    """Relative noise on the experts' last weights, cancelling in their mean (ours): they start as copies."""
    random_share: Annotated[float, Ge(0), Le(1)] = 0.3
    """Share of the stage's steps whose paths are random, each as likely as any other (ours)."""
    router_weight: Annotated[float, Ge(0)] = 0.1
    """Weight of the cross-entropy that pulls the router to a better path than its own (ours)."""

    def groups(self, place: str) -> tuple[str, ...]:
        return (place,)

    @property
    def reads_question(self) -> bool:
        return True

    @property
    def reads_question_tokens(self) -> bool:
        return False

    @property
    def depends_on_micro_batch(self) -> bool:
        return True

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        given = vlm.image_tokens
        if given is None:
            raise ConfigError(
                f"method '{self.name}' does not work on {vlm.family.config}",
                why="its projector must give what the picture's size says: the language model's positions follow it",
                fix="choose another projector method for this family",
            )
        if self.width % self.num_heads:
            raise ConfigError(
                f"width {self.width} is not divisible by num_heads {self.num_heads}", fix="choose a divisor"
            )
        text_dim = vlm.base_model.context_encoder.dim
        num_queries = self.num_queries or given
        like = next(vlm.projector.parameters())
        with like.device:
            connector = QueryConnector(
                self, num_queries, (vlm.feature_dim, text_dim, vlm.language_dim), attachment.slot
            )
        attachment.replace(vlm, vlm.base_model, vlm.family.projector, connector.to(like.dtype))
        attachment.train(list(connector.parameters()), group=place)
        attachment.preparations.append(connector.prepare)
        attachment.image_tokens = num_queries
