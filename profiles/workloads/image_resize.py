"""Resizing photographs (Pillow): decode a JPEG, resize by Lanczos to three widths, encode, over a pool of processes.

The full input is 1,920 images of 1500 x 1000 pixels: 12 files, made from a fixed seed once and kept, taken in turn;
memory depends on the number of workers and not on the scale.
"""

import io
import multiprocessing
from pathlib import Path

import numpy as np
from common import cached, scale, workers
from PIL import Image

FULL_IMAGES = 1920
FILES = 12
WIDTHS = (1000, 500, 150)


def make(path: Path, seed: int) -> None:
    """Write one image: smooth colours with some grain, so that it compresses as a photograph does."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, size=(10, 15, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((1500, 1000), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = rng.standard_normal(smooth.shape, dtype=np.float32) * 6
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, format="JPEG", quality=90)


def resize(path: Path) -> int:
    """Return the bytes of the smaller images of one file."""
    written = 0
    with Image.open(path) as image:
        image.load()
        for width in WIDTHS:
            target = io.BytesIO()
            height = image.height * width // image.width
            image.resize((width, height), Image.Resampling.LANCZOS).save(target, format="JPEG", quality=85)
            written += target.tell()
    return written


def main() -> None:
    """Resize every image."""
    files = [
        cached(f"photo-{seed}.jpg", lambda path, seed=seed: make(path, seed))  # type: ignore[misc]
        for seed in range(FILES)
    ]
    images = max(1, round(FULL_IMAGES * scale()))
    with multiprocessing.Pool(workers()) as pool:
        written = sum(pool.imap_unordered(resize, (files[i % FILES] for i in range(images))))
    print(f"{images} images, {written} bytes")


if __name__ == "__main__":
    main()
