"""What heads that look at the image have in common: they hear hidden states, see features, and change the last states.

A head changes ``last_hidden_state`` of the base model, so that the lm_head, every loss (TRL's fused one too) and
``generate`` stay the library's. Only positions of text change; images and padding never need logits. Rows without a
picture keep the language model's own states, and ``output_hidden_states`` shows those of every row. What a generation
must remember lies in layers of its cache, one per integrator (``HeadLayer``), so that nothing lives on the module.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, distributed, nn
from transformers.cache_utils import Cache

from yarbus.core.errors import ConfigError, DataError
from yarbus.methods.context_prompt import no_question
from yarbus.methods.integrator import HeadLayer, Integrator, Places, VisionKeys
from yarbus.models.attachment import Attachment
from yarbus.models.images import ImageMap
from yarbus.models.slot import Context, ContextSlot
from yarbus.models.vlm import VLM

MODULE = "context_head"
"""Where a head stands: beside the parts of the base model."""
AFTER_ALL = -1
"""The output of the last language block, before the final norm."""


class StateListener(nn.Module):
    """Notes the hidden states that go into one module, and their rotations where it is told them."""

    def __init__(self, slot: ContextSlot, index: int | None) -> None:
        """``index``: the name of these states; None notes the rotations alone."""
        super().__init__()
        self.slot, self.index = slot, index

    def hear(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Pre-hook of a language block or of the final norm."""
        if self.slot.context is not None:
            notes = self.slot.context.notes
            if self.index is not None:
                notes["states", self.index] = args[0] if args else kwargs["hidden_states"]
            if kwargs.get("position_embeddings") is not None:
                notes["cos", 0], notes["sin", 0] = kwargs["position_embeddings"]
        return args, kwargs


