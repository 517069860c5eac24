"""Warnings about odd images, based on the features of a fine-tuned model."""

from cxrbase.evaluation.classifier import Features
from cxrbase.models import Model

UNLIKE = "unlike the training images: perhaps lateral, inverted or no chest radiograph"
LATERAL = "perhaps lateral, and this model learnt from frontal images"


def feature_warnings(model: Model, features: Features) -> tuple[list[float], list[tuple[str, ...]]]:
    """Distance to the training images, and words for what a user should look at, of each image.

    Args:
        model: Whose features they are.
        features: Of B images, by `Model.features`.

    Returns:
        B distances, and B times any of `UNLIKE` and `LATERAL`.
    """
    distances = model.range.distance(features.joined).tolist()
    lateral = [False] * len(distances) if model.laterals is None else model.laterals.flags(features.pooled).tolist()
    # Written so that a distance that is no number counts as far.
    odd = [((LATERAL, side), (UNLIKE, not distance <= model.range.limit))
           for side, distance in zip(lateral, distances, strict=True)]  # fmt: skip
    return distances, [tuple(word for word, told in pairs if told) for pairs in odd]
