"""A backbone that trains in milliseconds, smooth images to feed it, and the three objectives around it."""

import pytest
import torch
from torch.nn import functional as F

from cxrbase.backbones import create_backbone
from cxrbase.objectives import DINO, MAE, SimCLR
from cxrbase.views import Views

SIZE = 32
OPTIONS = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
KINDS = {
    "MAE": (MAE, {"mask_ratio": 0.75, "decoder_dim": 32, "decoder_depth": 1}),
    "DINO": (DINO, {"num_prototypes": 64, "hidden_dim": 64, "bottleneck_dim": 64, "momentum": 0.9}),
    "SimCLR": (SimCLR, {"hidden_dim": 64, "projection_dim": 32}),
}


@pytest.fixture(autouse=True)
def few_threads_and_a_seed():
    # These networks are too small for threads to pay.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_vit():
    """Makes a backbone for one-channel images of 32 pixels: 16 patches, two blocks."""

    def make(**options):
        return create_backbone("vit_tiny_patch16_224", image_size=SIZE, options=OPTIONS | options)

    return make


@pytest.fixture
def tiny_card():
    """What encoder.json says of such a backbone."""
    arguments = {"in_chans": 1, "num_classes": 0, "img_size": SIZE, "dynamic_img_size": True, **OPTIONS}
    name = "vit_tiny_patch16_224"
    return {"timm_name": name, "timm_args": arguments, "image_size": SIZE, "mean": 0.5, "std": 0.25}


@pytest.fixture
def build(tiny_vit):
    """Makes an objective by name around a fresh backbone."""

    def make(name, *, seed=0, **options):
        torch.manual_seed(seed)
        kind, defaults = KINDS[name]
        return kind(tiny_vit(), **(defaults | options))

    return make


@pytest.fixture
def make_views():
    """Makes smooth random crops: as many large ones as an objective needs, and two small ones where it uses them."""

    def make(objective, *, count=8, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def crops(side):
            coarse = torch.randn(count, 1, 3, 3, generator=generator)
            return F.interpolate(coarse, size=(side, side), mode="bicubic")

        large = [crops(SIZE) for _ in range(objective.num_global_views)]
        return Views(large, [crops(SIZE // 2) for _ in range(2)] if objective.uses_local_views else [])

    return make
