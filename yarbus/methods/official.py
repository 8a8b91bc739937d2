"""CoVFT towers by the names of the authors' code (methods.md 4.4), there and back, for LLaVA with a CLIP tower.

Their layer keeps an expert per module, and attends through ``nn.MultiheadAttention``, whose key weights have a half
that reads the question and whose keys have a bias. Neither changes its output: here they are left out, there zeros.
Their layer computes what ``CoVFT.preset("official")`` does; the tensors do not say so. ``load_official`` checks what
it can.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import product

import torch
from torch import Tensor, nn

from yarbus.core.errors import ConfigError, MismatchError
from yarbus.methods.covft import CoVFT
from yarbus.models.attachment import adapter_tensors, attachment_of
from yarbus.models.vlm import VLM

OFFICIAL = "model.vision_tower.vision_tower.vision_model."
"""What names of the tower's tensors begin with there."""
OURS = "model.vision_tower."
"""And here."""

_MODULES = {
    "image_resblock.fc1": "extractor.image_residual.up",
    "image_resblock.fc2": "extractor.image_residual.down",
    "image_resblock.ln": "extractor.image_residual.norm",
    "text_resblock.fc1": "extractor.text_residual.up",
    "text_resblock.fc2": "extractor.text_residual.down",
    "text_resblock.ln": "extractor.text_residual.norm",
    "cross_attn.out_proj": "extractor.output",
    "gate": "router",
}
_RENAMED = {
    **{f"{there}.{kind}": f"{here}.{kind}" for (there, here), kind in product(_MODULES.items(), ("weight", "bias"))},
    "cross_attn.q_proj_weight": "extractor.query.weight",
    "cross_attn.v_proj_weight": "extractor.value.weight",
}
"""Tensors of a mixture that are the same here and there."""
_STACKED = {"0.weight": ("up_weight", 0), "0.bias": ("up_bias", 0), "2.weight": ("down_weight", 1)}
_STACKED |= {"2.bias": ("down_bias", 0)}
"""Tensors of each expert there -> tensor of all experts here, and its axis of experts."""
_MIXTURE = re.compile(r"(encoder\.layers\.\d+\.mlp\.)(?!fc[12]\.)(.+)")
_PLAIN = re.compile(
    r"embeddings\.(class_embedding|(patch|position)_embedding\.weight)|(pre_layrnorm|post_layernorm)\.(weight|bias)"
    r"|encoder\.layers\.\d+\.(layer_norm[12]|self_attn\.(q|k|v|out)_proj|mlp\.fc[12])\.(weight|bias)"
)
"""Tensors of a CLIP tower outside of mixtures: only what stands before their name differs."""

_COMPUTES = ("context", "routing", "activation", "num_heads", "temperature")
"""Options that say what the layer computes and that no tensor's shape shows."""

Mixture = Mapping[str, Tensor]
"""The tensors of one block's mixture, by name."""


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors for those of the official code's tower; exact, as what is left out never mattered.

    ``load_official`` puts them into a model.

    Raises ``MismatchError`` for a tensor that is unknown or missing in a mixture.
    """
    return _renamed(state, OFFICIAL, OURS, _mixture_from_official)


@torch.no_grad()
def load_official(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives a model with ``CoVFT.preset("official")`` the official code's tower; on an error nothing has changed.

    ``state`` must hold every tensor that the model's method trains. Those that it does not train are the base's: they
    may be left out, and are compared and not copied, so that an adapter saved afterwards is whole.

    Raises:
        ConfigError: the attached method computes something else than the official layer.
        MismatchError: a tensor is unknown, missing, of another shape, or of another base.
    """
    _check_method(model)
    found = from_official(state)
    fix = _fitting(found)
    trained = {name: tensor for name, tensor in adapter_tensors(model).items() if name.startswith(OURS)}
    whole = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(OURS)}
    for name in sorted(found.keys() | trained.keys()):
        if name not in found or name not in whole:
            where = "the official tensors" if name in whole else "the model"
            raise MismatchError(f"tensor '{name}' is not in {where}", fix=fix)
        if found[name].shape != whole[name].shape:
            shapes = f"official {tuple(found[name].shape)}, the model's {tuple(whole[name].shape)}"
            raise MismatchError(f"tensor '{name}' does not fit", why=shapes, fix=fix)
        if name not in trained and not _agree(found[name], whole[name]):
            raise MismatchError(
                f"tensor '{name}' is not the base's",
                why="the attached method does not train it",
                fix="attach to the base that the official model was trained from, with layernorm='all'",
            )
    for name, tensor in trained.items():
        tensor.copy_(found[name])


def _check_method(model: nn.Module) -> None:
    method, official = attachment_of(model).places.get("vision"), CoVFT.preset("official")
    if not isinstance(method, CoVFT):
        raise ConfigError(
            f"vision method '{method.name if method else 'frozen'}' is not covft",
            fix="attach vision=CoVFT.preset('official')",
        )
    used = {option: getattr(method, option) for option in _COMPUTES}
    used["activation"] = method.activation or VLM.of(model).activation
    for option, value in used.items():
        wanted = getattr(official, option)
        if value != wanted:
            raise ConfigError(
                f"option '{option}' of the attached covft is {value!r}",
                why=f"the official layer computes with {wanted!r}, and its tensors would load all the same",
                fix="attach vision=CoVFT.preset('official')",
            )


