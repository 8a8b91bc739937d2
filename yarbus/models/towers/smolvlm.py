"""SmolVLM's tower: Idefics3's under another name."""

from dataclasses import replace

from yarbus.models.towers.idefics3 import IDEFICS3

SMOLVLM = replace(IDEFICS3, config="SmolVLMVisionConfig")
