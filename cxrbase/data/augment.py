"""Random transforms of labelled images on the CPU, keyed by (seed, epoch, image), in one channel."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.views import CPUCrop
from cxrbase.errors import ConfigError
from cxrbase.sizes import Size


@dataclass(frozen=True)
class Augment:
    """How training images of a task are varied; grey images have no hue, and a flip moves the heart to the other side.

    Args:
        scale: Smallest and largest share of the image's area in a crop, in (0, 1].
        ratio: Smallest and largest width / height of a crop, relative to that of the view.
        flip: Probability of a left-right flip; 0 because position and several findings have a side.
        rotate: Largest rotation in degrees.
        jitter: Probability that brightness and contrast are changed by up to 20 %.
        gamma: Probability that the exponent of brightness is changed, between 0.8 and 1.25.
        erase: Probability that a rectangle of up to a third of each side is blackened; 0.25 is RETFound's.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.0
    rotate: float = 10.0
    jitter: float = 0.5
    gamma: float = 0.25
    erase: float = 0.25

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "gamma", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a probability and must be in [0, 1], got {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"scale must be in (0, 1] and ratio above 0, both rising, got {self.scale}, {self.ratio}")
        if not 0 <= self.rotate <= 180:
            raise ConfigError(f"rotate must be degrees in [0, 180], got {self.rotate}")


class AugmentedCrop(CPUCrop):
    """Random resized crop and what else is asked for; the same key gives the same pixels in any worker.

    Args:
        size: Side, or height and width, of the output in pixels.
        augment: What is varied.
    """

    def __init__(self, size: Size, augment: Augment) -> None:
        super().__init__(size, scale=augment.scale, ratio=augment.ratio)
        self.augment = augment
        self._transform: Any = None

    def __call__(self, image: NDArray[np.uint8], key: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Varies (H, W) into the size."""
        if self._transform is None:
            self._transform = self._build()
        self._transform.set_random_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        return np.asarray(self._transform(image=image)["image"], np.uint8)

    def _build(self) -> Any:
        # Its import otherwise asks the network for a newer version.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations
        import cv2

        asked, third = self.augment, (1 / 16, 1 / 3)
        steps = [
            # Turned before the crop, so that the black corners are mostly cut away.
            albumentations.Rotate(asked.rotate, interpolation=cv2.INTER_LINEAR, p=1.0 if asked.rotate else 0.0),
            albumentations.RandomResizedCrop(
                self.size, scale=asked.scale, ratio=self.ratio, interpolation=cv2.INTER_AREA, p=1.0
            ),
            albumentations.HorizontalFlip(p=asked.flip),
            albumentations.RandomBrightnessContrast(0.2, 0.2, p=asked.jitter),
            albumentations.RandomGamma((80, 125), p=asked.gamma),
            albumentations.CoarseDropout((1, 1), third, third, fill=0, p=asked.erase),
        ]
        return albumentations.Compose(steps)
