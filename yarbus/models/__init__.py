"""A vision-language model seen as parts, and the path on which the question reaches its eyes.

Here: what a family and a tower look like (data), attaching and detaching, the context slot, the
plan, saving and loading. Not here: what is attached (``methods``), data and training. Nothing
here knows a method by name. Example: ``VLM.of(model).executed_blocks()`` gives the vision blocks
whose output reaches the language model, for every family that has an entry in the tables.
"""
