"""Records of runs -> intervals, tables, figures, one HTML file.

What is shown here comes from files on disk, so a page can be redrawn years later on a laptop:
nothing in this room imports torch, and nothing in it computes a reply. Judging replies belongs to
``evaluation``; asking why a model does what it does belongs to ``analysis``.
Example: ``report.html.write_report(Path("comparisons/quickstart"))``.
"""
