"""CARPE: the question decides how much an answer relies on raw vision (arXiv:2601.13622v1; methods.md 6).

No code is public; where the paper is silent the choice is ours and says so. Letters: ``h^l`` are the language model's
last states, ``h^v`` the integrator's, ``(w_v, w_l)`` the weights of a turn, z = w_v W h^v + w_l W h^l. Logits are
linear in the states and weights sum to 1, so states are mixed once, before the shared head: h^l + w_v (h^v - h^l),
which is ``h^l`` to the bit where both are the same.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from yarbus.core.errors import ConfigError, DataError
from yarbus.methods.context_prompt import ContextPrompt, SequenceInputs, looks_both_ways, no_question
from yarbus.methods.encoders import EncoderMixture, raw_adapter
from yarbus.methods.head import AFTER_ALL, MODULE, Head, refuse_unfit
from yarbus.models.attachment import Attachment, Method, Start
from yarbus.models.context import context_of
from yarbus.models.encoders import EncoderSpec, encoders_of, specs_of
from yarbus.models.feature_cache import FeatureCache
from yarbus.models.slot import Context, ContextSlot
from yarbus.models.vlm import VLM

WEIGHTS = ("prompt.", "context_encoder.", "scalar", "mixture.router.")
"""Parameters that decide by the question: beginnings of their names."""
KINDS = ("columns", "is_text", "language_states", "vision_states", "vision_weight")
"""What the head notes of a forward for ``branches``."""


class SequenceListener(nn.Module):
    """Notes the sequence that goes into the language model."""

    def __init__(self, slot: ContextSlot) -> None:
        super().__init__()
        self.slot = slot

    def hear(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Pre-hook of the language model."""
        if self.slot.context is not None:
            embeddings, positions = kwargs["inputs_embeds"], kwargs.get("position_ids")
            if positions is None:
                positions = torch.arange(embeddings.shape[1], device=embeddings.device).expand(len(embeddings), -1)
            self.slot.context.notes.update({("embeddings", 0): embeddings, ("positions", 0): positions})
        return args, kwargs


