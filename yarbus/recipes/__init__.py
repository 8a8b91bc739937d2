"""Experiments that ship with the package, one YAML file each; no code.

A recipe here carries the architecture of its base model, so ``yarbus plan`` needs no download. A preset
that spans rates, text rules and clipping is a recipe of its own that ``extends`` another. Example:
``yarbus plan covft-llava-1.5-7b``.
"""
