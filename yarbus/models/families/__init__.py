"""One file of data per model family: where its parts are and how its batches map images to rows.

No method is named here, and no family is named anywhere else. Example: ``llava.py``.
"""