class CarpeHead(Head):
    """Raw-feature adapter, integrator, context prompt and context encoder."""

    def __init__(self, method: "CARPE", slot: ContextSlot, vlm: VLM) -> None:
        super().__init__(slot, vlm, method.train_lm_head)
        self.method = method
        self.add_integrator(vlm, method.num_heads, method.mlp_ratio, method.cross_attention)
        dim = vlm.language_dim
        like = next(vlm.final_norm.parameters())
        self.norm = copy.deepcopy(vlm.final_norm)
        """``RMSNorm_v``, which starts as the language model's final norm (ours)."""
        self.norm.requires_grad_(True)
        self.adapter: nn.Module | None = None
        self.mixture: EncoderMixture | None = None
        self.prompt: ContextPrompt | None = None
        self.context_encoder: nn.Linear | None = None
        self.scalar: nn.Parameter | None = None
        self.sequence_listener: SequenceListener | None = None
        with like.device:
            if method.encoders:
                self.mixture = EncoderMixture(method.balance_loss, vlm, slot)
            elif method.cross_attention and method.features == "raw":
                self.adapter = raw_adapter(vlm.feature_dim, dim, like)
            if method.reads_prompt:
                self.prompt = ContextPrompt(vlm.model.get_input_embeddings())
            if method.weighting == "context":
                self.context_encoder = nn.Linear(dim, 2, dtype=like.dtype)
                nn.init.zeros_(self.context_encoder.weight)
                nn.init.zeros_(self.context_encoder.bias)
            elif method.weighting == "scalar":
                self.scalar = nn.Parameter(torch.zeros(2, dtype=like.dtype))
        if method.weighting == "context" and method.context_pass != "text_only":
            self.sequence_listener = SequenceListener(slot)

    def adapt(
        self, base_model: nn.Module, vision: Float[Tensor, "batch vision features"], mask: Bool[Tensor, "batch vision"]
    ) -> tuple[Float[Tensor, "batch seen dim"], Bool[Tensor, "batch seen"]]:
        """``r'``: the features as they are where they come from the model's own projector."""
        if self.mixture is None:
            return (vision if self.adapter is None else self.adapter(vision)), mask
        inputs = self.slot.read().encoders
        is_chosen = inputs is not None and inputs.choice is not None
        last = None if is_chosen else self._last_states(base_model)
        return self.mixture(encoders_of(base_model), last, vision, mask)

    @torch.no_grad()
    def choose_once(self, base_model: nn.Module, input_ids: Tensor | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Before ``generate``: further encoders are chosen and run once, however many beams and words follow."""
        if self.mixture is None or kwargs.get("pixel_values") is None:
            return kwargs
        with self.slot.holding(context_of(base_model, input_ids, kwargs, kwargs)):
            states, last = self._prompt_states(base_model), self._last_states(base_model)
            return self.mixture.prepared(encoders_of(base_model), states, last, kwargs)

    def _last_states(self, base_model: nn.Module) -> Float[Tensor, "batch dim"]:
        """The context prompt behind each row's last question."""
        states, context = self._prompt_states(base_model), self.slot.read()
        assert context.prompt_mask is not None
        last = context.prompt_mask.any(dim=-1).sum(dim=1).clamp(min=1) - 1
        return states[torch.arange(len(states), device=last.device), last]

    def _prompt_states(self, base_model: nn.Module) -> Float[Tensor, "batch turns dim"]:
        """The context prompt behind each turn's text alone, once in a forward."""
        assert self.prompt is not None
        context = self.slot.read()
        if context.encoders is not None and context.encoders.states is not None:
            return context.encoders.states
        if ("prompt_states", 0) not in context.notes:
            states = self.prompt.after_text(base_model, base_model.get_submodule(self.language_path), context)
            context.notes["prompt_states", 0] = states
        return context.notes["prompt_states", 0]

    def _untouched(self, states: Tensor) -> Tensor:
        if self.mixture is not None:
            self.mixture.take_no_part()
        return super()._untouched(states)

    def combine(
        self,
        states: Float[Tensor, "batch chosen dim"],
        found: list[Float[Tensor, "batch chosen dim"]],
        weight: Float[Tensor, "batch chosen 1"] | None,
    ) -> Float[Tensor, "batch chosen dim"]:
        """z = W (h^l + w_v (h^v - h^l))."""
        assert weight is not None
        seen = self.norm(found[0])
        for kind, values in (("language_states", states), ("vision_states", seen), ("vision_weight", weight[..., 0])):
            self.slot.record(kind, 0, values)
        return states + weight.to(states.dtype) * (seen - states)

    def weigh(self, base_model: nn.Module, length: int, is_first: bool = True) -> Float[Tensor, "batch columns"]:
        """``w_v`` at every column; computed in fp32."""
        context = self.slot.read()
        rows, method = context.num_rows, self.method
        if method.weighting == "fixed":
            device = next(self.norm.parameters()).device
            return torch.full((rows, length), method.vision_weight, device=device)
        if self.scalar is not None:
            return self.scalar.float().softmax(dim=-1)[0].expand(rows, length)
        states = self._context_states(base_model, length, is_first)
        assert self.context_encoder is not None
        with torch.autocast(states.device.type, enabled=False):
            encoder = self.context_encoder
            logits = F.linear(states.float(), encoder.weight.float(), encoder.bias.float())
        weights = logits.softmax(dim=-1)  # [batch, turns, 2]
        self.slot.record("mixing_weights", 0, weights)
        turn = context.turn_of_position(length)
        if method.one_per == "conversation":
            turn = turn.amax(dim=1, keepdim=True).expand_as(turn)
        return weights[..., 0].gather(1, turn)

    def _context_states(self, base_model: nn.Module, length: int, is_first: bool) -> Float[Tensor, "batch turns dim"]:
        """State of the context prompt behind each turn's question."""
        assert self.prompt is not None
        context, language_model = self.slot.read(), base_model.get_submodule(self.language_path)
        if self.sequence_listener is None:
            return self._prompt_states(base_model)
        if not is_first:
            raise DataError(
                f"a new question on cached text with context_pass '{self.method.context_pass}'",
                why="its prompt looks at the whole sequence, of which the cache keeps no embeddings",
                fix="start without a cache",
            )
        notes = context.notes
        heard = SequenceInputs(
            notes["embeddings", 0], notes["positions", 0], notes["there", 0], notes["text", 0], _ends(context, length)
        )
        return self.prompt.in_sequence(language_model, heard, self.method.context_pass == "joint")


def _ends(context: Context, length: int) -> Int[Tensor, "batch turns"]:
    """Column behind each turn's question: where its answer begins, or the end of a prompt."""
    if context.prompt_mask is None:
        raise no_question()
    num_turns, index = context.prompt_mask.shape[1], context.turn_index
    if index is not None and index.shape[1] > length:
        raise DataError(
            "a prompt in pieces",
            why="the weights of this context_pass look at all of it, before the first piece is answered",
            fix="generate without prefill_chunk_size",
        )
    if index is None or index.shape[1] != length:  # an answer that grows without a cache stands behind its prompt
        end = length if index is None else index.shape[1]
        return context.prompt_mask.new_full((context.num_rows, num_turns), end, dtype=torch.long)
    is_answer = index[:, None] == torch.arange(num_turns, device=index.device)[:, None]
    return torch.where(is_answer.any(dim=-1), is_answer.to(torch.uint8).argmax(dim=-1), length)


@dataclass(frozen=True, kw_only=True)
class CARPE(Method):
    """The head mixes language and raw-vision states by a weight that depends on the question.

    Trained: adapter of the raw features, integrator, lm_head (group ``head``), context prompt and context encoder
    (group ``router``: give it a rate with ``frozen_fraction``, as the paper trains both from its second epoch on). An
    lm_head that shares its weight with the embedding table gets a copy of its own: training the head must not move the
    words that go in. With the paper's queries attaching changes the outputs; with ``final_prenorm`` it changes nothing.
    Weights start as one half each.
    """

    name: ClassVar[str] = "carpe"
    places: ClassVar[tuple[str, ...]] = ("head",)
    start: ClassVar[Start] = "changes"
    silent: ClassVar[tuple[str, ...]] = (
        "adapter.", "context_encoder.", "prompt.", "scalar", "integrators.0.norms.", ".query.", ".key.", ".value.",
        ".up.", "mixture.",
    )  # fmt: skip
    """What lies behind an output layer that starts as zero; and the weights, where both states are still the same."""
    mute: ClassVar[tuple[str, ...]] = ("mixture.adapters.",)
    """The adapter of an encoder that no row chose."""
    reasons: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(silent, "the output layer behind it starts as zero, so that both states are the same"),
        **dict.fromkeys(mute, "no row chose its encoder"),
    }
    paper: ClassVar[str] = "arXiv:2601.13622"

    queries: Literal["second_last", "final_prenorm"] = "second_last"
    """What looks at the image: the last block's input (the paper's "second-to-last output"), or its output, before the
    final norm (ours), with which attaching is the identity."""
    features: Literal["raw", "adapted"] = "raw"
    """The tower's features, or what the projector makes of them (a control)."""
    weighting: Literal["context", "scalar", "fixed"] = "context"
    """By the question; one pair for all, learned; or ``vision_weight``. The last two are controls."""
    vision_weight: Annotated[float, Ge(0), Le(1)] = 0.5
    """``w_v`` of ``weighting`` fixed. 0 is the lm_head trained alone: nothing is inserted."""
    context_pass: Literal["text_only", "masked", "joint"] = "text_only"
    """What the context prompt sees: text without pictures, in a pass of its own; the sequence but for its pictures,
    through states that have seen them; or the whole sequence. The last two are for ablation, and refused where the
    language model is told more of pictures than their embeddings (Gemma3, Molmo2, PaliGemma, Qwen3-VL)."""
    one_per: Literal["turn", "conversation"] = "turn"
    """A pair of weights for each answered turn, or the last turn's for all."""
    cross_attention: bool = True
    """False leaves the integrator its self-attention and network: more depth without more vision (a control)."""
    train_lm_head: bool = True
    """False keeps the lm_head as it is (a control)."""
    num_heads: Annotated[int, Ge(1)] | None = None
    """Of both attentions; None is as many as the language model has."""
    mlp_ratio: Annotated[float, Gt(0)] = 4.0
    """Width of the integrator's network over the model's."""
    encoders: dict[str, str | dict[str, str | int | None]] | None = None
    """Vision encoders beside the base's own tower, of which the question chooses one for each row (CARPE-MoE): name ->
    hub id, folder or ``plug-in:path``, or ``{path: ..., layer: -2}`` with the hidden state to read. They are frozen."""
    balance_loss: Annotated[float, Ge(0)] = 0.01
    """Coefficient of the loss that shares rows out among the encoders (ours; methods.md 6.7)."""
    feature_cache: str | None = field(default=None, compare=False)
    """Folder that keeps what the further encoders make of each picture; None keeps nothing. It is no part of an adapter
    and may be deleted at any time."""
    feature_cache_mib: Annotated[int, Ge(1)] = field(default=20_000, compare=False)
    """Most that the folder takes; what was used longest ago goes first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        written = {name: spec.written() for name, spec in self.further_encoders.items()}
        object.__setattr__(self, "encoders", written or None)
        if self.encoders:
            self._check_encoders()
        if not self.inserts and not self.train_lm_head:
            raise ConfigError("carpe would train nothing", fix="set vision_weight above 0, or train_lm_head to true")

    def _check_encoders(self) -> None:
        """Raises where the encoders would not be looked at, or their router could see a picture."""
        for is_wrong, option, why in (
            (not self.inserts, "vision_weight 0", "nothing looks at a picture then"),
            (not self.cross_attention, "cross_attention false", "nothing looks at a picture then"),
            (self.features != "raw", f"features '{self.features}'", "only the base has a projector of its own"),
            (self.context_pass != "text_only", f"context_pass '{self.context_pass}'", "their router reads text alone"),
        ):
            if is_wrong:
                raise ConfigError(f"carpe has encoders and {option}", why=why, fix="leave one of them out")

    def __hash__(self) -> int:
        return hash(json.dumps(self.spec(), sort_keys=True))

    def spec(self) -> dict[str, Any]:
        """Without where features are kept, and without what only counts with encoders where there are none."""
        left_out = {"feature_cache", "feature_cache_mib"} | (set() if self.encoders else {"encoders", "balance_loss"})
        return {key: value for key, value in super().spec().items() if key not in left_out}

    @property
    def further_encoders(self) -> Mapping[str, EncoderSpec]:
        return specs_of(self.encoders)

    @property
    def draws_at_random(self) -> bool:
        return bool(self.encoders)

    @property
    def depends_on_micro_batch(self) -> bool:
        return bool(self.encoders and self.balance_loss)

    @classmethod
    def preset(cls, name: Literal["paper", "ours"], **changes: object) -> "CARPE":
        """The method as the paper says, or as we recommend: with queries that leave the outputs as they are."""
        presets: dict[str, dict[str, object]] = {"paper": {}, "ours": {"queries": "final_prenorm"}}
        if name not in presets:
            raise ConfigError(f"unknown preset '{name}' of carpe", fix=f"use one of: {', '.join(presets)}")
        return replace(cls(**presets[name]), **changes)  # type: ignore[arg-type]

    @property
    def inserts(self) -> bool:
        """Whether there is anything but the lm_head."""
        return self.weighting != "fixed" or self.vision_weight > 0

    @property
    def starts(self) -> Start:
        return "identity" if self.queries == "final_prenorm" or not self.inserts else "changes"

    @property
    def reads_prompt(self) -> bool:
        return self.weighting == "context" or bool(self.encoders)

    def groups(self, place: str) -> tuple[str, ...]:
        groups = ("head",) if self.inserts or self.train_lm_head else ()
        return (*groups, "router") if self.weighting != "fixed" or self.encoders else groups

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        refuse_unfit(vlm)
        if self.reads_prompt:
            _refuse_pass(vlm, "text_only" if self.weighting != "context" else self.context_pass)
        if self.train_lm_head:
            attachment.untie(vlm)
            attachment.train(list(vlm.lm_head.parameters()), group="head")
        if not self.inserts:
            return
        head = CarpeHead(self, attachment.slot, vlm)
        heard = AFTER_ALL if self.queries == "final_prenorm" else len(vlm.language_blocks) - 1
        head.attach(vlm, attachment, [heard], self.features)
        if head.sequence_listener is not None:
            attachment.before(vlm, vlm.language_model, head.sequence_listener.hear)
        named = dict(head.named_parameters())
        for group, is_weight in (("head", False), ("router", True)):
            attachment.train([p for name, p in named.items() if name.startswith(WEIGHTS) is is_weight], group=group)
        if self.encoders:
            attachment.preludes.append(head.choose_once)
        for encoder in encoders_of(vlm.base_model).values() if self.feature_cache else ():
            encoder.cache = FeatureCache(self.feature_cache, self.feature_cache_mib * 2**20)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Branches:
    """What each branch of one forward says alone, at the positions of text; all of it on the CPU."""

    columns: Int[Tensor, "batch chosen"]
    """Column of each position in ``input_ids``."""
    mask: Bool[Tensor, "batch chosen"]
    """False behind a row's last position."""
    vision_logits: Float[Tensor, "batch chosen vocabulary"]
    language_logits: Float[Tensor, "batch chosen vocabulary"]
    weight: Float[Tensor, "batch chosen"]
    """``w_v``. Rows without a picture are answered by the language branch, whatever it says."""


