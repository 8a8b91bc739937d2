"""CuMo's tower: CLIP's, with a mixture of experts per token where the feed-forward network is.

Its networks are no single one: methods that take a feed-forward network apart find no linear layers in it and say so.
"""

from dataclasses import replace

from yarbus.models.towers.clip import CLIP

CUMO = replace(CLIP, config="CumoVisionConfig", dead_tail=())
