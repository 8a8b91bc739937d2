"""QA-ViT: the question joins the vision tower's self-attention (Ganz et al., arXiv 2402.05472).

The paper's letters here: ``e`` is the question's token states, ``r`` the ``rows`` that a block reads
beside its own tokens, ``a`` what attention gives before its output projection, ``W_o`` that projection,
``W'_o`` its copy, ``beta`` the ``gate``. Per block

    r = W_2 GELU(W_1 LN(e)),    output = W_o a + tanh(beta) W'_o a,

with W'_o a copy of W_o and beta = 0. The frozen projections of the block make queries, keys and values of
tokens and rows together, and only the tokens' outputs go on.

Where we depart from the public code: padded rows are hidden from the softmax (there the mask is taken but
never applied), and a text without words becomes one learned null row. The LLaVA setting is not public: ``e``
is whatever the model's text encoder says, with ``language_embeddings`` the language model's own input
embeddings as in the public code, with a BERT its last hidden states.

Done from outside of the tower: a hook before the attention puts the rows behind the prefix tokens (towers
with rotary positions turn the last tokens, the patches), a hook after it takes them away.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from yarbus.core.errors import ConfigError
from yarbus.models.attachment import Attachment, Method, Start
from yarbus.models.slot import ContextSlot
from yarbus.models.vlm import VLM, Layout

KERNELS = ("sdpa", "eager")
"""Implementations of attention that add the mask to the logits."""


class QuestionRows(nn.Module):
    """What one block reads of the question, and the hooks that let its attention read it."""

    def __init__(self, text_dim: int, dim: int, max_tokens: int, prefix_tokens: int, slot: ContextSlot) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        self.prefix_tokens = prefix_tokens
        self.slot = slot
        self.norm = nn.LayerNorm(text_dim)
        self.up = nn.Linear(text_dim, dim, bias=False)
        self.down = nn.Linear(dim, dim, bias=False)
        self.null_row = nn.Parameter(torch.zeros(dim))

    def forward(self) -> tuple[Float[Tensor, "images rows dim"], Bool[Tensor, "images rows"]]:
        """The rows of each image's question, and which of them are real."""
        context = self.slot.read()
        question, images = context.question(), context.tower
        assert images is not None, "the tower ran without images"
        states = question.tokens[:, : self.max_tokens].to(self.up.weight.dtype)
        rows = self.down(F.gelu(self.up(self.norm(states))))
        asked = question.has_question[:, None]
        # Chosen by torch.where, so that the null row has a zero gradient where every text has words, not none.
        rows = torch.where(asked[..., None], rows, self.null_row.to(rows.dtype))
        is_first = torch.arange(rows.shape[1], device=rows.device) == 0
        mask = torch.where(asked, question.mask[:, : self.max_tokens], is_first)
        return rows[images.rows], mask[images.rows]

    def join(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Before the attention: rows behind the prefix tokens, and a mask that hides those of padding."""
        _check_kernel(attention.config)
        assert kwargs.get("attention_mask") is None, "the tower masks tokens of its own"
        tokens = args[0] if args else kwargs["hidden_states"]
        images = self.slot.read().tower
        assert images is not None
        images.check(tokens)
        rows, is_real = self()
        before, patches = tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]
        joint = torch.cat([before, rows.to(tokens.dtype), patches], dim=1)
        # Additive, since eager attention adds its mask and would take a boolean one for numbers.
        hidden = joint.new_zeros(is_real.shape).masked_fill(~is_real, float("-inf"))
        mask = F.pad(hidden, (before.shape[1], patches.shape[1]))[:, None, None]
        kwargs = {**kwargs, "attention_mask": mask}
        if args:
            return (joint, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": joint}

    def part(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Tensor, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """After the attention: the outputs of the tower's own tokens, and their attention weights if there are any."""
        tokens, weights = output
        return self._own(tokens, 1), None if weights is None else self._own(weights, 2)

    def _own(self, joint: Tensor, axis: int) -> Tensor:
        number = min(self.slot.read().question().tokens.shape[1], self.max_tokens)
        patches = joint.shape[axis] - self.prefix_tokens - number
        before, _, after = joint.split([self.prefix_tokens, number, patches], dim=axis)
        return torch.cat([before, after], dim=axis)


class GatedCopy(nn.Module):
    """tanh(beta) W'_o a."""

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.projection = nn.Linear(
            projection.in_features,
            projection.out_features,
            bias=projection.bias is not None,
            device=projection.weight.device,
            dtype=projection.weight.dtype,
        )
        with torch.no_grad():
            self.projection.weight.copy_(projection.weight)
            if projection.bias is not None:
                self.projection.bias.copy_(projection.bias)
        self.gate = nn.Parameter(torch.zeros(1, device=projection.weight.device, dtype=projection.weight.dtype))

    def forward(self, attended: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens out_dim"]:
        return self.gate.tanh() * self.projection(attended)


class TwofoldProjection(nn.Module):
    """The attention's output projection beside its gated copy; the first keeps its tensors under their names."""

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = projection.weight, projection.bias
        self.gated = GatedCopy(projection)

    def forward(self, attended: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens out_dim"]:
        return F.linear(attended, self.weight, self.bias) + self.gated(attended)


def _check_kernel(config: Any) -> None:
    kernel = config._attn_implementation
    if kernel not in KERNELS:
        raise ConfigError(
            f"method 'qavit' does not work with attention '{kernel}'",
            why="it hides padding of the question by a mask, which this implementation does not add",
            fix="load it with attn_implementation='sdpa'",
        )


@dataclass(frozen=True, kw_only=True)
class QAViT(Method):
    """The question's tokens as further keys and values of the later vision blocks.

    Not the identity at the start: the gate is closed, but the rows take their share of the softmax. At the start
    the copied projections have zero gradient (the gate multiplies them by tanh(0)), and the null row has one only in
    batches with a text without words.
    """

    name: ClassVar[str] = "qavit"
    places: ClassVar[tuple[str, ...]] = ("vision",)
    start: ClassVar[Start] = "changes"
    layouts: ClassVar[tuple[Layout, ...]] = ("images tokens dim",)
    silent: ClassVar[tuple[str, ...]] = ("gated.projection.", "null_row")
    mute: ClassVar[tuple[str, ...]] = ("null_row",)
    reasons: ClassVar[Mapping[str, str]] = {
        "gated.projection.": "its gate starts closed",
        "null_row": "only a question without words reads it",
    }
    paper: ClassVar[str] = "arXiv:2402.05472"

    first_block: Annotated[int, Ge(0)] | None = None
    """First block that reads the question; None is the middle of *all* blocks (12 of 24, ``late`` in the code)."""
    last_block: Annotated[int, Ge(0)] | None = None
    """Last block that does; None is the last one executed (22 in LLaVA-1.5)."""
    max_tokens: Annotated[int, Ge(1)] = 64
    """Most tokens of the question (ours; 30 in the public code); what is longer is cut at the end."""

    def groups(self, place: str) -> tuple[str, ...]:
        return ("vision_new",)

    @property
    def reads_question(self) -> bool:
        return True

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        _check_kernel(vlm.config.vision_config)
        first = len(vlm.blocks()) // 2 if self.first_block is None else self.first_block
        text_dim, tower = vlm.base_model.context_encoder.dim, vlm.tower
        for block in vlm.executed_blocks(first, self.last_block).values():
            attention = block.get_submodule(tower.attention_module)
            _check_mask(attention)
            projection = block.get_submodule(tower.attention[-1])
            like = projection.weight
            with like.device:
                rows = QuestionRows(text_dim, vlm.vision_dim, self.max_tokens, tower.prefix_tokens, attachment.slot)
            twofold = TwofoldProjection(projection)
            attachment.insert(vlm, attention, "question_rows", rows.to(like.dtype))
            attachment.before(vlm, attention, rows.join)
            attachment.after(vlm, attention, rows.part)
            attachment.replace(vlm, block, tower.attention[-1], twofold, new=("gated",))
            attachment.train([*rows.parameters(), *twofold.gated.parameters()], group="vision_new")


def _check_mask(attention: nn.Module) -> None:
    if "attention_mask" not in inspect.signature(attention.forward).parameters:
        raise ConfigError(
            f"method 'qavit' does not work on {type(attention).__name__}",
            why="its forward takes no attention_mask, which has to hide padding of the question",
            fix="use a newer transformers, or another method",
        )