class FeatureListener(nn.Module):
    """Notes what the projector is handed, or what it makes of it, row by row."""

    def __init__(self, slot: ContextSlot) -> None:
        super().__init__()
        self.slot = slot

    def raw(self, projector: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Pre-hook of the projector."""
        if self.slot.context is not None and self.slot.context.tower is not None:
            self._note(self.slot.context, self.slot.context.tower, args[0])
        return args, kwargs

    def adapted(self, projector: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Hook behind the projector, which returns its tokens or a record of them."""
        if self.slot.context is not None and self.slot.context.projector is not None:
            tokens = output if isinstance(output, Tensor) else output.last_hidden_state
            self._note(self.slot.context, self.slot.context.projector, tokens)
        return output

    def _note(self, context: Context, images: ImageMap, tokens: Tensor) -> None:
        images.check(tokens)
        of_batch = ImageMap(images.rows // context.num_turns, images.lengths)
        context.notes["vision", 0], context.notes["vision_mask", 0] = of_batch.by_row(tokens, context.num_rows)


@dataclass
class AnswerState:
    """What holds for the whole of an answer."""

    seen: list[VisionKeys | None]
    """For each integrator."""
    has_image: Bool[Tensor, " batch"]
    weight: Float[Tensor, "batch columns"] | None
    """Of the image's branch, at each column of this forward; None where the head has no such weight."""


class Head(nn.Module, ABC):
    """Integrators behind the language model; a subclass says how their results become the last hidden states."""

    def __init__(self, slot: ContextSlot, vlm: VLM, lm_head_trains: bool) -> None:
        super().__init__()
        self.slot = slot
        self.integrators = nn.ModuleList()
        self.listeners = nn.ModuleList()
        self.feature_listener = FeatureListener(slot)
        self.language_path = vlm.family.language_model
        self.lm_head_trains = lm_head_trains

    def add_integrator(self, vlm: VLM, num_heads: int | None, mlp_ratio: float, cross_attention: bool) -> None:
        """One more, of the language model's width; its heads are as many and as wide as the model's own."""
        config = vlm.config.get_text_config()
        own = config.num_attention_heads
        num_heads = num_heads or own
        head_dim = getattr(config, "head_dim", None) or vlm.language_dim // own
        epsilon = float(getattr(config, "rms_norm_eps", 1e-6))
        like = next(vlm.final_norm.parameters())
        with like.device:
            integrator = Integrator(vlm.language_dim, num_heads, head_dim, mlp_ratio, epsilon, cross_attention)
        self.integrators.append(integrator.to(like.dtype))

    def attach(
        self, vlm: VLM, attachment: Attachment, heard: Sequence[int], features: Literal["raw", "adapted"]
    ) -> None:
        """Puts it beside the base model's parts, with its hooks.

        ``heard``: for each integrator the language block whose input it gets, or ``AFTER_ALL``.
        """
        blocks = vlm.language_blocks
        refuse_unfit(vlm)
        listeners = [StateListener(self.slot, index) for index in heard]
        self.listeners.extend([*listeners, StateListener(self.slot, None)])
        attachment.insert(vlm, vlm.base_model, MODULE, self)
        for listener in listeners:
            attachment.before(
                vlm, vlm.final_norm if listener.index == AFTER_ALL else blocks[listener.index], listener.hear
            )
        attachment.before(vlm, blocks[-1], self.listeners[-1].hear)  # type: ignore[operator, arg-type]
        if features == "raw":
            attachment.before(vlm, vlm.projector, self.feature_listener.raw)
        else:
            attachment.after(vlm, vlm.projector, self.feature_listener.adapted)
        attachment.after(vlm, vlm.base_model, self.finish)
        self.slot.head_listens = True

    def adapt(
        self, base_model: nn.Module, vision: Float[Tensor, "batch vision features"], mask: Bool[Tensor, "batch vision"]
    ) -> tuple[Float[Tensor, "batch seen dim"], Bool[Tensor, "batch seen"]]:
        """What the integrators look at, in the language model's width, and where it is."""
        return vision, mask

    def weigh(self, base_model: nn.Module, length: int, is_first: bool = True) -> Float[Tensor, "batch columns"] | None:
        """Weight of the image's branch at each of the ``length`` columns; None where the head has no such weight.

        ``is_first``: whether all text stands in this forward; False where it goes on with a cache.
        """
        return None

    @abstractmethod
    def combine(
        self,
        states: Float[Tensor, "batch chosen dim"],
        found: list[Float[Tensor, "batch chosen dim"]],
        weight: Float[Tensor, "batch chosen 1"] | None,
    ) -> Float[Tensor, "batch chosen dim"]:
        """The last hidden states of rows with a picture, from the language model's own and each integrator's."""

    def finish(self, base_model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Hook behind the base model: replaces ``last_hidden_state``, which comes first where it returns a tuple."""
        if isinstance(output, tuple):
            cache = next((part for part in output if isinstance(part, Cache)), None)
            return (self._mixed(base_model, args, kwargs, output[0], cache), *output[1:])
        cache = output.get("past_key_values")
        output.last_hidden_state = self._mixed(base_model, args, kwargs, output.last_hidden_state, cache)
        return output

    def _mixed(
        self, base_model: nn.Module, args: tuple, kwargs: dict[str, Any], states: Tensor, cache: Cache | None
    ) -> Tensor:
        """The last hidden states with the head's own where there is text of a row with a picture."""
        length = states.shape[1]
        first = HeadLayer.of(cache)
        past = 0 if first is None else first.get_seq_length()
        context = self.slot.read()
        vision = _vision(context)
        if not past and vision is None:
            return self._untouched(states)
        # Taken before anything else runs through the language model.
        heard = [context.notes["states", one.index] for one in self.listeners if one.index is not None]  # type: ignore[index]
        rotations = _rotations(context)
        there, text = self._places(base_model, args, kwargs, states, past)
        context.notes["there", 0], context.notes["text", 0] = there, text
        if past:
            assert first is not None
            known = self._continue_answer(base_model, cache, first, length)
        else:
            assert vision is not None
            refuse_earlier_text(cache, length)
            known = self._begin_answer(base_model, *vision, length)
        layers = self._layers(cache, known, past)
        places = Places.of(text)
        self.slot.record("columns", 0, places.index)
        self.slot.record("is_text", 0, places.mask)
        rotations = rotations and tuple(places.take(part.expand(len(states), -1, -1)) for part in rotations)
        found = [
            integrator(places.take(told), places, seen, rotations, layer, length)
            for integrator, told, seen, layer in zip(self.integrators, heard, known.seen, layers, strict=True)
        ]
        weight = None if known.weight is None else places.take(known.weight[..., None])
        own = places.take(states)
        mixed = self.combine(own, found, weight)
        return places.put(torch.where(known.has_image[:, None, None], mixed, own), states)

    def _begin_answer(self, base_model: nn.Module, vision: Tensor, mask: Tensor, length: int) -> AnswerState:
        """What the first forward of an answer, or of a training row, finds out."""
        sees = any(one.cross_attention is not None for one in self.integrators)
        has_image = mask.any(dim=1)
        adapted, mask = self.adapt(base_model, vision, mask) if sees else (None, mask)
        seen = [None if adapted is None else one.see(adapted, mask) for one in self.integrators]  # type: ignore[operator]
        return AnswerState(seen, has_image, self.weigh(base_model, length))

    def _continue_answer(self, base_model: nn.Module, cache: Any, first: HeadLayer, length: int) -> AnswerState:
        """What it remembers while the answer grows; a new question gets a weight of its own."""
        context = self.slot.read()
        layers = [HeadLayer.of(cache, number) for number in range(len(self.integrators))]
        if ("vision", 0) in context.notes:
            raise DataError(
                "a new picture on cached text", why="earlier text looked at other pictures", fix="start without a cache"
            )
        weight = first.side.get("weight")
        if weight is not None:
            is_new = length > 1 and "question" in first.side and not _equal(_question(context), first.side["question"])
            if is_new:
                first.side["question"] = _question(context)
                first.side["weight"] = weight = self.weigh(base_model, length, is_first=False)[:, -1:]  # type: ignore[index]
            weight = weight.expand(-1, length)
        return AnswerState([one.seen() for one in layers if one is not None], first.side["has_image"], weight)

    def _layers(self, cache: Any, known: AnswerState, past: int) -> list[HeadLayer | None]:
        """The cache's layers for what each integrator keeps; none where nothing is cached, or in training."""
        if past:
            return [HeadLayer.of(cache, number) for number in range(len(self.integrators))]
        if cache is None or (self.training and torch.is_grad_enabled()):
            return [None] * len(self.integrators)
        refuse_offloading(cache)
        layers = [HeadLayer.of(cache, number) or HeadLayer() for number in range(len(self.integrators))]
        cache.layers.extend(layer for layer in layers if not any(layer is one for one in cache.layers))
        for layer, seen in zip(layers, known.seen, strict=True):
            layer.remember(seen)
        layers[0].side["has_image"] = known.has_image
        if known.weight is not None:
            layers[0].side["weight"] = known.weight[:, -1:].detach()
            context = self.slot.read()
            if context.prompt_ids is not None:
                layers[0].side["question"] = _question(context)
        return list(layers)

    def _places(
        self, base_model: nn.Module, args: tuple, kwargs: dict[str, Any], states: Tensor, past: int
    ) -> tuple[Bool[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
        """Where there is something but padding, and where of that there is text."""
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is None and not past:
            raise DataError(
                "cannot tell text from images",
                why="a head needs input_ids, and inputs_embeds hold no image tokens",
                fix="pass input_ids",
            )
        there = states.new_ones(states.shape[:2], dtype=torch.bool)
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Mapping):  # by kind of layer, made beforehand for a cache of fixed size
            mask = mask.get("full_attention", next(iter(mask.values())))
        if isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[-1] >= past + there.shape[1]:
            # Whatever else a query may look at, in a window or all that is there, itself it sees unless it is padding.
            own = mask.diagonal(offset=past, dim1=-2, dim2=-1)[:, 0]
            there = there & (own if own.dtype == torch.bool else own == 0)
        elif isinstance(mask, Tensor) and mask.ndim == 2:
            there = mask[:, -there.shape[1] :].bool()
        return there, there if ids is None else there & (ids != base_model.config.image_token_id)

    def _untouched(self, states: Tensor) -> Tensor:
        """A batch of words alone: it reaches no tensor of the head.

        Processes that wait for each other's gradients need one for each of these tensors all the same: a zero
        (``models.idle`` does so for the eyes). Alone, a loss that reaches nothing that trains gets a backward.
        """
        if not (self.training and torch.is_grad_enabled()):
            return states
        if distributed.is_available() and distributed.is_initialized():
            for parameter in self.parameters():
                if parameter.requires_grad:
                    states = states + (parameter.sum() * 0).to(states.dtype)
        elif not (states.requires_grad or self.lm_head_trains):
            states = states + states.new_zeros(()).requires_grad_()
        return states


def refuse_unfit(vlm: VLM) -> None:
    """Raises where mixing hidden states is not mixing logits, and where images stand in no column of the text."""
    if vlm.family.cross_attends:
        raise ConfigError(
            f"a head cannot hear the images of {vlm.family.config}",
            why="its language model attends across to tiles of several layers; no column of its text holds an image",
            fix="choose another model, or head 'none'",
        )
    cap = getattr(vlm.config.get_text_config(), "final_logit_softcapping", None)
    if cap is not None:
        raise ConfigError(
            f"a head cannot mix the states of {vlm.family.config}",
            why=f"its logits are capped at {cap} by a curve, so that mixed states are not mixed logits",
            fix="choose another model, or head 'none'",
        )


def refuse_earlier_text(cache: Any, length: int) -> None:
    """Raises where text before the first picture was cached already."""
    if cache is not None and cache.get_seq_length() > length:
        raise DataError(
            "a picture came after the first words were cached",
            why="the head has kept nothing of them",
            fix="start without past_key_values",
        )


def refuse_offloading(cache: Cache) -> None:
    """Raises for a cache whose layers wait in the CPU's memory: one behind the model's last breaks their turns."""
    if cache.offloading:
        raise DataError(
            "a head cannot keep what it needs in an offloaded cache",
            why="behind the last block it would fetch the head's layer in the place of the first block's",
            fix="generate with another cache_implementation, or with use_cache=False",
        )


def _vision(context: Context) -> tuple[Tensor, Tensor] | None:
    """Features [batch, vision, dim] and where they are; None if no row has a picture."""
    if ("vision", 0) in context.notes:
        return context.notes["vision", 0], context.notes["vision_mask", 0]
    if context.vision_features is not None:
        assert context.vision_mask is not None
        return context.vision_features, context.vision_mask.bool()
    return None


def _rotations(context: Context) -> tuple[Tensor, ...] | None:
    """cos and sin [batch, tokens, rotated]. Models with several position axes count text alike on all of them."""
    if ("cos", 0) not in context.notes:
        return None
    parts = (context.notes["cos", 0], context.notes["sin", 0])
    return tuple(part[0] if part.ndim == 4 else part for part in parts)


def _question(context: Context) -> Tensor:
    """[batch, tokens] what a row's last question is known by."""
    if context.prompt_ids is None or context.prompt_mask is None:
        raise no_question()
    return (context.prompt_ids * context.prompt_mask).flatten(1)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
