"""The thin class swap on the top model.

It adds the ``context_*`` names to the signature (which ``generate``, Trainer and TRL inspect),
fills the slot for the image encoding that ``generate`` of transformers 5.23 does before any forward,
binds checkpointing to the slot, and saves under a weights variant that plain ``AutoModel`` refuses.
Everything else stays the library's.
"""

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.models.channel import channel_of
from yarbus.models.context import context_of, refuse_videos, row_keys
from yarbus.models.recompute import bind
from yarbus.models.vlm import VLM

VARIANT = "yarbus"
"""Weights variant of a full model: plain ``from_pretrained`` finds no weights instead of re-initialising ours."""

PLAIN = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
"""What plain ``from_pretrained`` looks for."""
BETWEEN = "__"
"""Stands between a class's name and those of its encoders, which hold no two underscores."""


class ContextMixin:
    """What a top model with a context slot does differently."""

    @property
    def _no_split_modules(self) -> set[str]:
        """As the library's, with the vision blocks: some families list their attention alone, so that what shards by
        this list would leave the rest of a block, with all that is inserted there, in the root's one unit.

        The text encoder's blocks are not in it: its results are cached, so that processes run it at different times,
        and one that runs a unit waits for all others.
        """
        blocks = VLM.of(self).blocks()  # type: ignore[arg-type]
        return {*(self.__dict__.get("_no_split_modules") or ()), *(type(block).__name__ for block in blocks)}

    @_no_split_modules.setter
    def _no_split_modules(self, names: Any) -> None:
        self.__dict__["_no_split_modules"] = names

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = None, **kwargs: Any
    ) -> None:
        checkpoint = gradient_checkpointing_func or torch.utils.checkpoint.checkpoint
        if enable and not getattr(checkpoint, "is_bound", False):
            checkpoint = bind(checkpoint, self.base_model.context_slot)  # type: ignore[attr-defined]
        super()._set_gradient_checkpointing(  # type: ignore[misc]
            enable=enable, gradient_checkpointing_func=checkpoint, **kwargs
        )

    def _replicate_for_data_parallel(self) -> Any:
        """``nn.DataParallel``, which Trainer takes for several GPUs in one process, cuts a batch into parts."""
        raise ConfigError(
            "nn.DataParallel is not supported",
            why="it shares out pictures and rows by number, so that pictures would answer to questions of other rows",
            fix="start a process per GPU (torchrun, accelerate launch), or let it see one GPU (CUDA_VISIBLE_DEVICES)",
        )

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor: Tensor, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """5.23 encodes images here. The channel stays in ``model_kwargs``, expands with beams and reaches prefill."""
        base = self.base_model  # type: ignore[attr-defined]
        context = None
        if model_kwargs.get("pixel_values") is not None:
            ids = model_kwargs.get("input_ids") if inputs_tensor.is_floating_point() else inputs_tensor
            if ids is not None and ids.shape[1] == 0:  # what the library makes up beside embeddings
                ids = None
            context = context_of(base, ids, model_kwargs, model_kwargs)
        with base.context_slot.holding(context):
            prepared = super()._maybe_prepare_encoder_kwargs_for_generation(  # type: ignore[misc]
                inputs_tensor, model_kwargs, *args, **kwargs
            )
        if context is not None and ("vision", 0) in context.notes:  # a head reads them in the first forward
            prepared["context_vision_features"] = context.notes["vision", 0]
            prepared["context_vision_mask"] = context.notes["vision_mask", 0]
        return prepared

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the library's. What holds for a prompt stays so while the answer grows: random draws, where it ends."""
        refuse_videos(kwargs)
        ids = kwargs.get("input_ids") if inputs is None else inputs
        base = self.base_model  # type: ignore[attr-defined]
        if ids is not None:
            methods = base.context_attachment.places.values()
            fixed: dict[str, Any] = {}
            if any(method.draws_at_random for method in methods):
                fixed["context_row_key"] = row_keys(base.config, ids, kwargs.get("attention_mask"))
            if any(method.reads_prompt for method in methods):
                fixed["context_turn_index"] = torch.full_like(ids, -1)
            kwargs.update({key: value for key, value in fixed.items() if kwargs.get(key) is None})
        for prelude in base.context_attachment.preludes:
            kwargs = prelude(base, ids, kwargs)
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]

    def _get_candidate_generator(self, **kwargs: Any) -> Any:
        """An assistant without a slot of its own gets nothing of the channel, which it would refuse."""
        assistant = kwargs.get("assistant_model")
        if assistant is not None and not isinstance(assistant, ContextMixin):
            given = kwargs["model_kwargs"]
            others = {name: value for name, value in given.items() if not name.startswith("context_")}
            kwargs["model_kwargs"] = others
        return super()._get_candidate_generator(**kwargs)  # type: ignore[misc]

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """As the library's, under the weights variant ``yarbus`` and with what ``yarbus.load`` needs in the config.

        So do Trainer's checkpoints and whatever else saves a model by this call. A folder with plain weights, such as
        the base's, is refused: plain ``from_pretrained`` would take those for the model.
        """
        folder = Path(save_directory)
        found = next((name for name in PLAIN if (folder / name).exists()), None)
        if found is not None:
            raise CheckpointError(
                "a plain model lies here",
                where=folder / found,
                why="beside ours, plain from_pretrained would load its weights without a word",
                fix="name another folder, or remove the plain model's weights",
            )
        from yarbus.models.save import describe  # it imports this file

        self.config.yarbus = describe(self)  # type: ignore[attr-defined, arg-type]
        try:
            super().save_pretrained(save_directory, **{"variant": VARIANT, **kwargs})  # type: ignore[misc]
        finally:
            del self.config.yarbus  # type: ignore[attr-defined]
        has_written = kwargs.get("is_main_process", True)
        if has_written and any(folder.glob(f"model.{VARIANT}-*.safetensors")):  # an older whole file would go first
            (folder / f"model.{VARIANT}.safetensors").unlink(missing_ok=True)


def context_class(cls: Any, encoders: tuple[str, ...] = ()) -> type:
    """The class of ``cls`` with a context slot: one per library class, and names of further vision encoders."""
    return _context_class(cls, encoders)


@cache  # by both, however they were passed: two classes of one name could not be pickled
def _context_class(cls: Any, encoders: tuple[str, ...]) -> type:
    name = BETWEEN.join((f"Context{cls.__name__}", *encoders))
    signature = inspect.signature(cls.forward)  # type: ignore[attr-defined]
    parameters = list(signature.parameters.values())
    extra = [inspect.Parameter(key.name, inspect.Parameter.KEYWORD_ONLY, default=None) for key in channel_of(encoders)]
    catch_all = [parameter for parameter in parameters if parameter.kind is inspect.Parameter.VAR_KEYWORD]
    named = [parameter for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD]

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return cls.forward(self, *args, **kwargs)  # type: ignore[attr-defined]

    # Set outright: with functools.wraps, readers of the signature would follow __wrapped__ past the new names.
    forward.__signature__ = signature.replace(parameters=named + extra + catch_all)  # type: ignore[attr-defined]
    swapped = type(name, (ContextMixin, cls), {"__module__": __name__, "forward": forward, "plain_class": cls})
    globals()[name] = swapped  # pickle and multiprocessing look classes up by name
    return swapped


def __getattr__(name: str) -> type:
    """A context class in a process that has not made it yet, so that a pickled model opens there."""
    import transformers

    library, *encoders = name.removeprefix("Context").split(BETWEEN)
    plain = getattr(transformers, library, None) if name.startswith("Context") else None
    if plain is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return context_class(plain, tuple(encoders))
