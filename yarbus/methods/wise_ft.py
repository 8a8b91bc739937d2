"""WiSE-FT (arXiv:2109.01903): a fine-tuned model and the one it came from, blended weight by weight.

It acts on two finished models, so nothing is attached: the paper's ``theta_0`` is ``a``, its ``theta_1`` is ``b``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yarbus.core.folders import check_free
from yarbus.methods.assemble import build_all
from yarbus.methods.lora import fold
from yarbus.models import pairing
from yarbus.models.interpolate import Pair, check_alpha


@contextmanager
def blending(a: str | Path, b: str | Path, scratch: Path) -> Iterator[Pair]:
    """Two checkpoints of which any number of blends can be written; see ``yarbus.models.pairing``."""
    with pairing.blending(a, b, build_all, fold, scratch) as pair:
        yield pair


def interpolate(a: str | Path, b: str | Path, alpha: int | float = 0.5, *, out: str | Path) -> Path:
    """Writes the model with the weights ``(1 - alpha) a + alpha b``, without training, and returns its folder.

    Each of the two is the folder of a run, of an adapter or of a full model, or a base by name. Two adapters of one
    base, and a base with an adapter that trained its tensors in place, give an adapter, which ``load_adapter`` reads;
    two full models give a full model, which ``load`` reads. An adapter with LoRA is folded into its base first, since
    blending the factors is not blending the weights; then the result is a full model, too. Sums are taken in fp32
    and cast to a precision that holds both; whole numbers are ``a``'s. At 0 and 1 the result is ``a`` or ``b`` exactly.
    ``interpolation.json`` beside the weights records both with their hashes, and ``alpha``.

    Args:
        alpha: from 0, which is ``a``, to 1, which is ``b``.
        out: the folder to write; it must not exist, or be empty.

    Raises:
        ConfigError: ``alpha`` outside of [0, 1], something in ``out`` already, or what is no model.
        CheckpointError: a run that has not finished, or a damaged file.
        MismatchError: another base or method, or the first tensor that the two do not share in name, shape and kind.
    """
    check_alpha(alpha)
    check_free(Path(out))
    with blending(a, b, Path(out).absolute().parent) as pair:
        return pair.write(alpha, out)
