"""NT-Xent as SimCLR computes it against a plain double loop, an independent library and the value at chance."""

import math

import pytest
import torch
from lightly import loss as lightly_loss
from pytorch_metric_learning.losses import NTXentLoss
from torch.nn import functional as F

import warm
from cxrbase.lean import pooled
from cxrbase.objectives.losses import contrastive_loss


def double_loop(first, second, temperature):
    """Equation 1 of https://arxiv.org/abs/2002.05709, one pair after the other, in float64."""
    rows = [row / row.norm() for row in torch.cat([first, second]).detach().double()]
    count, total = len(rows), 0.0
    for i in range(count):
        partner = (i + count // 2) % count
        others = sum(math.exp(float(rows[i] @ rows[k]) / temperature) for k in range(count) if k != i)
        total += math.log(others) - float(rows[i] @ rows[partner]) / temperature
    return total / count


def projections(objective, views):
    return objective.head(pooled(objective.backbone, torch.cat(views.global_))).chunk(2)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("count", [2, 5, 16])
def test_loss_equals_a_plain_double_loop(build, make_views, temperature, count):
    objective = build("SimCLR", temperature=temperature)
    views = make_views(objective, count=count)
    expected = double_loop(*projections(objective, views), temperature)
    assert objective(views, 0.0).loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("count", [2, 8, 32])
def test_loss_and_gradient_equal_pytorch_metric_learning(build, temperature, count):
    objective = build("SimCLR", temperature=temperature)
    first, second = torch.randn(count, 16), torch.randn(count, 16)
    second = (first + second).requires_grad_()
    loss = objective.contrast(first, second)
    (gradient,) = torch.autograd.grad(loss, second)
    labels = torch.arange(count).repeat(2)
    expected = NTXentLoss(temperature=temperature)(torch.cat([first, second]), labels)
    (expected_gradient,) = torch.autograd.grad(expected, second)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [2, 4, 16])
def test_an_untrained_network_at_high_temperature_is_at_chance(build, make_views, count):
    objective = build("SimCLR", temperature=1000.0)
    loss = objective(make_views(objective, count=count), 0.0).loss
    assert loss.item() == pytest.approx(math.log(2 * count - 1), abs=5e-3)


def test_length_of_a_projection_does_not_matter(build):
    contrast = build("SimCLR").contrast
    first, second = torch.randn(6, 16), torch.randn(6, 16)
    scale = torch.rand(6, 1) * 10 + 0.1
    torch.testing.assert_close(contrast(scale * first, second), contrast(first, second))


def test_the_two_crops_are_exchangeable(build, make_views):
    objective = build("SimCLR")
    views = make_views(objective)
    swapped = views._replace(global_=views.global_[::-1])
    torch.testing.assert_close(objective(swapped, 0.0).loss, objective(views, 0.0).loss)


def test_agreeing_crops_score_better_than_crops_of_other_images(build):
    contrast = build("SimCLR").contrast
    first = F.normalize(torch.randn(8, 32), dim=-1)
    assert contrast(first, first) < contrast(first, first.roll(1, 0))


def test_gradient_under_bf16_autocast_is_that_of_float32_projections(build, make_views):
    objective = build("SimCLR", temperature=0.1)
    views = make_views(objective)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = projections(objective, views)
        loss = objective(views, 0.0).loss
    assert loss.item() == pytest.approx(double_loop(*projected, 0.1), rel=1e-5)


def test_loss_and_gradient_equal_lightlys():
    first, second = torch.randn(12, 16), torch.randn(12, 16, requires_grad=True)
    loss = contrastive_loss(first, second, temperature=0.2)
    expected = lightly_loss.NTXentLoss(temperature=0.2)(first, second)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, second), torch.autograd.grad(expected, second))


ONE_OF_TWO = """
import sys, torch
from cxrbase.objectives.losses import contrastive_loss
torch.set_num_threads(1)
folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
rows = torch.load(f"{folder}/rows.pt", weights_only=True)
first, second = (part.chunk(2)[rank].clone().requires_grad_() for part in rows.chunk(2))
loss = contrastive_loss(first, second, temperature=0.2)
loss.backward()
torch.save({"loss": loss.detach(), "first": first.grad, "second": second.grad}, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_have_the_gradient_of_the_joint_batch(tmp_path):
    rows = torch.randn(16, 8)
    torch.save(rows, tmp_path / "rows.pt")
    started = [warm.Process(["-c", ONE_OF_TWO, tmp_path, rank]) for rank in range(2)]
    assert [process.wait(120) for process in started] == [0, 0]
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    joint = rows.clone().requires_grad_()
    loss = contrastive_loss(*joint.chunk(2), temperature=0.2)
    loss.backward()
    torch.testing.assert_close((results[0]["loss"] + results[1]["loss"]) / 2, loss.detach())
    # Distributed training takes the mean over processes.
    found = torch.cat([result[which] for which in ("first", "second") for result in results]) / 2
    torch.testing.assert_close(found, joint.grad, rtol=1e-4, atol=1e-6)
