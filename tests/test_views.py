"""Crops against torch's own antialiased resize, keyed random numbers, and every random operation at p = 0 and p = 1."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from cxrbase.views import RandomViews, blur_matrix, centre_view, crop, keyed_uniform, random_boxes


def canvases(count=16, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 8, 8, generator=generator)
    smooth = F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    return (smooth * 255).to(torch.uint8), torch.full((count, 2), size), torch.arange(count)


def make(views, *, epoch=0, seed=0, count=16, out=32):
    images, sizes, ids = canvases(count)
    return views(images, sizes, ids, out=out, mean=0.0, std=1.0, seed=seed, epoch=epoch)


@pytest.mark.parametrize(
    ("box", "out"),
    [((0, 0, 64, 64), 32), ((0, 0, 64, 64), 96), ((5, 9, 40, 31), 24), ((10, 3, 17, 50), 32), ((0, 0, 64, 64), 64)],
)
def test_crop_equals_torchvision_antialiased_resized_crop(box, out):
    images = canvases(4)[0].float()
    top, left, height, width = box
    expected = TF.resized_crop(images, top, left, height, width, [out, out], antialias=True)
    got = crop(images, torch.tensor([box], dtype=torch.float32).expand(4, -1), out=out)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)


def test_each_image_of_a_batch_has_its_own_box():
    images = canvases(3)[0].float()
    boxes = torch.tensor([[0, 0, 64, 64], [8, 8, 32, 32], [1, 30, 60, 20]], dtype=torch.float32)
    together = crop(images, boxes, out=16)
    for number in range(3):
        alone = crop(images[number : number + 1], boxes[number : number + 1], out=16)
        torch.testing.assert_close(together[number : number + 1], alone)


def test_flip_and_blur_equal_torchvision():
    images = canvases(2)[0].float()
    whole = torch.tensor([[0.0, 0, 64, 64]]).expand(2, -1)
    flipped = crop(images, whole, out=64, flip=torch.tensor([True, False]))
    torch.testing.assert_close(flipped[0], images[0].flip(-1), atol=1e-3, rtol=0)
    torch.testing.assert_close(flipped[1], images[1], atol=1e-3, rtol=0)
    blurred = crop(images, whole, out=64, sigma=torch.tensor([2.0, 0.0]))
    expected = TF.gaussian_blur(images[:1], kernel_size=[31, 31], sigma=[2.0, 2.0])
    inner = (slice(None), slice(16, -16), slice(16, -16))
    torch.testing.assert_close(blurred[0][inner], expected[0][inner], atol=0.05, rtol=0)
    torch.testing.assert_close(blurred[1], images[1], atol=1e-3, rtol=0)
    torch.testing.assert_close(blur_matrix(torch.tensor([0.0]), 8)[0], torch.eye(8))


def test_keyed_numbers_are_uniform_and_independent_of_their_neighbours():
    numbers = keyed_uniform(torch.arange(4000), 16, seed=3, epoch=5)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 1e-3
    correlation = np.corrcoef(numbers.T.numpy())
    assert np.abs(correlation - np.eye(16)).max() < 0.07
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.07


def test_keyed_numbers_depend_on_the_key_alone():
    first = keyed_uniform(torch.tensor([7, 8, 9]), 4, seed=1, epoch=2)
    torch.testing.assert_close(keyed_uniform(torch.tensor([9]), 4, seed=1, epoch=2), first[2:])
    torch.testing.assert_close(keyed_uniform(torch.tensor([7]), 2, seed=1, epoch=2, offset=2), first[:1, 2:])
    for other in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert not torch.isclose(keyed_uniform(torch.tensor([7, 8, 9]), 4, **other), first).any()


def test_boxes_keep_area_ratio_and_bounds():
    sizes = torch.tensor([[100, 80]]).expand(5000, -1)
    draws = keyed_uniform(torch.arange(5000), 4, seed=0, epoch=0)
    top, left, height, width = random_boxes(sizes, draws, scale=(0.2, 0.6), ratio=(0.75, 4 / 3)).unbind(-1)
    assert (top >= 0).all()
    assert (top + height <= 100.001).all()
    assert (left >= 0).all()
    assert (left + width <= 80.001).all()
    area = height * width / 8000
    assert area.max() <= 0.6001
    untouched = (width < 79.9) & (height < 99.9)
    assert stats.kstest(area[untouched & (area < 0.45)].numpy(), "uniform", args=(0.2, 0.25)).pvalue > 1e-3
    ratio = (width / height)[untouched]
    assert ratio.min() >= 0.7499
    assert ratio.max() <= 1.3334


def test_views_are_the_same_in_any_batch_and_differ_between_epochs():
    views = RandomViews(num_global=2, num_local=2, jitter=0.8, blur=0.5)
    whole_batch = make(views)
    images, sizes, ids = canvases()
    part = views(images[5:7], sizes[5:7], ids[5:7], out=32, mean=0.0, std=1.0, seed=0, epoch=0)
    for full, some in zip([*whole_batch.global_, *whole_batch.local], [*part.global_, *part.local], strict=True):
        torch.testing.assert_close(full[5:7], some, atol=1e-5, rtol=0)
    assert (make(views, epoch=1).global_[0] - whole_batch.global_[0]).abs().mean() > 0.01
    assert (whole_batch.global_[1] - whole_batch.global_[0]).abs().mean() > 0.01
    assert [tuple(v.shape) for v in whole_batch.local] == [(16, 1, 14, 14)] * 2


def test_keys_are_the_images_own_and_others_in_every_epoch_and_of_every_seed():
    images, sizes, ids = canvases()
    whole = make(RandomViews()).keys
    part = RandomViews()(images[5:7], sizes[5:7], ids[5:7], out=32, mean=0.0, std=1.0, seed=0, epoch=0).keys
    assert part.equal(whole[5:7])
    others = [make(RandomViews(), epoch=epoch, seed=seed).keys for epoch, seed in ((1, 0), (2, 0), (0, 1), (1, 1))]
    assert len(torch.cat([whole, *others]).unique()) == 5 * len(ids)


def plain(**options):
    return RandomViews(global_scale=(1.0, 1.0), ratio=(1.0, 1.0), **{"flip": 0.0, **options})


@pytest.mark.parametrize("name", ["flip", "jitter", "blur"])
def test_an_operation_never_acts_at_0_always_at_1_and_half_the_time_at_half(name):
    untouched = make(plain(), count=400).global_[0]
    changed = {}
    for probability in (0.0, 0.5, 1.0):
        view = make(plain(**{name: probability}, blur_sigma=(0.5, 2.0)), count=400).global_[0]
        changed[probability] = float(((view - untouched).abs().amax(dim=(1, 2, 3)) > 1e-5).float().mean())
    assert changed[0.0] == 0
    assert changed[1.0] == 1
    assert 0.42 < changed[0.5] < 0.58


@pytest.mark.parametrize(("name", "options"), [("jitter", {}), ("blur", {"blur_sigma": (0.5, 2.0)})])
def test_how_much_an_operation_does_is_drawn_apart_from_whether_it_acts(name, options):
    untouched = make(plain(), count=400).global_[0]
    strength = []
    for probability in (0.5, 1.0):
        view = make(plain(**{name: probability}, **options), count=400).global_[0]
        change = (view - untouched).abs().mean(dim=(1, 2, 3))
        strength.append(float(change[change > 1e-5].mean()))
    assert strength[0] == pytest.approx(strength[1], rel=0.12)


@pytest.mark.parametrize(
    ("option", "statistic"),
    [
        ("brightness", lambda v: v.mean(dim=(1, 2, 3))),
        ("contrast", lambda v: v.std(dim=(1, 2, 3))),
        ("gamma", lambda v: v.mean(dim=(1, 2, 3))),
    ],
)
def test_each_part_of_the_jitter_acts_alone_and_both_ways(option, statistic):
    none = {"brightness": 0.0, "contrast": 0.0, "gamma": 0.0}
    untouched = statistic(make(plain(), count=200).global_[0])
    still = statistic(make(plain(jitter=1.0, **none), count=200).global_[0])
    torch.testing.assert_close(still, untouched, atol=1e-4, rtol=0)
    moved = statistic(make(plain(jitter=1.0, **{**none, option: 0.3}), count=200).global_[0]) - untouched
    assert (moved > 1e-3).float().mean() > 0.3
    assert (moved < -1e-3).float().mean() > 0.3


def test_blur_sigma_is_in_pixels_of_the_view():
    whole = make(plain(), out=64).global_[0]
    blurred = make(plain(blur=1.0, blur_sigma=(2.0, 2.0)), out=64).global_[0]
    expected = TF.gaussian_blur(whole, kernel_size=[31, 31], sigma=[2.0, 2.0])
    torch.testing.assert_close(blurred[..., 16:-16, 16:-16], expected[..., 16:-16, 16:-16], atol=1e-3, rtol=0)


def test_local_scale_and_size_are_used():
    views = RandomViews(num_global=1, num_local=1, local_scale=(0.05, 0.05), local_size=20, flip=0)
    small = make(views).local[0]
    assert small.shape[-1] == 20
    assert float(small.std(dim=(1, 2, 3)).mean()) < float(make(views).global_[0].std(dim=(1, 2, 3)).mean())


def test_centre_view_takes_the_central_square_and_normalises():
    image = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    image[..., :32, 16:48] = 200  # valid size 32 x 64: the central square is 32 x 32, all of it 200
    view = centre_view(image, torch.tensor([[32, 64]]), out=16, mean=0.5, std=0.25)
    torch.testing.assert_close(view, torch.full((1, 1, 16, 16), (200 / 255 - 0.5) / 0.25), atol=1e-4, rtol=0)


def test_padding_never_enters_a_crop():
    image = torch.zeros(64, 1, 64, 64, dtype=torch.uint8)
    image[..., :40, :50] = 255
    views = RandomViews(global_scale=(0.1, 1.0))
    sizes = torch.tensor([[40, 50]]).expand(64, -1)
    view = views(image, sizes, torch.arange(64), out=32, mean=0.0, std=1.0, seed=0, epoch=0).global_[0]
    torch.testing.assert_close(view, torch.ones_like(view), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_global": 0}, "num_global must be at least 1"),
        ({"global_scale": (0.0, 1.0)}, "global_scale must be two numbers"),
        ({"local_scale": (0.5, 0.1)}, "local_scale must be two numbers"),
        ({"ratio": (2.0, 1.0)}, "ratio must be two positive"),
        ({"flip": 1.5}, "flip is a probability"),
        ({"crop_on": "cpu", "num_global": 2}, "crop_on: cpu makes one view"),
    ],
)
def test_impossible_views_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RandomViews(**options)


def test_crop_on_cpu_leaves_the_geometry_to_the_loader():
    view = make(RandomViews(crop_on="cpu", flip=0.0, global_scale=(0.2, 0.3)), out=64).global_[0]
    torch.testing.assert_close(view * 255, canvases()[0].float(), atol=1e-2, rtol=0)
