"""How files become 8-bit images, as set for a run or recorded for encoders and packed images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.decode import Window, decode_uint8, intensity_convention
from cxrbase.errors import ConfigError

CROPPED = "black borders cut off"


@dataclass(frozen=True)
class Reading:
    """How files become 8-bit images.

    Args:
        window: How deeper images become 8 bits: `percentile`, or `dicom` for the VOI LUT or window of the file.
        crop_borders: Cut off borders that are black throughout.
    """

    window: Window = "percentile"
    crop_borders: bool = False

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "Reading":
        """What the card of an encoder, or the metadata of packed images, says; the defaults where it says nothing.

        Raises:
            ConfigError: It names what there is not.
        """
        found = cls(said.get("window", cls.window), said.get("crop_borders", cls.crop_borders))
        intensity_convention(found.window)
        if not isinstance(found.crop_borders, bool):
            raise ConfigError(f"crop_borders must be true or false, got {found.crop_borders!r}")
        return found

    def __call__(self, path: str | Path, *, min_side: int | None = None) -> NDArray[np.uint8]:
        """Reads one file, see `decode_uint8`."""
        return decode_uint8(path, window=self.window, min_side=min_side, crop=self.crop_borders)

    def __str__(self) -> str:
        """As the settings of a run say it."""
        return f"window={self.window}, crop_borders={str(self.crop_borders).lower()}"

    @property
    def convention(self) -> str:
        """What brightness means in the images, and what was cut off."""
        said = intensity_convention(self.window)
        return f"{said}; {CROPPED}" if self.crop_borders else said

    def values(self) -> dict[str, Any]:
        """For cards and metadata, from which `of` makes it again."""
        return asdict(self)

    def refuse(self, asked: Mapping[str, Any]) -> None:
        """Refuses settings that are not those that images were packed with.

        Args:
            asked: Values of `window` and `crop_borders`; None where nothing was asked for.

        Raises:
            ConfigError: One is another.
        """
        for name, value in asked.items():
            if value is not None and value != (packed := getattr(self, name)):
                raise ConfigError(
                    f"data.{name}={_said(value)}, and the images were packed with {name}={_said(packed)}, which is "
                    f"fixed in them: leave data.{name} out, or pack them again with the other one"
                )

    def unlike(self, packed: "Reading") -> list[str]:
        """A sentence for who gives an encoder that learnt from files read like this other packed images, if they are.

        Args:
            packed: How the files were read that the images were packed from.
        """
        if packed == self:
            return []
        options = f"--window {self.window}" + (" --crop_borders" if self.crop_borders else "")
        return [
            f"the encoder learnt from images of {self}, and these were packed with {packed}, so that it sees other "
            f"brightness or borders: pack them again with {options}"
        ]


def _said(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value
