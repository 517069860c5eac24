"""The card of a fine-tuned model tells what it is made of, how it did, and under which terms it may be used."""

import pytest

from cxrbase.release.model_page import model_page
from cxrbase.release.run_facts import RunFacts, SourceCount

SCORE = {"value": 0.9, "low": 0.8, "high": 0.95}
CARD = {
    "task": {"name": "t", "title": "Two findings", "views": ["PA"]},
    "mode": "probe", "classes": ["hernia", "mass"], "thresholds": [0.25, None], "version": "9.9",
    "encoder": {
        "timm_name": "vit_tiny_patch16_224", "timm_args": {"depth": 2}, "image_size": [64, 48], "mean": 0.5,
        "std": 0.25,
    },
    "counts": {"train": {"images": 1200, "patients": 900}, "test": {"images": 80, "patients": 70}},
    "metrics": {"auroc": {"per_class": {"hernia": SCORE, "mass": {"value": 0.5, "low": 0.4, "high": 0.6}}}},
    "subgroups": {"view_position": {"groups": {"PA": {"images": 44, "auroc": SCORE}}, "too_few": ["AP"]}},
    "data": {
        "sources": [{"name": "nih", "images": {"train": 1200, "test": 80}, "patients": 970}],
        "trained_on": {"groups": {"sex": {"F": {"images": 700, "patients": 500}}}},
    },
    "compute": {"wall_s": 61.0, "device": "cpu", "devices": 1, "precision": "32-true", "parameters": 4321},
    "settings": {"epochs": 50, "batch_size": 16, "lr": 0.005}, "train_images": 1100, "best_epoch": 7,
    "lateral_check": {"why_not": "the task keeps all views"}, "warnings": ["few patients"],
}  # fmt: skip
PRETRAINING = RunFacts(
    {
        "objective": "DINO",
        "images_seen": 99_000,
        "wall_s": 100.0,
        "devices": 8,
        "device": "cuda:0",
        "precision": "bf16",
    },
    sources=(SourceCount("chexpert", "CheXpert", "research use", {"train": 5}, 4),),
)


def sections(text):
    return dict(part.split("\n", 1) for part in text.split("\n## ")[1:])


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("Use", ["cxrbase predict --model"]),
        ("Licence of the weights", ["CC-BY-NC-4.0; the text is in `LICENSE`", "of the images take precedence"]),
        ("Network", ["vit_tiny_patch16_224", "64 x 48 pixels"]),
        ("Data", ["NIH", "| 1,200 train, 80 test | 970 |", "| train | 1,200 | 900 |", "Views: PA.",
                  "| sex | F | 700 | 500 |", "no identifier of a patient", "no reconstruction"]),
        ("Pretraining of the encoder", ["| Objective | DINO |", "100 s on 8 x cuda:0", "| CheXpert | 5 train | 4 |"]),
        ("Training", ["| Learnt from | 1,100 images |", "50, of which validation chose 7", "| Parameters | 4,321 |",
                      "| Compute | 61 s on 1 x cpu, precision 32-true |", "| Version | 9.9 |"]),
        ("Results on test patients", ["| hernia | 0.900 [0.800, 0.950] | 0.250 |", "| mass | 0.500 [0.400, 0.600] |",
                                      "better than chance on these patients:** mass", "AUROC of the model over",
                                      "| view | PA | 44 | 0.900 [0.800, 0.950] |", "| view | AP | too few |"]),
        ("What it warns of", ["Lateral images: ", "- few patients"]),
        ("Limits", ["Other scanners"]),
        ("How to cite", ["CITATION.cff", "https://arxiv.org/abs/2410.08861", "every data set above", "The encoder"]),
    ],
)  # fmt: skip
def test_each_section_of_the_card_of_a_model(section, said):
    text = model_page(CARD, licence="CC-BY-NC-4.0", encoder=PRETRAINING)
    assert text.startswith("---\nlicense: cc-by-nc-4.0\ntags:\n- chest-x-ray\n- image-classification\n")
    assert "must not be used for diagnosis" in text
    for words in said:
        assert words in sections(text)[section]


def test_a_finding_that_was_not_learnt_is_named():
    found = sections(model_page(CARD | {"learnt": ["hernia"]}))["Results on test patients"]
    assert "**Not learnt, as the training images could not teach it:** mass. No probability is given." in found
    assert "Not learnt" not in model_page(CARD)


def test_what_is_not_known_is_said():
    new = ("data", "compute", "settings", "train_images", "best_epoch", "subgroups")  # a folder of an earlier version
    text = model_page({key: value for key, value in CARD.items() if key not in new})
    assert text.startswith("---\nlicense: unknown\n")
    found = sections(text)
    assert "None was chosen" in found["Licence of the weights"]
    assert "sources of its images are not recorded" in found["Data"]
    assert "Not recorded" in found["Pretraining of the encoder"]
    assert "| Compute | not recorded |" in found["Training"]
    assert "Subgroups: no two groups" in found["Results on test patients"]
