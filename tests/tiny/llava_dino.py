"""Llavas with towers of the DINO family: with and without registers, two-layer and gated."""

from transformers import Dinov2Config, Dinov2WithRegistersConfig, DINOv3ViTConfig
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from tests.tiny.llava import SIZES, llava_with
from yarbus.models.towers.dinov2 import IS_NESTED

NUM_REGISTERS = 3


def _images() -> BitImageProcessorPil:
    return BitImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, do_resize=True, do_center_crop=True
    )


def llava_dinov2(use_swiglu_ffn: bool = False, **settings):
    vision = Dinov2Config(**SIZES, mlp_ratio=2, use_swiglu_ffn=use_swiglu_ffn)
    return llava_with(vision, _images(), 1, **settings)


def llava_dinov2_registers(use_swiglu_ffn: bool = not IS_NESTED, **settings):
    """The processor keeps the registers, as one of a finished checkpoint may."""
    vision = Dinov2WithRegistersConfig(
        **SIZES, mlp_ratio=2, use_swiglu_ffn=use_swiglu_ffn, num_register_tokens=NUM_REGISTERS
    )
    return llava_with(vision, _images(), 1 + NUM_REGISTERS, **settings)


def llava_dinov3(use_gated_mlp: bool = True, **settings):
    vision = DINOv3ViTConfig(
        **SIZES, intermediate_size=64, use_gated_mlp=use_gated_mlp, num_register_tokens=NUM_REGISTERS,
        pos_embed_rescale=None,  # in training it would draw other positions at every forward
    )  # fmt: skip
    return llava_with(vision, _images(), 1 + NUM_REGISTERS, **settings)
