"""Schedules in closed form, and the parameters that must not decay, by name."""

import pytest
import torch
from torch import nn

from cxrbase.backbones import create_backbone
from cxrbase.objectives import DINO, MAE
from cxrbase.optim import cosine, param_groups, scaled_lr, warmup_cosine


def test_warmup_cosine_in_closed_form():
    assert warmup_cosine(0.0, warmup=0.1) == 0
    assert warmup_cosine(0.05, warmup=0.1) == pytest.approx(0.5)
    assert warmup_cosine(0.1, warmup=0.1) == pytest.approx(1)
    assert warmup_cosine(0.55, warmup=0.1, end=0.2) == pytest.approx(0.6)
    assert warmup_cosine(1.0, warmup=0.1, end=0.2) == pytest.approx(0.2)
    assert warmup_cosine(0.0, warmup=0.0) == pytest.approx(1)


def test_cosine_and_scaling_in_closed_form():
    assert cosine(0.5, start=0.996, end=1.0) == pytest.approx(0.998)
    assert scaled_lr(1.5e-4, batch_size=64, devices=8, accumulate=4) == pytest.approx(1.5e-4 * 8)


def test_undecayed_parameters_by_name():
    objective = MAE(create_backbone("test_vit", image_size=64), decoder_dim=32)
    decayed, plain = param_groups(objective, weight_decay=0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert {
        "backbone.pos_embed",
        "backbone.cls_token",
        "mask_token",
        "decoder_pred.bias",
        "decoder_norm.weight",
    } <= set(plain["names"])
    assert {"backbone.patch_embed.proj.weight", "decoder_embed.weight"} <= set(decayed["names"])
    assert all(parameter.ndim > 1 for parameter in decayed["params"])


def test_every_trainable_parameter_is_optimised_once_and_the_teacher_never():
    objective = DINO(create_backbone("test_vit", image_size=64), num_prototypes=8, hidden_dim=8, bottleneck_dim=4)
    names = [name for group in param_groups(objective, weight_decay=0.1) for name in group["names"]]
    assert len(names) == len(set(names))
    assert sorted(names) == sorted(name for name, p in objective.named_parameters() if p.requires_grad)
    assert not any(name.startswith("teacher") for name in names)


def test_registers_do_not_decay():
    module = nn.Module()
    module.reg_token = nn.Parameter(torch.zeros(1, 4, 8))
    assert param_groups(module, weight_decay=1.0)[1]["names"] == ["reg_token"]
