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


def no_question() -> DataError:
    """The fault of a batch that brings a head no question."""
    return DataError(
        "no question reached the head",
        why="its weights depend on the question, and the batch has no context_prompt_ids",
        fix="make the batch with the processor that attach returned",
    )


class ContextPrompt(nn.Module):
    """One embedding of the language model's width."""

    def __init__(self, embeddings: nn.Embedding) -> None:
        """It starts in the middle of the model's own embeddings, with a little noise (ours)."""
        super().__init__()
        table = embeddings.weight.detach()
        self.embedding = nn.Parameter(table.mean(dim=0) + 0.02 * torch.randn_like(table[0]))

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
        # On the right, so that no token before the prompt's sees padding, whatever attention the model computes with.
        embedded = base_model.get_input_embeddings()(nn.functional.pad(ids, (0, 1)))  # type: ignore[operator]
        is_prompt = torch.arange(embedded.shape[1], device=ids.device) == lengths[:, None]
        embedded = torch.where(is_prompt[..., None], self.embedding.to(embedded.dtype), embedded)
        states = language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
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
        # Added, not chosen by: eager attention ignores a mask of truth values.
        dtype = heard.embeddings.dtype
        mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        mask = mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
        prompts = self.embedding.to(dtype).expand(batch, num_turns, -1)
        last = (heard.ends - 1).clamp(min=0)
        positions = heard.positions.expand(*heard.positions.shape[:-2], batch, -1)  # one row may stand for all
        ends = positions.gather(-1, last.expand(*positions.shape[:-1], num_turns)) + 1
        output = language_model(
            inputs_embeds=torch.cat([heard.embeddings, prompts], dim=1),
            attention_mask=mask,
            position_ids=torch.cat([positions, ends], dim=-1),
            use_cache=False,
        )
        return output.last_hidden_state[:, length:]
