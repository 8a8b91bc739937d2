"""Turning a recipe's stages into trained weights, and getting them back after anything stops the run.

Here: optimizer groups, the guards around ``transformers.Trainer``, checkpoints, the order of
stages. Not here: what is trained (``methods``), how batches are made (``data``), how good the
result is (``evaluation``). Example: ``stages.train(recipe, Path("runs/first"), resume="auto")``.
"""
