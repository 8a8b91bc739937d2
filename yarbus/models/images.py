"""Which tokens belong to which image, and which image to which row of context.

The one place that knows the two layouts of a tower: ``[images, tokens, dim]`` and packed
``[total, dim]``. Methods ask for "per image" operations and name no layout; one that is handed a tower's own tokens
takes off an axis of one that the tower may have put before packed ones (``strip``).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageMap:
    """The images of one forward, as a tower (or projector) sees them."""

    rows: Tensor
    """[images] row of context that each image answers to."""
    lengths: Tensor | None = None
    """[images] tokens of each image in a packed layout; None where the layout is [images, tokens, dim]."""

    def strip(self, tokens: Tensor) -> Tensor:
        """Packed tokens as [total, dim], also where a tower puts an axis of one before them; others as they are."""
        return tokens[0] if self.lengths is not None and tokens.ndim == 3 and len(tokens) == 1 else tokens

    def check(self, tokens: Tensor) -> None:
        """Raises if the tokens are not those of these images: a wrong map would mix up questions silently."""
        tokens = self.strip(tokens)
        expected = len(self.rows) if self.lengths is None else int(self.lengths.sum())
        if len(tokens) != expected:
            unit = "images" if self.lengths is None else "tokens"
            raise RuntimeError(f"the tower holds {len(tokens)} {unit}, the context maps {expected}")

    def image_of_token(self) -> Tensor:
        """[total] image of each packed token."""
        assert self.lengths is not None
        index = torch.arange(len(self.lengths), device=self.lengths.device)
        return index.repeat_interleave(self.lengths)

    def spread(self, values: Tensor) -> Tensor:
        """[images, k] -> [images, 1, k], or [total, k] where packed: one value per image, ready to meet its tokens."""
        return values[:, None] if self.lengths is None else values[self.image_of_token()]

    def softmax(self, logits: Tensor) -> Tensor:
        """Softmax over the tokens of each image: [images, tokens, heads], or [total, heads] where packed."""
        if self.lengths is None:
            return logits.softmax(dim=1)
        image = self.image_of_token()
        shape = (len(self.lengths), logits.shape[-1])
        index = image[:, None].expand_as(logits)
        highest = logits.detach().new_full(shape, float("-inf")).scatter_reduce(0, index, logits.detach(), "amax")
        exponents = (logits - highest[image]).exp()
        return exponents / exponents.new_zeros(shape).index_add(0, image, exponents)[image]

    def weighted_sum(self, weights: Tensor, tokens: Tensor) -> Tensor:
        """Sum of each image's tokens by weight: [images, heads, dim].

        ``weights`` as ``softmax`` returns them, ``tokens`` [images, tokens, dim] or [total, dim].
        """
        if self.lengths is None:
            return weights.transpose(1, 2) @ tokens
        pairs = zip(weights.split(self._borders()), tokens.split(self._borders()), strict=True)
        return torch.stack([weight.T @ token for weight, token in pairs])

    def mean(self, tokens: Tensor) -> Tensor:
        """[images, dim] mean of each image's tokens, in fp32."""
        if self.lengths is None:
            return tokens.float().mean(dim=1)
        ones = tokens.new_ones(len(tokens), 1, dtype=torch.float32)
        return self.weighted_sum(ones, tokens.float())[:, 0] / self.lengths[:, None]

    def by_row(self, tokens: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
        """The tokens of each row's images one after the other, [rows, most, dim], and where they are, [rows, most].

        Behind a row's last token there are zeros and False. ``rows`` must be in order, as they are in a batch.
        """
        if self.lengths is None:
            image = torch.arange(len(tokens), device=tokens.device).repeat_interleave(tokens.shape[1])
            tokens = tokens.flatten(0, 1)
        else:
            image, tokens = self.image_of_token(), self.strip(tokens)
        row = self.rows[image]
        counts = torch.bincount(row, minlength=num_rows)
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        mask = torch.arange(int(counts.max()), device=row.device) < counts[:, None]
        return tokens.new_zeros(*mask.shape, tokens.shape[-1]).index_put((row, place), tokens), mask

    def linear(self, tokens: Tensor, weights: Tensor, biases: Tensor | None = None) -> Tensor:
        """Each image's tokens through its own linear layer: weights [images, out, in], biases [images, out]."""
        if self.lengths is None:
            output = tokens @ weights.transpose(1, 2)
        else:
            pairs = zip(tokens.split(self._borders()), weights, strict=True)
            output = torch.cat([token @ weight.T for token, weight in pairs])
        return output if biases is None else output + self.spread(biases)

    def _borders(self) -> list[int]:
        assert self.lengths is not None
        return [int(length) for length in self.lengths]
