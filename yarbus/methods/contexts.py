"""What a block's router reads: the question, the picture, both side by side, or the CVE (arXiv 2603.21077, Sec. 3.3).

The paper's letters here: ``x`` is ``tokens`` (input of a block's feed-forward network), ``t`` the pooled ``question``,
``c`` the context that ``forward`` returns, beside the gaze (None where nothing looks). The paper describes the CVE; of
the others it has the names (Table 2), what they compute is methods.md 4.6.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from yarbus.core.errors import ConfigError
from yarbus.models.images import ImageMap


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


def _to_width(text_dim: int, context_dim: int) -> nn.Linear | None:
    """What brings a question to the context's width, where the text encoder has another.

    Per block, not once for all: a tensor that requires grad must not travel between blocks through the slot
    (reentrant checkpointing would cut its gradient).
    """
    return None if text_dim == context_dim else nn.Linear(text_dim, context_dim)


class TextContext(nn.Module):
    """The context is the question alone: LN(t). The same for every image of a row."""

    reads_question: ClassVar[bool] = True

    def __init__(self, text_dim: int, context_dim: int) -> None:
        super().__init__()
        self.dim = context_dim
        self.projection = _to_width(text_dim, context_dim)
        self.norm = nn.LayerNorm(context_dim)

    def forward(
        self, tokens: Float[Tensor, "*tokens dim"], question: Float[Tensor, "images text_dim"], images: ImageMap
    ) -> tuple[Float[Tensor, "images context_dim"], None]:
        return self.norm(question if self.projection is None else self.projection(question)), None


class ImageContext(nn.Module):
    """The context is the picture alone: LN(mean of all its tokens, the class token included)."""

    reads_question: ClassVar[bool] = False

    def __init__(self, vision_dim: int) -> None:
        super().__init__()
        self.dim = vision_dim
        self.norm = nn.LayerNorm(vision_dim)

    def forward(
        self, tokens: Float[Tensor, "*tokens dim"], question: None, images: ImageMap
    ) -> tuple[Float[Tensor, "images dim"], None]:
        return self.norm(images.mean(tokens).to(tokens.dtype)), None


class ConcatContext(nn.Module):
    """The context is picture and question side by side: [LN(mean of all tokens); LN(t)]."""

    reads_question: ClassVar[bool] = True

    def __init__(self, vision_dim: int, text_dim: int, context_dim: int) -> None:
        super().__init__()
        self.dim = vision_dim + context_dim
        self.image = ImageContext(vision_dim)
        self.text = TextContext(text_dim, context_dim)

    def forward(
        self, tokens: Float[Tensor, "*tokens dim"], question: Float[Tensor, "images text_dim"], images: ImageMap
    ) -> tuple[Float[Tensor, "images both"], None]:
        picture, _ = self.image(tokens, None, images)
        words, _ = self.text(tokens, question, images)
        return torch.cat([picture, words], dim=-1), None


class ContextVectorExtractor(nn.Module):
    """CVE: the question looks at the image's tokens, and what it finds is the context (Eq. 6-8).

    One query per image (the question) attends to the image's tokens; keys and values are the token beside the
    question. Written without keys or values over tokens (methods.md 4.4): per head h, ``u_h = W_key,h^T q_h``,
    gaze = softmax(tokens u_h / sqrt(head_dim)), value = W_value,h (gaze-weighted token) + its question half.
    """

    reads_question: ClassVar[bool] = True

    def __init__(
        self, vision_dim: int, text_dim: int, context_dim: int, num_heads: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        if context_dim % num_heads:
            raise ConfigError(
                f"context_dim {context_dim} is not divisible by num_heads {num_heads}", fix="choose a divisor"
            )
        self.dim = context_dim
        self.num_heads = num_heads
        self.projection = _to_width(text_dim, context_dim)
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

    @property
    def num_dead(self) -> int:
        """Parameters that the paper's attention has beside these, and that no gradient reaches: the question's half of
        the key weights and the key biases add one number to all tokens' logits, which the softmax takes away."""
        return self.dim * self.dim + self.dim

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
