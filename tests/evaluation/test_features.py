"""Features of a frozen encoder against its forward pass by hand."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from cxrbase.evaluation.features import extract_features


def encoder(**options):
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 8, "in_chans": 1, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return VisionTransformer(**shape, num_classes=0, **{"drop_path_rate": 0.5, "proj_drop_rate": 0.5, **options})


def by_hand(model, images):
    """Tokens of all blocks in turn, without `forward_features`."""
    model.eval()
    with torch.no_grad():
        tokens = model.norm(model.blocks(model.norm_pre(model._pos_embed(model.patch_embed(images)))))
    return tokens


def batches(count=7, size=3):
    images = torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    return images, torch.split(images, size)


@pytest.mark.parametrize("registers", [0, 4])
def test_features_are_the_cls_token_and_the_mean_of_the_patches(registers):
    model = encoder(reg_tokens=registers)
    images, parts = batches()
    got = extract_features(model, parts, device="cpu")
    tokens = by_hand(model, images)
    assert tokens.shape[1] == 1 + registers + 16
    expected = torch.cat([tokens[:, 0], tokens[:, -16:].mean(1)], 1)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)


def test_without_a_cls_token_they_are_the_mean_alone():
    model = encoder(class_token=False, global_pool="avg", fc_norm=False)
    images, parts = batches()
    got = extract_features(model, parts, device="cpu")
    assert got.shape == (7, 24)
    np.testing.assert_allclose(got, by_hand(model, images).mean(1).numpy(), atol=1e-5)


def test_no_batches_give_no_rows_of_the_right_width():
    assert extract_features(encoder(), [], device="cpu").shape == (0, 48)


def test_every_part_trains_or_not_as_before_also_after_an_error():
    model = encoder().train()
    model.blocks[0].eval()
    before = [part.training for part in model.modules()]
    assert len(set(before)) == 2
    extract_features(model, batches()[1], device="cpu")
    assert [part.training for part in model.modules()] == before
    with pytest.raises(RuntimeError):
        extract_features(model, [torch.zeros(1, 5, 32, 32)], device="cpu")
    assert [part.training for part in model.modules()] == before


def test_features_do_not_depend_on_the_batches_or_on_autocast_around():
    model = encoder()
    images, parts = batches()
    whole = extract_features(model, [images], device="cpu")
    np.testing.assert_allclose(extract_features(model, parts, device="cpu"), whole, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(extract_features(model, [images], device="cpu"), whole)
    assert all(parameter.grad is None for parameter in model.parameters())
