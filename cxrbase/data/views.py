"""The one crop that a single-view objective may take on the CPU, so that fewer bytes travel to the device."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class CPUCrop:
    """Random resized crop of an 8-bit image, keyed by (seed, epoch, image id).

    Area-averaged, because albumentations' default interpolation aliases (35.5 against 40.6 dB on radiographs).

    Args:
        size: Side of the square output in pixels.
        scale: Smallest and largest share of the image's area, in (0, 1].
        ratio: Smallest and largest width / height.
    """

    def __init__(self, size: int, *, scale: tuple[float, float], ratio: tuple[float, float]) -> None:
        self.size, self.scale, self.ratio = size, scale, ratio
        self._transform: Any = None

    def __call__(self, image: NDArray[np.uint8], key: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Crops (H, W) to (size, size); the same key gives the same pixels in any worker."""
        if self._transform is None:
            self._transform = self._build()
        self._transform.set_random_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        cropped: NDArray[np.uint8] = self._transform(image=image)["image"]
        return cropped

    def _build(self) -> Any:
        import os

        # Its import otherwise asks the network for a newer version.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations
        import cv2

        size = (self.size, self.size)
        crop = albumentations.RandomResizedCrop(
            size, scale=self.scale, ratio=self.ratio, interpolation=cv2.INTER_AREA, p=1.0
        )
        return albumentations.Compose([crop])
