"""One file per way that data lies on disk: a reader turns a path into samples.

``SOURCES[name](path, images) -> list[Sample]``; ``images`` is the folder that file names are relative to
(None: the folder of the data file). A reader names file and row of what it refuses; it opens no picture.
Mixing and sampling happen next door (``data.mixture``, ``data.sampler``). Example: ``SOURCES["llava"]``.
"""

from yarbus.core.table import Table

SOURCES = Table("data source", {"llava": "yarbus.data.sources.llava:read_llava"})
