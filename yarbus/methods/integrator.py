"""One block that lets hidden states of the language model look at the tower's features (CARPE, section 3.1; LEVI).

Letters of methods.md 6.2: ``q`` are ``states``, ``r'`` the ``vision`` tokens; u = q + CA(q, r'), u = u + SA(u), u = u +
MLP(u), each after an RMSNorm of its own (ours). Self-attention is causal, with the language model's own rotations;
cross-attention has none. Output layers start as zero, so that u = q.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicLayer


@dataclass(frozen=True)
class Places:
    """Where the states that a head works on stand in the batch: text alone, padding and images left out."""

    index: Int[Tensor, "batch chosen"]
    """Column of each; behind a row's last one there are others, that mean nothing."""
    mask: Bool[Tensor, "batch chosen"]
    """False behind a row's last one."""

    @classmethod
    def of(cls, mask: Bool[Tensor, "batch tokens"]) -> "Places":
        """The columns where the mask is True, in order."""
        counts = mask.sum(dim=1)
        most = max(1, int(counts.max()))
        index = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        return cls(index, torch.arange(most, device=mask.device) < counts[:, None])

    def take(self, values: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch chosen dim"]:
        """What stands at these columns."""
        return values.gather(1, self.index[..., None].expand(-1, -1, values.shape[-1]))

    def put(
        self, values: Float[Tensor, "batch chosen dim"], into: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """``into`` with these values at these columns, in its precision; the others stay."""
        values = torch.where(self.mask[..., None], values.to(into.dtype), self.take(into))
        return into.scatter(1, self.index[..., None].expand_as(values), values)


@dataclass(frozen=True)
class VisionKeys:
    """What cross-attention looks at: keys and values of each row's images."""

    keys: Float[Tensor, "batch heads vision head_dim"]
    values: Float[Tensor, "batch heads vision head_dim"]
    mask: Bool[Tensor, "batch vision"]


class HeadLayer(DynamicLayer):
    """What a head keeps of one generation, as one more layer of the language model's cache.

    Keys and values of its self-attention stand at the columns of the sequence, those of images and padding unused:
    so the library may cut, reorder or repeat it like any other layer. ``side`` holds what belongs to rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.side: dict[str, Tensor] = {}
        """Name -> [batch, ...]; ``text`` [batch, columns] is True where a key may be looked at."""

    @classmethod
    def of(cls, cache: Cache | None, number: int = 0) -> "HeadLayer | None":
        """The cache's layer of that number, counted among the head's own; None if there is none yet."""
        mine = [layer for layer in getattr(cache, "layers", ()) if isinstance(layer, cls)]
        return mine[number] if number < len(mine) else None

    def remember(self, seen: VisionKeys | None) -> None:
        """Keeps what cross-attention looks at."""
        if seen is not None:
            self.side |= {"keys": seen.keys, "values": seen.values, "vision": seen.mask}

    def seen(self) -> VisionKeys | None:
        """What ``remember`` kept."""
        side = self.side
        return VisionKeys(side["keys"], side["values"], side["vision"]) if "keys" in side else None

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Forgets columns, as the library's layer does."""
        super().crop(*args, **kwargs)
        if "text" in self.side:
            self.side["text"] = self.side["text"][:, : self.get_seq_length()]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows follow their beams."""
        super().reorder_cache(beam_idx)
        self._map(lambda values: values.index_select(0, beam_idx.to(values.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row several times."""
        super().batch_repeat_interleave(repeats)
        self._map(lambda values: values.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Some of the rows."""
        super().batch_select_indices(indices)
        self._map(lambda values: values[indices.to(values.device)])

    def reset(self) -> None:
        """Forgets all; the layer of older libraries would keep its length."""
        self.is_initialized = False
        super().reset()
        self.keys = self.values = None
        self.side = {}

    def _map(self, change: Callable[[Tensor], Tensor]) -> None:
        self.side = {name: change(values) for name, values in self.side.items()}


def rotate(
    values: Float[Tensor, "batch heads chosen head_dim"], rotations: tuple[Tensor, Tensor] | None
) -> Float[Tensor, "batch heads chosen head_dim"]:
    """Rotary positions: cos and sin [batch, chosen, rotated]; dimensions behind ``rotated`` pass as they are."""
    if rotations is None:
        return values
    cos, sin = (part[:, None].to(values.dtype) for part in rotations)
    turned, rest = values[..., : cos.shape[-1]], values[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)


class Attention(nn.Module):
    """The four linear layers of multi-head attention; what is looked at comes from outside."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, num_heads * head_dim, bias=False)
        self.key = nn.Linear(dim, num_heads * head_dim, bias=False)
        self.value = nn.Linear(dim, num_heads * head_dim, bias=False)
        self.output = nn.Linear(num_heads * head_dim, dim, bias=False)
        nn.init.zeros_(self.output.weight)

    def heads(self, values: Float[Tensor, "batch tokens inner"]) -> Float[Tensor, "batch heads tokens head_dim"]:
        """One part per head."""
        return values.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def look(
        self,
        queries: Float[Tensor, "batch heads chosen head_dim"],
        keys: Float[Tensor, "batch heads columns head_dim"],
        values: Float[Tensor, "batch heads columns head_dim"],
        allowed: Bool[Tensor, "batch queries columns"],
    ) -> Float[Tensor, "batch chosen dim"]:
        """Attention where it is allowed; every query must be allowed something."""
        found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed[:, None])
        return self.output(found.transpose(1, 2).flatten(2))


class Integrator(nn.Module):
    """Cross-attention to the image, causal self-attention, feed-forward network; then a norm like the model's last."""

    def __init__(
        self, dim: int, num_heads: int, head_dim: int, mlp_ratio: float, epsilon: float, cross_attention: bool
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(dim, eps=epsilon) for _ in range(3 if cross_attention else 2))
        self.cross_attention = Attention(dim, num_heads, head_dim) if cross_attention else None
        self.self_attention = Attention(dim, num_heads, head_dim)
        self.up = nn.Linear(dim, round(mlp_ratio * dim))
        self.down = nn.Linear(round(mlp_ratio * dim), dim)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def see(self, vision: Float[Tensor, "batch vision dim"], mask: Bool[Tensor, "batch vision"]) -> VisionKeys | None:
        """Keys and values of the images, once for all tokens of an answer; None without cross-attention."""
        attention = self.cross_attention
        if attention is None:
            return None
        # A row without an image looks at nothing of meaning; its result is not used.
        mask = mask | ~mask.any(dim=1, keepdim=True)
        return VisionKeys(attention.heads(attention.key(vision)), attention.heads(attention.value(vision)), mask)

    def forward(
        self,
        states: Float[Tensor, "batch chosen dim"],
        places: Places,
        seen: VisionKeys | None,
        rotations: tuple[Tensor, Tensor] | None,
        layer: HeadLayer | None = None,
        num_columns: int = 0,
    ) -> Float[Tensor, "batch chosen dim"]:
        """``u`` of every chosen position.

        Args:
            rotations: cos and sin of the chosen positions, as ``rotate`` takes them.
            layer: keeps keys and values, and looks back at those it has; None looks at these positions alone.
            num_columns: columns of this forward, which the layer grows by.
        """
        norms = iter(self.norms)
        if self.cross_attention is not None:
            assert seen is not None
            queries = self.cross_attention.heads(self.cross_attention.query(next(norms)(states)))
            allowed = seen.mask[:, None].expand(-1, states.shape[1], -1)
            states = states + self.cross_attention.look(queries, seen.keys, seen.values, allowed)
        attention, normed = self.self_attention, next(norms)(states)
        queries, keys = (rotate(attention.heads(part(normed)), rotations) for part in (attention.query, attention.key))
        values = attention.heads(attention.value(normed))
        columns, text, at = places.index, places.mask, places.index
        if layer is not None:
            past = layer.get_seq_length()
            at = places.index + past
            text = _spread(places, places.mask[..., None], num_columns)[..., 0]
            text = torch.cat([layer.side["text"], text], dim=1) if past else text
            layer.side["text"] = text
            keys, values = layer.update(*(_spread_heads(places, part, num_columns) for part in (keys, values)))
            columns = torch.arange(keys.shape[2], device=keys.device).expand(len(text), -1)
        earlier = columns[:, None] <= at[..., None]
        itself = columns[:, None] == at[..., None]  # so that what stands behind a row's end has something to look at
        states = states + attention.look(queries, keys, values, text[:, None] & earlier | itself)
        return states + self.down(F.gelu(self.up(next(norms)(states))))


def _spread(places: Places, values: Tensor, num_columns: int) -> Tensor:
    """[batch, chosen, k] -> [batch, columns, k], zero where nothing was chosen."""
    values = values * places.mask[..., None].to(values.dtype)
    empty = values.new_zeros(len(values), num_columns, values.shape[-1])
    return empty.scatter(1, places.index[..., None].expand_as(values), values)


def _spread_heads(places: Places, values: Tensor, num_columns: int) -> Tensor:
    """[batch, heads, chosen, head_dim] -> [batch, heads, columns, head_dim]."""
    flat = _spread(places, values.transpose(1, 2).flatten(2), num_columns)
    return flat.unflatten(-1, (values.shape[1], -1)).transpose(1, 2)
