"""The four places of a VLM in the order data meets them, and the groups of parameters that train at one rate."""

PLACES = ("vision", "projector", "language", "head")
GROUPS = ("vision", "vision_new", "router", "projector", "language", "head")
