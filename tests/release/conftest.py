"""A small encoder of random weights, and its card."""

import pytest

from cxrbase.backbones import create_backbone, save_encoder

OPTIONS = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder") / "run"
    vit = create_backbone("vit_tiny_patch16_224", image_size=32, options=OPTIONS)
    arguments = {"in_chans": 1, "num_classes": 0, "img_size": 32, **OPTIONS}
    card = {"timm_name": "vit_tiny_patch16_224", "timm_args": arguments, "image_size": 32, "mean": 0.5, "std": 0.25}
    save_encoder(vit, folder, card)
    return folder
