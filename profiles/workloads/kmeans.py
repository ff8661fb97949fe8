"""k-means clustering (scikit-learn, OpenMP threads): 40 clusters of 32-dimensional points, 30 Lloyd iterations.

The full input is 20 million points, made in memory from a fixed seed; memory grows with it.
"""

import numpy as np
from common import scale
from sklearn.cluster import KMeans

FULL_POINTS = 20_000_000
DIMENSIONS = 32
CLUSTERS = 40

rng = np.random.default_rng(1)
points = rng.standard_normal((round(FULL_POINTS * scale()), DIMENSIONS), dtype=np.float32)
points += 3 * rng.standard_normal((CLUSTERS, DIMENSIONS), dtype=np.float32)[rng.integers(CLUSTERS, size=len(points))]
# A tolerance of 0 is not met in 30 iterations, so every scale makes as many.
model = KMeans(CLUSTERS, init="random", n_init=1, max_iter=30, tol=0, random_state=1).fit(points)
print(f"{len(points)} points, {model.n_iter_} iterations, inertia {model.inertia_:.6g}")
