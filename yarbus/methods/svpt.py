"""SVPT: visual prompts that pass from block to block and mark salient patches (arXiv:2404.05207); methods.md 3.6.

There is no public code, and of the text only the abstract was at hand: it names a cross-layer
dynamic connection between prompts of adjacent blocks (CDC), a dynamic aggregation that selects
what passes (DA), and an attentive enhancement of salient tokens (AE). Every formula below is ours;
results carry ``fidelity = "low"``. On top of VPT, block ``l`` after the first one does::

    P~_l = P_l + s_l * LN(Z_{l-1})                              CDC
    s_l  = tanh(U_l GELU(V_l mean_prompts LN(Z_{l-1})))         DA: one gate per channel and image
    x_i <- x_i + gamma_l * (a_i / sum a) * mean_prompts P~_l    AE: for the patches that prompts look at most

Letters: ``P_l`` is ``weight``, ``Z_{l-1}`` are ``earlier`` (what block l-1 made of its prompts),
``V_l`` and ``U_l`` are ``down`` and ``up``, ``gamma_l`` is ``gain``, ``a`` is ``saliency``: the mean
over heads and prompts of the softmax over patches of block l-1's queries of prompts and keys of
patches, and the sum runs over the salient ones. It is a small product of its own, prompts x patches
through the block's own attention weights, so that the block may run fused attention. What a block
does to queries and keys beyond its linear layers (rotation by position, their norms) is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from yarbus.core.errors import ConfigError
from yarbus.methods.vpt import hide_prompts, join, new_prompts, read_tokens, without_prompts, write_tokens
from yarbus.models.attachment import Attachment, Fidelity, Method, Start
from yarbus.models.slot import ContextSlot
from yarbus.models.vlm import VLM, Layout, Tower


def saliency_of_patches(
    block: nn.Module, tower: Tower, num_heads: int, tokens: Float[Tensor, "images prompts_and_patches dim"], number: int
) -> Float[Tensor, "images patches"]:
    """How much a block's prompts, the first ``number`` tokens, look at each patch; sums to 1 over the patches."""
    normed = block.get_submodule(tower.norms[0])(tokens)
    *inputs, _ = [block.get_submodule(path) for path in tower.attention]
    if len(inputs) == 1:
        queries, keys, _ = inputs[0](normed).chunk(3, dim=-1)
        queries, keys = queries[:, :number], keys[:, number:]
    else:
        queries, keys = inputs[0](normed[:, :number]), inputs[1](normed[:, number:])
    queries, keys = (part.unflatten(-1, (num_heads, -1)) for part in (queries, keys))
    logits = torch.einsum("iphk,inhk->ihpn", queries, keys) * queries.shape[-1] ** -0.5
    return logits.float().softmax(dim=-1).mean(dim=(1, 2))


class Connection(nn.Module):
    """What block ``l`` takes over from block ``l - 1``. It starts as nothing: ``up`` and ``gain`` are zero."""

    def __init__(self, dim: int, bottleneck: int, salient_fraction: float, like: Tensor) -> None:
        super().__init__()
        kind = {"device": like.device, "dtype": like.dtype}
        self.salient_fraction = salient_fraction
        self.norm = nn.LayerNorm(dim, **kind)
        self.down = nn.Linear(dim, bottleneck, bias=False, **kind)
        self.up = nn.Linear(bottleneck, dim, bias=False, **kind)
        self.gain = nn.Parameter(torch.zeros(dim, **kind))
        nn.init.zeros_(self.up.weight)

    def forward(
        self,
        prompts: Float[Tensor, "images prompts dim"],
        patches: Float[Tensor, "images patches dim"],
        earlier: Float[Tensor, "images prompts dim"],
        saliency: Float[Tensor, "images patches"],
    ) -> tuple[Float[Tensor, "images prompts dim"], Float[Tensor, "images patches dim"]]:
        prompts = self.connect(prompts, earlier)
        return prompts, self.enhance(patches, saliency, prompts)

    def connect(
        self, prompts: Float[Tensor, "images prompts dim"], earlier: Float[Tensor, "images prompts dim"]
    ) -> Float[Tensor, "images prompts dim"]:
        """Prompts with what passes of the earlier block's (CDC, DA)."""
        normed = self.norm(earlier)
        gate = torch.tanh(self.up(F.gelu(self.down(normed.mean(dim=1)))))
        return prompts + gate[:, None] * normed

    def enhance(
        self,
        patches: Float[Tensor, "images patches dim"],
        saliency: Float[Tensor, "images patches"],
        prompts: Float[Tensor, "images prompts dim"],
    ) -> Float[Tensor, "images patches dim"]:
        """Patches, the salient ones with their share of the prompts' mean (AE)."""
        number = max(1, round(self.salient_fraction * saliency.shape[1]))
        highest, where = saliency.topk(number, dim=1)
        shares = torch.zeros_like(saliency).scatter(1, where, highest / highest.sum(dim=1, keepdim=True))
        return patches + (shares[..., None] * (self.gain * prompts.mean(dim=1))[:, None]).to(patches.dtype)


