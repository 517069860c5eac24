"""Features whose worth, shortcut and groups are known, as splits of a task."""

import numpy as np

from cxrbase.evaluation.cohort import Cohort, Splits

CLASSES = ("effusion", "nodule")


def cohort(name, patients=120, *, worth=2.0, site_worth=0.0, linked=False, weak="", noise=0, width=12):
    """Two images per patient; labels lie `worth` apart in features, sites `site_worth`; `linked` makes site the label.

    Patients of sex `weak` have features that say nothing.
    """
    rng = np.random.default_rng([sum(map(ord, name))])
    labels = np.repeat(rng.integers(0, 2, (patients, 2)), 2, axis=0).astype(float)
    sex = np.repeat(rng.choice(["F", "M"], patients), 2)
    site = np.repeat(rng.choice(["hill", "river"], patients), 2)
    site = np.where(labels[:, 0] == 1, "hill", "river") if linked else site
    features = np.random.default_rng([noise, sum(map(ord, name))]).normal(size=(2 * patients, width))
    features[:, :2] += worth * labels * (sex != weak)[:, None]
    features[:, 2] += site_worth * (site == "hill")
    who = np.repeat([f"{name}-{i}" for i in range(patients)], 2)
    return features.astype(np.float32), Cohort(
        labels, who, {"sex": sex, "site": site, "source": np.full(len(who), "a")}
    )


def world(*, patients=120, **options):
    """Features by split, and the splits."""
    made = {name: cohort(name, patients, **options) for name in ("train", "val", "test")}
    parts = {name: part for name, (_, part) in made.items()}
    return {name: table for name, (table, _) in made.items()}, Splits(CLASSES, **parts, checksum="c0ffee")
