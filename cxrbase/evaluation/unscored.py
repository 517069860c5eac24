"""Classes that cannot be scored, thresholded or calibrated, with the reasons."""

from dataclasses import dataclass

import numpy as np

from cxrbase.evaluation.cohort import Splits
from cxrbase.evaluation.measure import Measured


@dataclass(frozen=True)
class Unscored:
    """What a result cannot say, or hardly.

    Args:
        undefined: Classes without any metric, and why.
        uncalibrated: Others without a threshold and a temperature, and so without what is made of them, and why.
        rare: Others of which few test patients have a label, and how many.
        left_out: Resamples that lack one of the classes of the macro AUROC, and do not count in its interval.
    """

    undefined: dict[str, str]
    uncalibrated: dict[str, str]
    rare: dict[str, str]
    left_out: int

    @classmethod
    def of(cls, splits: Splits, found: Measured) -> "Unscored":
        """Tells them from the labels of the splits, and from what could be measured."""
        undefined = {name: "too few labels to learn from" for name in found.undefined()} | splits.undefined()
        uncalibrated = {name: why for name, why in splits.undecided().items() if name not in undefined}
        rare = {name: few for name, few in splits.rare().items() if name not in undefined}
        return cls(undefined, uncalibrated, rare, int(np.isnan(found.macro("auroc")[1:]).sum()))

    def warnings(self) -> list[str]:
        """One sentence for each class."""
        return [
            *(f"{name} is undefined: {why}" for name, why in self.undefined.items()),
            *(f"{name} is not thresholded or calibrated: {why}" for name, why in self.uncalibrated.items()),
            *(
                f"{name} has only {few}: its interval says little, and {self.left_out:,} resamples without one of the "
                "classes are left out of that of the mean"
                for name, few in self.rare.items()
            ),
        ]
