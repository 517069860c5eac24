"""Maps agree with closed forms, find what a trained network reads, and change when its weights are shuffled."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

from cxrbase.backbones import create_backbone, load_encoder
from cxrbase.errors import ConfigError
from cxrbase.release.attention import recorded_attention, relevance, rollout
from cxrbase.release.explain import explain
from cxrbase.release.explain_checks import (
    UNCHANGED,
    box_patches,
    deletion_insertion,
    follows_weights,
    pointing_game,
    rank_correlation,
)
from cxrbase.release.methods import METHODS
from cxrbase.release.overlay import colour_range, overlay, to_original, write_overlay
from cxrbase.release.overview import overview

GRID = 6


def squares(count, *, seed):
    """Noise, and in half of the images one bright patch; returns images, labels, patches (N, GRID, GRID)."""
    generator = np.random.default_rng(seed)
    images = generator.normal(0, 0.5, (count, 1, 8 * GRID, 8 * GRID)).astype(np.float32)
    truth = np.zeros((count, GRID, GRID), bool)
    labels = np.arange(count) % 2
    for number in np.flatnonzero(labels):
        row, column = generator.integers(0, GRID, 2)
        images[number, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1.2
        truth[number, row, column] = True
    return torch.from_numpy(images), torch.from_numpy(labels).float(), truth


@pytest.fixture(scope="module")
def trained():
    """A ViT that learnt to tell images with a bright patch, and the logit as a function of its tokens."""
    torch.manual_seed(0)
    options = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    vit = create_backbone("vit_tiny_patch16_224", image_size=8 * GRID, options=options)
    head = nn.Linear(32, 1)
    optimiser = torch.optim.Adam([*vit.parameters(), *head.parameters()], 2e-3)
    images, labels, _ = squares(256, seed=0)
    for step in range(120):
        part = torch.randperm(256)[:64] if step else torch.arange(64)
        logits = head(vit.forward_features(images[part])[:, 0])[:, 0]
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits, labels[part]).backward()
        optimiser.step()
    vit.eval()
    return vit, lambda tokens: head(tokens[:, 0])[:, 0]


@pytest.mark.parametrize("method", METHODS)
def test_maps_point_at_what_a_trained_network_reads(method, trained):
    vit, score = trained
    images, labels, truth = squares(60, seed=1)
    with torch.no_grad():
        assert ((score(vit.forward_features(images)) > 0) == (labels > 0)).float().mean() > 0.9
    game = pointing_game(explain(vit, images, method=method, score=score), truth)
    assert game.images == 30
    assert game.chance == pytest.approx(1 / GRID**2)
    assert game.rate > (0.2 if method == "rollout" else 0.8)


@pytest.mark.parametrize("method", METHODS)
def test_shuffled_weights_change_the_map_and_are_put_back(method, trained):
    vit, score = trained
    images, _, _ = squares(12, seed=2)
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    assert follows_weights(vit, images, method=method, score=score) < UNCHANGED
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())


def test_the_rank_correlation_of_maps_with_ties_is_that_of_an_independent_implementation():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 6, 14, 14, generator=generator)
    maps[torch.rand(maps.shape, generator=generator) < 0.8] = 0  # as relevance is, which is cut off there
    wanted = [abs(spearmanr(a.flatten(), b.flatten()).statistic) for a, b in zip(*maps, strict=True)]
    assert max(wanted) < 0.25
    assert rank_correlation(*maps) == pytest.approx(np.mean(wanted), abs=1e-5)
    assert rank_correlation(maps[0], maps[0]) == pytest.approx(1, abs=1e-5)


def test_a_constant_map_is_nothing_to_compare():
    varied = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    still = torch.full((2, 4, 4), 0.3)
    assert math.isnan(rank_correlation(still, still))
    assert math.isnan(rank_correlation(varied, still))
    one = torch.stack([varied[0], still[0]])
    assert rank_correlation(one, varied) == pytest.approx(1, abs=1e-5)


def test_patches_of_a_good_map_carry_the_score(trained):
    vit, score = trained
    images, labels, _ = squares(40, seed=3)
    images = images[labels > 0]
    good = explain(vit, images, method="relevance", score=score)
    deletion, insertion = deletion_insertion(vit, images, good, score)
    random = torch.rand(good.shape, generator=torch.Generator().manual_seed(0))
    chance_deletion, chance_insertion = deletion_insertion(vit, images, random, score)
    assert deletion.mean() < chance_deletion.mean()
    assert insertion.mean() > chance_insertion.mean()


def test_rollout_and_relevance_are_their_formulas():
    attention = [torch.rand(1, 2, 3, 3).softmax(-1).requires_grad_() for _ in range(2)]
    for number, one in enumerate(attention):
        one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(number))
    eye = torch.eye(3)
    a, b = ((one.detach()[0].mean(0) + eye) / 2 for one in attention)
    torch.testing.assert_close(rollout(attention)[0], b @ a)
    torch.testing.assert_close(rollout(attention).sum(-1), torch.ones(1, 3))
    c, d = ((one.detach()[0] * one.grad[0]).clamp(min=0).mean(0) for one in attention)
    torch.testing.assert_close(relevance(attention)[0], (eye + c) + d @ (eye + c))


def test_recording_changes_nothing(encoder_folder):
    vit = load_encoder(encoder_folder)
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        before = vit.forward_features(images)
        with recorded_attention(vit) as maps:
            during = vit.forward_features(images)
        torch.testing.assert_close(before, during)
        assert torch.equal(before, vit.forward_features(images))
    assert [tuple(one.shape) for one in maps] == [(2, 2, 17, 17)] * 2
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, 2, 17))


def test_occlusion_of_a_network_that_reads_one_patch(encoder_folder):
    vit = load_encoder(encoder_folder)
    for block in vit.blocks:
        nn.init.zeros_(block.attn.proj.weight)  # tokens no longer see each other
        nn.init.zeros_(block.attn.proj.bias)
    images = torch.randn(1, 1, 32, 32)
    found = explain(vit, images, method="occlusion", score=lambda tokens: tokens[:, 1 + 5].square().sum(-1))
    assert found[0, 1, 1].abs() == found.abs().max()
    assert found[0, 3].abs().max() < 1e-4  # no square that hides the last row hides patch (1, 1)


@pytest.mark.parametrize("method", METHODS)
def test_an_encoder_alone_is_explained(method, encoder_folder):
    found = explain(load_encoder(encoder_folder), torch.randn(2, 1, 32, 32), method=method)
    assert found.shape == (2, 4, 4)
    assert torch.isfinite(found).all()
    assert found.std() > 0


def test_unknown_method(encoder_folder):
    with pytest.raises(ConfigError, match="one of rollout"):
        explain(load_encoder(encoder_folder), torch.zeros(1, 1, 32, 32), method="magic")


def test_boxes_become_patches_of_the_central_square():
    shape, grid = (100, 200), (4, 4)
    expected = np.zeros(grid, bool)
    expected[1, 2] = True
    np.testing.assert_array_equal(box_patches("101 26 20 20", shape=shape, grid=grid), expected)
    assert not box_patches("0 0 40 40", shape=shape, grid=grid).any()  # left of what the encoder sees
    assert not box_patches("", shape=shape, grid=grid).any()
    assert box_patches("0 0 200 100", shape=shape, grid=grid).all()


def test_every_map_of_the_overview_has_the_scale_of_its_colours():
    image = np.full((60, 90), 100, np.uint8)
    maps = [(name, np.linspace(number, number + 2, 9, dtype=np.float32).reshape(3, 3))
            for number, name in enumerate(("rollout", "occlusion"))]  # fmt: skip
    figure = overview(image, maps, about="gout", notes=["", "distrust it"])
    original, *rest = figure.axes
    panels, scales = rest[:2], rest[2:]
    assert [axis.get_title() for axis in (original, *panels)] == ["original", "rollout", "occlusion"]
    assert [axis.get_xlabel() for axis in panels] == ["", "distrust it"]
    assert [axis.get_xlabel() for axis in scales] == ["attention that reaches the patch", "loss where hidden"]
    for axis, scale, (_, patches) in zip(panels, scales, maps, strict=True):
        values = to_original(patches, image.shape)
        assert np.array_equal(axis.images[0].get_array(), overlay(image, values))
        assert scale.get_xlim() == pytest.approx(colour_range(values))
    assert figure.get_suptitle() == "gout"


def test_overlay_has_the_resolution_of_the_original(tmp_path):
    image = np.full((60, 90), 100, np.uint8)
    patches = np.zeros((3, 3), np.float32)
    patches[0, 2] = 1
    values = to_original(patches, image.shape)
    assert np.isnan(values[:, :15]).all()
    assert np.isnan(values[:, 75:]).all()
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    assert row < 20
    assert column >= 55
    write_overlay(image, patches, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as written:
        assert written.size == (90, 60)
        assert written.mode == "RGB"
    flat = overlay(image, np.zeros(image.shape, np.float32))
    assert (flat == 100).all()
