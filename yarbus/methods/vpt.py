"""VPT: prompts of its own for each vision block (arXiv:2203.12119), the deep kind; methods.md 3.5.

The paper's ``P_i`` are the ``weight`` of block i's ``Prompts``, ``x_0`` the prefix tokens (class
token, registers), ``E_i`` the patches. Prompts stand between prefix and patches while a block
runs; what it makes of them is discarded after it, so that nothing outside ever sees them.
"""

from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from yarbus.core.errors import ConfigError
from yarbus.models.attachment import Attachment, Method, Start
from yarbus.models.vlm import VLM, Layout

Init = Literal["uniform", "normal"]


def read_tokens(values: Any) -> Float[Tensor, "images tokens dim"]:
    """The tokens that a block takes or gives: its first argument, or its output, alone or first of a tuple."""
    return values[0] if isinstance(values, tuple) else values


def write_tokens(values: Any, tokens: Float[Tensor, "images tokens dim"]) -> Any:
    """The same arguments or output with other tokens."""
    return (tokens, *values[1:]) if isinstance(values, tuple) else tokens


def join(
    tokens: Float[Tensor, "images tokens dim"], prompts: Float[Tensor, "images prompts dim"], num_prefix: int
) -> Float[Tensor, "images all dim"]:
    """Prefix, prompts, patches as one sequence."""
    return torch.cat([tokens[:, :num_prefix], prompts.to(tokens.dtype), tokens[:, num_prefix:]], dim=1)


def without_prompts(
    tokens: Float[Tensor, "images all dim"], num_prompts: int, num_prefix: int
) -> Float[Tensor, "images tokens dim"]:
    """The inverse of ``join``: prefix and patches."""
    return torch.cat([tokens[:, :num_prefix], tokens[:, num_prefix + num_prompts :]], dim=1)


def hide_prompts(output: Any, num_prompts: int, num_prefix: int) -> Any:
    """A tower's output without prompts in its first hidden state, which the library takes from the first block's input.

    The other hidden states are outputs of blocks, after their prompts have left.
    """
    states = getattr(output, "hidden_states", None)
    if states and states[0] is not None and states[0].shape[1] == output.last_hidden_state.shape[1] + num_prompts:
        output.hidden_states = (without_prompts(states[0], num_prompts, num_prefix), *states[1:])
    return output


def new_prompts(vlm: VLM, block: nn.Module, number: int, init: Init) -> nn.Parameter:
    """[prompts, dim] drawn on the device and in the precision of the block's weights.

    ``uniform`` is the paper's: as Xavier would draw the patch embedding. ``normal`` is N(0, 1).
    """
    like = next(block.parameters())
    prompts = nn.Parameter(torch.empty(number, vlm.vision_dim, device=like.device, dtype=like.dtype))
    if init == "normal":
        nn.init.normal_(prompts)
        return prompts
    size = vlm.config.vision_config.patch_size
    patch_area = size**2 if isinstance(size, int) else prod(size)
    bound = sqrt(6 / (3 * patch_area + vlm.vision_dim))
    nn.init.uniform_(prompts, -bound, bound)
    return prompts


class Prompts(nn.Module):
    """The prompts of one block. They enter before it runs and leave after it."""

    def __init__(self, weight: nn.Parameter, num_prefix: int) -> None:
        super().__init__()
        self.weight = weight  # [prompts, dim]
        self.num_prompts, self.num_prefix = len(weight), num_prefix

    def forward(self, tokens: Float[Tensor, "images tokens dim"]) -> Float[Tensor, "images all dim"]:
        return join(tokens, self.weight.expand(len(tokens), -1, -1), self.num_prefix)

    def enter(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Pre-hook of the block."""
        return write_tokens(args, self(read_tokens(args))), kwargs

    def leave(self, block: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Forward hook of the block."""
        return write_tokens(output, without_prompts(read_tokens(output), self.num_prompts, self.num_prefix))

    def hide(self, tower: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Forward hook of the tower, for the first block."""
        return hide_prompts(output, self.num_prompts, self.num_prefix)


@dataclass(frozen=True, kw_only=True)
class VPT(Method):
    """Fresh prompts before each executed vision block, discarded after it; nothing else in the tower trains.

    At the start the outputs differ from the base: random prompts take part in the attention.
    """

    name: ClassVar[str] = "vpt"
    places: ClassVar[tuple[str, ...]] = ("vision",)
    start: ClassVar[Start] = "changes"
    layouts: ClassVar[tuple[Layout, ...]] = ("images tokens dim",)
    """In a packed sequence prompts would move every border, mask and position of the library's attention."""
    paper: ClassVar[str] = "arXiv:2203.12119"

    num_prompts: Annotated[int, Ge(1)] = 50
    """Prompts per block (CoVFT's script)."""
    init: Init = "uniform"
    """``uniform`` in (-v, v) with v = sqrt(6 / (3 patch^2 + dim)), as the paper; ``normal`` is N(0, 1), as CoVFT's
    code: 28 times wider in its tower, so that at its rate of 2e-5 prompts stay the noise they were drawn as."""

    @classmethod
    def preset(cls, name: Literal["paper", "official", "ours"], **changes: object) -> "VPT":
        """The method as its paper says, as CoVFT's code does, or as we recommend (the paper's)."""
        presets: dict[str, dict[str, object]] = {"paper": {}, "official": {"init": "normal"}, "ours": {}}
        if name not in presets:
            raise ConfigError(f"unknown preset '{name}' of vpt", fix=f"use one of: {', '.join(presets)}")
        return replace(cls(**presets[name]), **changes)  # type: ignore[arg-type]

    def groups(self, place: str) -> tuple[str, ...]:
        return ("vision_new",)

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        for index, block in vlm.executed_blocks(first=0).items():
            prompts = Prompts(new_prompts(vlm, block, self.num_prompts, self.init), vlm.tower.prefix_tokens)
            attachment.insert(vlm, block, "prompts", prompts)
            attachment.before(vlm, block, prompts.enter)
            attachment.after(vlm, block, prompts.leave)
            if index == 0:
                attachment.after(vlm, vlm.vision_tower, prompts.hide)
            attachment.train([prompts.weight], group="vision_new")
