"""Upstream files of the public data sets -> rows of this project's tables. Pure: bytes in, rows out.

Every function takes `(path, content)` pairs, the path relative to the upstream repository's root, and returns
`{table name: rows}`, the table names being `runs`, `candidates` and `figures`. Rows are sorted, so the order in
which an archive lists its files does not matter. A missing value is `None`, never 0.
"""

from collections.abc import Callable, Mapping

from recommender.normalise.clusters import c3o, lynceus, scout
from recommender.normalise.figures import coremark, spot_advisor
from recommender.normalise.lumos import lumos
from recommender.normalise.rows import Files as Files
from recommender.normalise.rows import Tables
from recommender.normalise.rows import table_csv as table_csv

NORMALISERS: Mapping[str, Callable[[Files], Tables]] = {
    "scout": scout,
    "c3o": c3o,
    "lynceus": lynceus,
    "lumos": lumos,
    "coremark": coremark,
    "spot-advisor": spot_advisor,
}
"""Name of a data set -> what turns its upstream files into tables."""
