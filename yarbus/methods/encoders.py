"""Several vision encoders behind one head, of which the question chooses one (CARPE-MoE, section 3.1; methods.md 6.7).

The router reads the state of the context prompt: text alone. It takes one encoder for a row, of highest probability p.
The encoder's features are multiplied by p / stopgrad(p): a factor of 1 that brings the router its gradient. One adapter
per encoder, one integrator for all. What the paper leaves open is ours: this gradient, the loss that balances the
encoders, one choice per row (by its last question), and that all draw alike while the prompt is frozen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from yarbus.core.errors import DataError
from yarbus.methods.auxiliary import add_loss, no_images, router_losses
from yarbus.methods.experts import draw
from yarbus.models.encoder_inputs import CHOICE, COUNTS, FEATURES, MASK, PIXELS, STATES, EncoderInputs
from yarbus.models.encoders import BASE, VisionEncoder, encoders_of
from yarbus.models.images import ImageMap
from yarbus.models.sketch import key_of
from yarbus.models.slot import Context, ContextSlot
from yarbus.models.vlm import VLM

ROUTED_GROUP = "router"
"""The group of the prompt and the router: while its rate is 0 encoders are drawn."""
_DRAW = key_of("vision encoders")
_BLOCK = -1
"""Stands for the head among the blocks whose routers share a loss over processes."""


def raw_adapter(features: int, dim: int, like: Tensor) -> nn.Sequential:
    """Two linear layers from an encoder's width to the language model's."""
    with like.device:
        return nn.Sequential(nn.Linear(features, dim), nn.GELU(), nn.Linear(dim, dim)).to(like.dtype)


@dataclass(frozen=True)
class Choice:
    """Which encoder each row looks through."""

    index: Int[Tensor, " batch"]
    """Its number; -1 for rows without a picture."""
    scale: Float[Tensor, " batch"]
    """1, with the router's gradient."""

    def rows(self, number: int) -> Int[Tensor, " chosen"]:
        """The rows that chose one encoder."""
        return (self.index == number).nonzero()[:, 0]


@dataclass(frozen=True)
class Seen:
    """Adapted features of some rows of a batch."""

    rows: Int[Tensor, " some"]
    features: Float[Tensor, "some tokens dim"]
    mask: Bool[Tensor, "some tokens"]


def together(parts: Sequence[Seen], num_rows: int) -> tuple[Tensor, Tensor]:
    """[batch, tokens, dim] and [batch, tokens]: every row's features, of as many tokens as the longest has.

    A row is in one part at most; one in none has no token.
    """
    most = max(part.mask.shape[1] for part in parts)
    features = torch.cat([F.pad(part.features, (0, 0, 0, most - part.features.shape[1])) for part in parts])
    mask = torch.cat([F.pad(part.mask, (0, most - part.mask.shape[1])) for part in parts])
    rows = torch.cat([part.rows for part in parts])
    all_features = features.new_zeros(num_rows, most, features.shape[-1]).index_copy(0, rows, features)
    return all_features, mask.new_zeros(num_rows, most).index_copy(0, rows, mask)


