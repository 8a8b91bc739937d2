"""A learnable token behind the question: its last hidden state says what the question is about (CARPE, section 3.1).

``text_only`` runs the language model once more over what the user said up to a turn, without pictures: the state then
depends on text alone, bit for bit. ``masked`` and ``joint`` are for ablation: the token stands behind the question in
the whole sequence, and may look at everything (``joint``) or at text alone (``masked``), whose states have seen the
picture all the same.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from yarbus.core.errors import DataError
from yarbus.methods.integrator import Places
from yarbus.models.slot import Context

WORDS_AT_ONCE = 16_384
"""Embeddings that are looked up in one piece, for a mean over all of them."""


@dataclass(frozen=True)
class SequenceInputs:
    """The sequence that went into the language model."""

    embeddings: Float[Tensor, "batch tokens dim"]
    positions: Int[Tensor, "*axes rows tokens"]
    is_there: Bool[Tensor, "batch tokens"]
    """False at padding."""
    is_text: Bool[Tensor, "batch tokens"]
    """False at padding and images."""
    ends: Int[Tensor, "batch turns"]
    """Column behind each turn's question."""


def _added(allowed: Bool[Tensor, "*axes"], dtype: torch.dtype) -> Float[Tensor, "*axes"]:
    """A mask to add, not to choose by: eager attention ignores one of truth values."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


def no_question() -> DataError:
    """The fault of a batch that brings a head no question."""
    return DataError(
        "no question reached the head",
        why="its weights depend on the question, and the batch has no context_prompt_ids",
        fix="make the batch with the processor that attach returned",
    )


def looks_both_ways(language_model: nn.Module) -> bool:
    """Whether tokens of text look at those behind them, as PaliGemma's do: padding must then be hidden from them."""
    return bool(getattr(language_model.config, "use_bidirectional_attention", False))


@torch.no_grad()
def middle_of(embeddings: nn.Embedding) -> Float[Tensor, " dim"]:
    """The mean of a model's embeddings as they go in: some tables are scaled when they are looked up."""
    table = embeddings.weight
    words = torch.arange(len(table), device=table.device).split(WORDS_AT_ONCE)
    total = sum(embeddings(some).sum(dim=0, dtype=torch.float32) for some in words)
    return (total / len(table)).to(table.dtype)  # type: ignore[union-attr]


class ContextPrompt(nn.Module):
    """One embedding of the language model's width."""

    def __init__(self, embeddings: nn.Embedding) -> None:
        """It starts in the middle of the model's own embeddings, with a little noise (ours)."""
        super().__init__()
        middle = middle_of(embeddings)
        self.embedding = nn.Parameter(middle + 0.02 * torch.randn_like(middle))

    def after_text(
        self, base_model: nn.Module, language_model: nn.Module, context: Context
    ) -> Float[Tensor, "batch turns dim"]:
        """The state behind each turn's text alone; a text that several rows share runs once."""
        if context.prompt_ids is None or context.prompt_mask is None:
            raise no_question()
        shape = context.prompt_ids.shape[:2]
        mask = context.prompt_mask.flatten(0, 1).bool()
        ids = context.prompt_ids.flatten(0, 1) * mask
        both, inverse = torch.cat([ids, mask.to(ids.dtype)], dim=1).unique(dim=0, return_inverse=True)
        ids, mask = both[:, : ids.shape[1]], both[:, ids.shape[1] :].bool()
        places = Places.of(mask)
        ids, lengths = ids.gather(1, places.index), places.mask.sum(dim=1)
        # On the right, so that no token before the prompt's sees padding where attention is causal.
        embedded = base_model.get_input_embeddings()(nn.functional.pad(ids, (0, 1)))  # type: ignore[operator]
        columns = torch.arange(embedded.shape[1], device=ids.device)
        is_prompt = columns == lengths[:, None]
        embedded = torch.where(is_prompt[..., None], self.embedding.to(embedded.dtype), embedded)
        mask = None
        if looks_both_ways(language_model):  # such a model makes of a mask of two axes what none would be
            seen = (columns <= lengths[:, None])[:, None, None].expand(-1, 1, len(columns), -1)
            mask = _added(seen, embedded.dtype)
        states = language_model(inputs_embeds=embedded, attention_mask=mask, use_cache=False).last_hidden_state
        return states[is_prompt][inverse].unflatten(0, shape)

    def in_sequence(
        self, language_model: nn.Module, heard: SequenceInputs, sees_image: bool
    ) -> Float[Tensor, "batch turns dim"]:
        """The state behind each turn's question in the whole sequence."""
        batch, length, _ = heard.embeddings.shape
        num_turns = heard.ends.shape[1]
        columns = torch.arange(length, device=heard.ends.device)
        before = heard.is_there[:, None] & (columns < heard.ends[..., None])  # [batch, turns, length]
        if not sees_image:
            before = before & heard.is_text[:, None]
        causal = (columns[:, None] >= columns) & heard.is_there[:, None]
        allowed = torch.zeros(batch, length + num_turns, length + num_turns, dtype=torch.bool, device=before.device)
        allowed[:, :length, :length], allowed[:, length:, :length] = causal, before
        allowed |= torch.eye(length + num_turns, dtype=torch.bool, device=before.device)
        dtype = heard.embeddings.dtype
        prompts = self.embedding.to(dtype).expand(batch, num_turns, -1)
        last = (heard.ends - 1).clamp(min=0)
        positions = heard.positions.expand(*heard.positions.shape[:-2], batch, -1)  # one row may stand for all
        ends = positions.gather(-1, last.expand(*positions.shape[:-1], num_turns)) + 1
        output = language_model(
            inputs_embeds=torch.cat([heard.embeddings, prompts], dim=1),
            attention_mask=_added(allowed[:, None], dtype),
            position_ids=torch.cat([positions, ends], dim=-1),
            use_cache=False,
        )
        return output.last_hidden_state[:, length:]
