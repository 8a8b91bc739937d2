"""One file per way that data lies on disk: a reader turns a path into samples.

``SOURCES[name](path, images, **options) -> list[Sample]``; ``images`` is the folder that file names are relative to
(None: the folder of the data file), the options are those keys of a ``data`` entry that the reader names. A reader
names file and row of what it refuses; it opens no more pictures than a few to try.
Mixing and sampling happen next door (``data.mixture``, ``data.sampler``). Example: ``SOURCES["llava"]``.
"""

from yarbus.core.table import Table

SOURCES = Table(
    "data source",
    {
        "llava": "yarbus.data.sources.llava:read_llava",
        "classes": "yarbus.data.sources.classes:read_classes",
        "dataset": "yarbus.data.sources.dataset:read_dataset",
    },
)
