"""Training, evaluation and analysis put together into one answer, callable from Python.

Here: which runs a question needs, in which order, several at a time, never one twice. Not here: how
a run trains or is scored, and what a page looks like. Example: ``compare(recipe)`` gives a folder
whose runs differ in what is compared and in nothing else.
"""
