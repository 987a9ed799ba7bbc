"""scikit-learn's digits: 1,797 grey images of 8x8 pixels in ten classes, in the package itself (UCI, Alpaydin & Kaynak
1998)."""

from __future__ import annotations

import numpy as np

from eisbach.data.images import ImageSet, array_item
from eisbach.errors import UserError

SIDE, LEVELS = 8, 16


def load_digits() -> ImageSet:
    """The digits, in classes "0" to "9"; a pixel's 17 levels 0 ... 16 become the bytes nearest to level / 16 * 255.

    Raises
    ------
    UserError
        scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise UserError(
            "the digits come with scikit-learn, which is not installed: pip install 'eisbach[images]'."
        ) from error
    bunch = load()
    pixels = np.rint(np.asarray(bunch.images) / LEVELS * 255).astype(np.uint8)[..., None]
    items = tuple(
        array_item(f"digit-{number:04d}", str(int(label)), image)
        for number, (image, label) in enumerate(zip(pixels, bunch.target, strict=True))
    )
    return ImageSet(items, tuple(str(digit) for digit in range(10)))