class SalientPrompts(nn.Module):
    """The prompts of one block, with what they take from the block before and leave for the block after."""

    def __init__(
        self, weight: nn.Parameter, connection: Connection | None, vlm: VLM, slot: ContextSlot, block_index: int
    ) -> None:
        super().__init__()
        self.weight = weight  # [prompts, dim]
        self.connection = connection
        self.tower, self.num_heads, self.slot, self.block_index = vlm.tower, vlm.num_heads, slot, block_index
        self.num_prompts, self.num_prefix = len(weight), vlm.tower.prefix_tokens
        self.is_last = block_index == vlm.num_executed() - 1

    def forward(self, tokens: Float[Tensor, "images tokens dim"]) -> Float[Tensor, "images all dim"]:
        prompts = self.weight.expand(len(tokens), -1, -1)
        if self.connection is not None:
            notes, before = self.slot.read().notes, self.block_index - 1
            earlier, saliency = self._with_gradient(notes["prompts", before]), notes["saliency", before]
            prefix, patches = tokens[:, : self.num_prefix], tokens[:, self.num_prefix :]
            prompts, patches = self.connection(prompts, patches, earlier, saliency)
            tokens = torch.cat([prefix, patches], dim=1)
        return join(tokens, prompts, self.num_prefix)

    def _with_gradient(self, earlier: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.weight.requires_grad and not earlier.requires_grad:
            raise ConfigError(
                "method 'svpt' would train without the gradient between its blocks",
                why="this version of transformers runs a block's hooks inside of reentrant checkpointing",
                fix="gradient_checkpointing_kwargs={'use_reentrant': False}, or transformers 5.23",
            )
        return earlier

    def enter(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Pre-hook of the block."""
        tokens = self(read_tokens(args))
        if not self.is_last:
            behind_prefix = tokens[:, self.num_prefix :]
            saliency = saliency_of_patches(block, self.tower, self.num_heads, behind_prefix, self.num_prompts)
            self.slot.read().notes["saliency", self.block_index] = saliency
        return write_tokens(args, tokens), kwargs

    def leave(self, block: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Forward hook of the block."""
        tokens = read_tokens(output)
        if not self.is_last:
            mine = tokens[:, self.num_prefix : self.num_prefix + self.num_prompts]
            # A copy: a view would keep every block's whole output until the forward is over.
            self.slot.read().notes["prompts", self.block_index] = mine.clone()
        return write_tokens(output, without_prompts(tokens, self.num_prompts, self.num_prefix))

    def hide(self, tower: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Forward hook of the tower, for the first block."""
        return hide_prompts(output, self.num_prompts, self.num_prefix)


@dataclass(frozen=True, kw_only=True)
class SVPT(Method):
    """VPT whose prompts pass from block to block and strengthen the patches they look at; built from the abstract.

    At the start it is VPT exactly, since ``up`` (U) and ``gain`` (gamma) are zero. Therefore ``down`` (V) and the
    norm have zero gradient until U has moved: with U = 0 the gate is closed, whatever they say.
    """

    name: ClassVar[str] = "svpt"
    places: ClassVar[tuple[str, ...]] = ("vision",)
    start: ClassVar[Start] = "changes"
    layouts: ClassVar[tuple[Layout, ...]] = ("images tokens dim",)
    """As VPT."""
    silent: ClassVar[tuple[str, ...]] = (".connection.down.", ".connection.norm.")
    reasons: ClassVar[Mapping[str, str]] = dict.fromkeys(silent, "the gate behind it starts as zero")
    paper: ClassVar[str] = "arXiv:2404.05207"
    fidelity: ClassVar[Fidelity] = "low"

    num_prompts: Annotated[int, Ge(1)] = 50
    """Prompts per block, as VPT's (ours)."""
    salient_fraction: Annotated[float, Gt(0), Le(1)] = 0.25
    """Share of an image's patches that are enhanced: the most looked at (ours)."""
    bottleneck: Annotated[int, Ge(1)] | None = None
    """Width between V and U; None is a sixteenth of the tower's (64 in LLaVA-1.5; ours)."""

    def groups(self, place: str) -> tuple[str, ...]:
        return ("vision_new",)

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        bottleneck = self.bottleneck or max(1, vlm.vision_dim // 16)
        for index, block in vlm.executed_blocks(first=0).items():
            weight = new_prompts(vlm, block, self.num_prompts, "uniform")
            connection = Connection(vlm.vision_dim, bottleneck, self.salient_fraction, weight) if index else None
            prompts = SalientPrompts(weight, connection, vlm, attachment.slot, index)
            attachment.insert(vlm, block, "prompts", prompts)
            attachment.before(vlm, block, prompts.enter)
            attachment.after(vlm, block, prompts.leave)
            if index == 0:
                attachment.after(vlm, vlm.vision_tower, prompts.hide)
            attachment.train(list(prompts.parameters()), group="vision_new")
