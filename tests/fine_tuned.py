"""A fine-tuned model of random weights, and the smooth images whose features are its range."""

import numpy as np
import torch
from PIL import Image

from cxrbase.backbones import load_encoder, read_card
from cxrbase.evaluation.classifier import Classifier
from cxrbase.models import FeatureRange, Model, save_model

CLASSES, TEMPERATURES, THRESHOLDS = ["effusion", "nodule"], [1.0, 2.0], [0.4, None]


def smooth(number):
    rows, columns = np.mgrid[:140, :140]
    wave = np.sin(rows / (12 + number % 7)) + np.cos(columns / (9 + number % 5))
    return np.uint8(120 + 30 * wave)


def write_images(folder):
    for number in range(24):
        Image.fromarray(smooth(number)).save(folder / f"{number:02}.png")
    return folder


def view_of(grey):
    """The input, made with Pillow."""
    small = Image.fromarray(grey).convert("F").resize((32, 32), Image.Resampling.BILINEAR)
    return (torch.from_numpy(np.array(small))[None, None] / 255 - 0.5) / 0.25


def make_model(encoder_folder, folder):
    """A probe of random weights whose range is that of the smooth images, written to a new folder."""
    torch.manual_seed(0)
    network = Classifier(load_encoder(encoder_folder), CLASSES, mode="probe").eval()
    # A head begins at zero, where every probability is a half.
    torch.nn.init.normal_(network.head.linear.weight)
    described = {"classes": CLASSES, "kind": "multilabel", "mode": "probe", "task": {"name": "t"}, "canvas_size": 64}
    card = {**described, "encoder": read_card(encoder_folder), "temperatures": TEMPERATURES, "thresholds": THRESHOLDS}
    unmeasured = Model(network, card, FeatureRange(torch.zeros(96), torch.ones(96), torch.eye(96), 1.0))
    with torch.no_grad():
        features = unmeasured.features(torch.cat([view_of(smooth(number)) for number in range(24)])).joined.numpy()
    return save_model(folder, Model(network, card, FeatureRange.of(features, features)))