def _fitting(found: Mapping[str, Tensor]) -> str:
    """What to attach for these tensors."""
    queries = {name: tensor for name, tensor in found.items() if name.endswith("extractor.query.weight")}
    if not queries:
        return "give the tower of a CoVFT model"
    blocks = sorted(int(name.split(".layers.")[1].partition(".")[0]) for name in queries)
    first = next(iter(queries))
    experts, context_dim = len(found[first.replace("extractor.query", "router")]), len(queries[first])
    options = f"first_block={blocks[0]}, last_block={blocks[-1]}, num_experts={experts}, context_dim={context_dim}"
    return f"attach CoVFT.preset('official', {options}) and a text encoder as wide as the context; give all its tensors"


def _agree(one: Tensor, other: Tensor) -> bool:
    """Equal but for a rounding to bf16."""
    return torch.allclose(one.to(other.device).float(), other.float(), rtol=2**-7, atol=1e-6)


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tower's tensors (of an adapter, or a state dict) by the official code's names, zeros where we have none.

    Raises ``MismatchError`` for a tensor that has no counterpart there, or is missing in a mixture.
    """
    return _renamed(state, OURS, OFFICIAL, _mixture_to_official)


def _renamed(
    state: Mapping[str, Tensor], before: str, after: str, convert: Callable[[str, Mixture], dict[str, Tensor]]
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    mixtures: dict[str, dict[str, Tensor]] = {}
    for full, tensor in state.items():
        name = full.removeprefix(before)
        mixture = _MIXTURE.fullmatch(name)
        if not full.startswith(before) or not (mixture or _PLAIN.fullmatch(name)):
            raise _refusal("unknown", full)
        if mixture is None:
            found[after + name] = tensor
        else:
            mixtures.setdefault(mixture[1], {})[mixture[2]] = tensor
    for block, tensors in mixtures.items():
        found |= {f"{after}{block}{name}": tensor for name, tensor in convert(before + block, tensors).items()}
    return found


def _refusal(why: str, name: str) -> MismatchError:
    fix = "give the tensors of a LLaVA-CLIP tower alone, and all of each mixture (context cve, text as wide as it)"
    return MismatchError(f"tensor '{name}' is {why}", fix=fix)


def _check_names(prefix: str, tensors: Mixture, expected: Iterable[str]) -> None:
    for name in expected:
        if name not in tensors:
            raise _refusal("missing", prefix + name)
    for name in tensors:
        if name not in expected:
            raise _refusal("unknown", prefix + name)


def _mixture_from_official(prefix: str, tensors: Mixture) -> dict[str, Tensor]:
    numbers = range(max(1, len({name.split(".")[1] for name in tensors if name.startswith("experts.")})))
    experts = {f"experts.{number}.{part}" for number in numbers for part in _STACKED}
    _check_names(prefix, tensors, {*_RENAMED, *experts, "cross_attn.k_proj_weight", "cross_attn.in_proj_bias"})
    found = {here: tensors[there] for there, here in _RENAMED.items()}
    for part, (name, axis) in _STACKED.items():
        found[name] = torch.stack([tensors[f"experts.{number}.{part}"] for number in numbers], dim=axis)
    context_dim, vision_dim = len(tensors["gate.weight"].T), len(tensors["experts.0.2.bias"])
    picture, _ = tensors["cross_attn.k_proj_weight"].split([vision_dim, context_dim], dim=1)
    query, _, value = tensors["cross_attn.in_proj_bias"].split(context_dim)
    return found | {
        "extractor.key_weight": picture.clone(memory_format=torch.contiguous_format),
        "extractor.query.bias": query.clone(),
        "extractor.value.bias": value.clone(),
    }


def _mixture_to_official(prefix: str, tensors: Mixture) -> dict[str, Tensor]:
    special = {"extractor.key_weight", "extractor.query.bias", "extractor.value.bias"}
    _check_names(prefix, tensors, {*_RENAMED.values(), *(name for name, _ in _STACKED.values()), *special})
    found = {there: tensors[here] for there, here in _RENAMED.items()}
    for part, (name, axis) in _STACKED.items():
        for number, tensor in enumerate(tensors[name].unbind(axis)):
            found[f"experts.{number}.{part}"] = tensor.clone(memory_format=torch.contiguous_format)
    key, query, value = (tensors[f"extractor.{name}"] for name in ("key_weight", "query.bias", "value.bias"))
    found["cross_attn.k_proj_weight"] = torch.cat([key, key.new_zeros(len(key), len(key))], dim=1)
    found["cross_attn.in_proj_bias"] = torch.cat([query, torch.zeros_like(query), value])
    return found
