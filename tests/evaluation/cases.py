"""Random problems with what real label tables have: ties, missing labels, rare classes, several images per patient."""

import numpy as np
from hypothesis import strategies as st


@st.composite
def problems(draw, max_images=40, classes=3):
    """Scores in few levels, so that they tie, labels with gaps, and whole weights; some classes have one label."""
    count = draw(st.integers(2, max_images))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 3, 10, 10**6]))
    scores = np.round(rng.random((count, classes)) * levels) / levels
    labels = (rng.random((count, classes)) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))).astype(float)
    labels[rng.random(labels.shape) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    weights = rng.integers(0, 4, (2, count))
    return scores, labels, weights


def cohort(patients=200, classes=3, *, seed=0, effect=1.5, prevalence=0.3):
    """Scores, labels and patient of one to three images per patient."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"p{i}" for i in range(patients)], rng.integers(1, 4, patients))
    truth = rng.random((patients, classes)) < prevalence
    who = np.array([int(name[1:]) for name in names])
    labels = truth[who].astype(float)
    shared = rng.normal(size=(patients, classes))[who]
    return labels * effect + 0.7 * shared + rng.normal(size=labels.shape), labels, names
