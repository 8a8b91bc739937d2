"""One file of data per vision tower: its blocks, and what a block is made of.

Methods read these fields and name no tower. Example: ``clip.py``.
"""
