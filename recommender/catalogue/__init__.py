"""Instance types, regions and offerings: what exists, what it costs by the hour, how fast and how interruptible it is.

`load_catalogue` reads the bundled data; `TypeFilter` and `offerings` select from it; `similar` finds neighbours of a
type. Built by `tools/build_catalogue.py`; `data/SOURCES` says from what.
"""

from recommender.catalogue.filters import TypeFilter, offerings
from recommender.catalogue.similarity import similar
from recommender.catalogue.tables import Catalogue, load_catalogue

__all__ = ["Catalogue", "TypeFilter", "load_catalogue", "offerings", "similar"]
