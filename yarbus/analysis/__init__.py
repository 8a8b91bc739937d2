"""Why a model does what it does: gradients, weight changes, contexts, routing, gaze, and advice from them.

Pure functions of tensors, arrays and recorded files, each returning a plain record for ``conflict.json`` or a run's
``analysis/*.json``. How good a model is belongs to ``evaluation``; running experiments belongs to ``studies``;
drawing belongs to ``report``.
Example: ``analysis.gradients.agreement(products, owners)``.
"""
