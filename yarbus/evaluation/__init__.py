"""How good: benchmarks, judges, metrics, and the runner that asks a model and keeps its replies.

A benchmark is one frozen value (``benchmark.Benchmark``), brought by a plug-in or made from the
user's own file (``file:PATH``). Why a model answers as it does belongs to ``analysis``; how numbers
look on a page belongs to ``report``. Example: ``runner.evaluate(model, processor, ["tinyworld/read"], run)``.
"""
