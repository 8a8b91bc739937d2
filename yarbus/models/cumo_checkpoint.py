"""CuMo's published towers as folders of our own: the same numbers under our names.

CuMo keeps a block's ``gate`` and ``experts`` beside its attention, below ``vision_model`` of the tower, in files of the
whole model or of the tower alone; here they stand in the block's ``mlp``. Only safetensors are read.
"""

import re
from pathlib import Path

from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.plugins import resolve
from yarbus.models.cumo import CumoVisionConfig, CumoVisionModel
from yarbus.models.image_processors import load_image_processor
from yarbus.models.pretrained import read_config
from yarbus.models.weights import Weights, file_weights, model_weights

FIRST = "embeddings.class_embedding"
"""The tensor whose name shows what stands before the tower's names."""
_EXPERT = re.compile(r"(encoder\.layers\.\d+)\.((?:gate|experts)\..+)")
_NUMBER = re.compile(r"encoder\.layers\.0\.experts\.(\d+)\.")


def read_cumo(checkpoint: str | Path, clip: str, top_k: int = 2) -> CumoVisionModel:
    """The tower in a CuMo checkpoint, which must hold every tensor of it and nothing else of a tower.

    Args:
        checkpoint: a safetensors file, or a folder of them with their index.
        clip: the CLIP that it was made from, by name or folder, for the sizes that no tensor tells.
        top_k: experts of a token; two in every tower that CuMo published.
    """
    path = Path(checkpoint)
    if path.is_file() and path.suffix != ".safetensors":
        raise CheckpointError(
            "not safetensors", where=path, why="nothing that is read here is a pickle", fix="save it as safetensors"
        )
    weights = file_weights(path) if path.is_file() else model_weights(path)
    prefix = _prefix(weights, path)
    found = {name.removeprefix(prefix): name for name in weights.files if name.startswith(prefix)}
    ours = {_EXPERT.sub(r"\1.mlp.\2", short): name for short, name in found.items()}
    numbers = {int(match[1]) for short in found if (match := _NUMBER.match(short))}
    model = CumoVisionModel(_config(clip, len(numbers), top_k))
    state = model.state_dict()
    for name in sorted({*state, *ours}):
        form = weights.form(ours[name]) if name in ours else None
        if name not in state or form is None or form.shape != tuple(state[name].shape):
            shapes = f"in the file {list(form.shape) if form else 'missing'}"
            shapes += f", in the tower {list(state[name].shape) if name in state else 'missing'}"
            raise CheckpointError(
                f"tensor '{name}' does not fit",
                where=path,
                why=shapes,
                fix="name the CLIP that the tower was made from",
            )
    dtype = weights.form(ours[FIRST]).dtype
    model.to(dtype).load_state_dict({name: weights.read(ours[name]) for name in state})
    return model.eval()


def convert_cumo(checkpoint: str | Path, clip: str, folder: str | Path, top_k: int = 2) -> Path:
    """Writes the tower in a CuMo checkpoint as a folder that ``encoders`` may name; arguments as ``read_cumo``."""
    folder = Path(folder)
    processor = load_image_processor(resolve(clip))
    read_cumo(checkpoint, clip, top_k).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _prefix(weights: Weights, path: Path) -> str:
    homes = [name.removesuffix(FIRST) for name in weights.files if name.endswith(f".{FIRST}") or name == FIRST]
    homes = [home for home in homes if any(name.startswith(f"{home}encoder.layers.0.gate.") for name in weights.files)]
    if len(homes) != 1:
        why = f"{len(homes)} towers with a gate beside the attention of their blocks"
        raise CheckpointError("not a CuMo checkpoint", where=path, why=why, fix="give one that CuMo published")
    return homes[0]


def _config(clip: str, num_experts: int, top_k: int) -> CumoVisionConfig:
    config = read_config(resolve(clip), "the CLIP that the tower was made from", clip)
    settings = getattr(config, "vision_config", config).to_dict()
    settings.pop("model_type", None)
    if not 1 <= top_k <= num_experts:
        raise ConfigError(f"top_k {top_k} of {num_experts} experts", fix="choose a top_k of at most that many")
    return CumoVisionConfig(**{**settings, "num_experts": num_experts, "top_k": top_k})
