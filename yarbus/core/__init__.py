"""The words every other room uses: errors, tables, plug-ins, records, progress, the recipe's structure.

Nothing here imports torch or transformers, so ``yarbus --help`` and a typo in a recipe answer at
once. A thing that needs a tensor belongs upstairs. Example: ``core.table.Table`` turns the word
``covft`` into the class that implements it, and a misspelling into "did you mean".
"""