class EncoderMixture(nn.Module):
    """One adapter per encoder, and the router that chooses among them."""

    def __init__(self, balance_loss: float, vlm: VLM, slot: ContextSlot) -> None:
        super().__init__()
        encoders, dim = encoders_of(vlm.base_model), vlm.language_dim
        like = next(vlm.final_norm.parameters())
        self.slot, self.balance_loss = slot, balance_loss
        self.names = (BASE, *encoders)
        """Encoder of each number."""
        widths = {BASE: vlm.feature_dim, **{name: encoder.dim for name, encoder in encoders.items()}}
        self.adapters = nn.ModuleDict({name: raw_adapter(width, dim, like) for name, width in widths.items()})
        with like.device:
            self.router = nn.Linear(dim, len(self.names), dtype=like.dtype)
            nn.init.xavier_uniform_(self.router.weight)
            nn.init.zeros_(self.router.bias)

    @property
    def explores(self) -> bool:
        """Whether encoders are drawn, all alike: in training, as long as the prompt does not train."""
        return self.training and torch.is_grad_enabled() and ROUTED_GROUP in self.slot.frozen_groups

    def choose(self, states: Float[Tensor, "batch dim"], has_image: Bool[Tensor, " batch"]) -> Choice:
        """One encoder for each row with a picture; in training the router's gradient brings its own loss."""
        context, router = self.slot.read(), self.router
        with torch.autocast(states.device.type, enabled=False):
            logits = F.linear(states.float(), router.weight.float(), router.bias.float())
            probabilities = logits.softmax(dim=-1)
            index = self._drawn(context) if self.explores else probabilities.argmax(dim=-1)
            picked = probabilities.gather(1, index[:, None])[:, 0].clamp(min=torch.finfo(torch.float32).tiny)
            scale = picked / picked.detach()
            if self._has_loss:
                balance, _ = router_losses(logits[has_image], index[has_image][:, None], context, _BLOCK)
                self.slot.record("encoder_balance_loss", 0, balance)
                scale = add_loss(scale, self.balance_loss * balance, self.slot.loss_scale)
        index = index.where(has_image, -1)
        self.slot.record("encoder_choice", 0, index)
        self.slot.record("encoder_probabilities", 0, probabilities)
        return Choice(index, scale)

    @property
    def _has_loss(self) -> bool:
        trains = self.training and torch.is_grad_enabled() and self.router.weight.requires_grad
        return bool(self.balance_loss) and trains

    def take_no_part(self) -> None:
        """What a process whose batch has no picture adds to the loss over those of all processes: nothing."""
        if self._has_loss:
            no_images(len(self.names), self.router.weight.device)

    def _drawn(self, context: Context) -> Int[Tensor, " batch"]:
        """Drawn anew for each visit of a row, whatever stands beside it."""
        if context.row_keys is None:
            raise DataError(
                "no key to draw an encoder by",
                why="inputs_embeds hold no tokens",
                fix="pass context_row_key, or input_ids",
            )
        return draw(context.row_keys, _DRAW, len(self.names), 1)[:, 0]

    def _adapted(self, name: str, rows: Tensor, features: Tensor, mask: Tensor, choice: Choice) -> Seen:
        scale = choice.scale[rows][:, None, None].to(features.dtype)
        return Seen(rows, self.adapters[name](features * scale), mask)

    def look(self, encoders: dict[str, VisionEncoder], inputs: EncoderInputs, choice: Choice) -> list[Seen]:
        """What rows see that chose a further encoder; the others' encoders do not run for them."""
        found, rows = [], inputs.rows
        for number, name in enumerate(self.names[1:], 1):
            chosen = choice.rows(number)
            if not len(chosen):
                continue
            is_mine = choice.index[rows] == number
            features = encoders[name](inputs.pixels[name][is_mine])
            images = ImageMap(torch.searchsorted(chosen, rows[is_mine]))
            found.append(self._adapted(name, chosen, *images.by_row(features, len(chosen)), choice))
        return found

    def forward(
        self,
        encoders: dict[str, VisionEncoder],
        states: Float[Tensor, "batch dim"] | None,
        vision: Float[Tensor, "batch vision features"],
        mask: Bool[Tensor, "batch vision"],
    ) -> tuple[Float[Tensor, "batch seen dim"], Bool[Tensor, "batch seen"]]:
        """Each row's adapted features of the encoder that it chose.

        Args:
            states: of the context prompt behind each row's last question; None where the choice was made before.
            vision: the base tower's features, row by row.
            mask: where they are.
        """
        context = self.slot.read()
        inputs, has_image = context.encoders, mask.any(dim=1)
        if inputs is None:
            raise DataError(
                "no pictures for the vision encoders",
                why="the base's features came without them",
                fix="generate with the batch that the processor made",
            )
        if inputs.choice is not None:
            assert inputs.features is not None and inputs.mask is not None
            choice = Choice(inputs.choice, torch.ones_like(inputs.choice, dtype=torch.float32))
            rows = (choice.index > 0).nonzero()[:, 0]
            parts = [Seen(rows, inputs.features[rows], inputs.mask[rows])]
        else:
            assert states is not None
            choice = self.choose(states, has_image)
            parts = self.look(encoders, inputs, choice)
        if len(rows := choice.rows(0)):
            parts.append(self._adapted(BASE, rows, vision[rows], mask[rows], choice))
        dtype = parts[-1].features.dtype
        parts = [Seen(part.rows, part.features.to(dtype), part.mask) for part in parts]
        features, mask = together(parts, len(mask))
        return self._reaching_all(features), mask

    def _reaching_all(self, features: Tensor) -> Tensor:
        """Adapters that nobody chose get a gradient of zero: processes that share gradients wait for every tensor."""
        if self.training and torch.is_grad_enabled():
            for parameter in self.adapters.parameters():
                if parameter.requires_grad:
                    features = features + (parameter.sum() * 0).to(features.dtype)
        return features

    def prepared(
        self, encoders: dict[str, VisionEncoder], states: Tensor, last: Tensor, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The arguments of ``generate`` with what was chosen and seen in the place of the pictures.

        ``states`` [batch, turns, dim], ``last`` [batch, dim] of the context prompt.
        """
        inputs = self.slot.read().encoders
        assert inputs is not None and inputs.counts is not None
        choice = self.choose(last, inputs.counts > 0)
        parts = self.look(encoders, inputs, choice)
        nothing = last.new_zeros(0, 1, states.shape[-1])
        parts = parts or [Seen(choice.index[:0], nothing, nothing[..., 0].bool())]
        features, mask = together(parts, len(choice.index))
        rest = {name: value for name, value in kwargs.items() if name != COUNTS and not name.startswith(PIXELS)}
        return {**rest, STATES: states, CHOICE: choice.index, FEATURES: features, MASK: mask}
