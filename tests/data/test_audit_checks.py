"""What an audit makes of labels and sources, on columns of known worth."""

import numpy as np

from cxrbase.data.audit_checks import confounded


def flagged(labels, sources):
    return confounded("x", np.array(labels), np.array(sources, object))["flagged"]


def test_sources_of_a_few_images_flag_no_label():
    mixed, whole = [1.0, 0.0] * 50, ["a"] * 100
    assert not flagged([*mixed, *[1.0] * 3, *[0.0] * 3], [*whole, *"bbb", *"ccc"])
    assert flagged([*mixed, *[1.0] * 12, *[0.0] * 12], [*whole, *"b" * 12, *"c" * 12])
