"""Classes that cannot be scored, thresholded or calibrated, with the reasons."""

from dataclasses import dataclass

from cxrbase.evaluation.cohort import Splits
from cxrbase.evaluation.measure import Measured


@dataclass(frozen=True)
class Unscored:
    """What a result cannot say.

    Args:
        undefined: Classes without any metric, and why.
        uncalibrated: Others without a threshold and a temperature, and so without what is made of them, and why.
    """

    undefined: dict[str, str]
    uncalibrated: dict[str, str]

    @classmethod
    def of(cls, splits: Splits, found: Measured) -> "Unscored":
        """Tells them from the labels of the splits, and from what could be measured."""
        undefined = {name: "too few labels to learn from" for name in found.undefined()} | splits.undefined()
        uncalibrated = {name: why for name, why in splits.undecided().items() if name not in undefined}
        return cls(undefined, uncalibrated)

    def warnings(self) -> list[str]:
        """One sentence for each class."""
        return [
            *(f"{name} is undefined: {why}" for name, why in self.undefined.items()),
            *(f"{name} is not thresholded or calibrated: {why}" for name, why in self.uncalibrated.items()),
        ]