@torch.no_grad()
def branches(model: nn.Module, batch: Mapping[str, Any]) -> Branches:
    """Both branches' logits apart, for diagnosis: training and generation mix their states before the head.

    ``model``: with ``CARPE`` attached. ``batch``: as its processor makes it, at least one row with a picture.
    """
    head = getattr(model.base_model, MODULE, None)
    if not isinstance(head, CarpeHead):
        raise ConfigError("no carpe is attached to this model", fix="attach head=CARPE(...) first")
    with head.slot.recording() as recorder:
        model(**batch)
    found = {kind: values[0][0] for kind in KINDS if (values := recorder.of(kind))}
    if not found:
        raise DataError("no row has a picture", why="only the language branch has answered", fix="pass another batch")
    device = model.lm_head.weight.device  # type: ignore[union-attr]
    vision, language = (model.lm_head(found[f"{one}_states"].to(device)).cpu() for one in ("vision", "language"))  # type: ignore[operator]
    return Branches(found["columns"], found["is_text"], vision, language, found["vision_weight"])


def _refuse_pass(vlm: VLM, context_pass: str) -> None:
    """Raises where a second pass through the language model would not see what it should, or more."""
    if context_pass != "text_only" and not vlm.family.images_are_embeddings:
        raise ConfigError(
            f"context_pass '{context_pass}' does not work with {vlm.family.config}",
            why="its language model is told more of pictures than their embeddings, which a second pass would lack",
            fix="use context_pass 'text_only', or another model",
        )
    computed = getattr(vlm.language_model.config, "_attn_implementation", None)
    needs_mask = context_pass != "text_only" or looks_both_ways(vlm.language_model)
    if needs_mask and computed not in ("eager", "sdpa"):
        raise ConfigError(
            f"context_pass '{context_pass}' of {vlm.family.config} does not work with attention '{computed}'",
            why="it needs a mask of its own",
            fix="load the model with attn_implementation='sdpa'",
        )
