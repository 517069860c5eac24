"""Schedules in closed form, and the parameters that must not decay, by name."""

import pytest
import timm
import torch
from torch import nn

from cxrbase.backbones import create_backbone
from cxrbase.objectives import DINO, MAE
from cxrbase.optim import cosine, layer_decayed_groups, param_groups, rest, scaled_lr, warmup_cosine


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


@pytest.mark.parametrize("fused", [None, True])
def test_a_parameter_that_rested_goes_on_as_if_the_optimizer_had_just_begun(fused):
    start, target = torch.randn(5, 3), torch.randn(5, 3)
    rested, fresh = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = [torch.optim.AdamW([p], lr=0.1, betas=(0.9, 0.999), fused=fused) for p in (rested, fresh)]
    for _ in range(20):
        (0 * rested).sum().backward()
        rest(optimizers[0], [rested])
        optimizers[0].step()
    assert torch.equal(rested, start)
    state = optimizers[0].state_dict()
    assert all(not value.any() for value in state["state"][0].values())
    optimizers[0].load_state_dict(state)
    for _ in range(3):
        for parameter, optimizer in zip((rested, fresh), optimizers, strict=True):
            optimizer.zero_grad()
            (parameter - target).square().sum().backward()
            optimizer.step()
    assert torch.equal(rested, fresh)


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


def test_layer_decay_follows_its_closed_form():
    depth, decay, lr = 4, 0.65, 0.02
    vit = timm.create_model("vit_tiny_patch16_224", depth=depth, embed_dim=24, num_heads=2, in_chans=1, num_classes=3)
    groups = layer_decayed_groups(torch.nn.ModuleDict({"encoder": vit}), depth=depth, layer_decay=decay, lr=lr,
                                  weight_decay=0.05)  # fmt: skip
    wanted = {"cls_token": 0, "pos_embed": 0, "patch_embed.proj.weight": 0, "patch_embed.proj.bias": 0}
    wanted |= {"norm.weight": depth + 1, "head.weight": depth + 1, "head.bias": depth + 1}
    wanted |= {f"blocks.{i}.{part}": i + 1 for i in range(depth) for part in ("attn.qkv.weight", "mlp.fc2.bias")}
    found = {name.removeprefix("encoder."): group for group in groups for name in group["names"]}
    for name, layer in wanted.items():
        assert found[name]["layer"] == layer
        assert found[name]["lr"] == pytest.approx(lr * decay ** (depth + 1 - layer), rel=1e-12)
        plain = name.endswith("bias") or "norm" in name or name in ("cls_token", "pos_embed")
        assert found[name]["weight_decay"] == (0 if plain else 0.05)
    parameters = [parameter for group in groups for parameter in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == len(list(vit.parameters()))
    torch.optim.AdamW(groups)


def test_layer_decay_of_one_is_the_plain_division():
    vit = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=24, num_heads=2)
    vit.blocks.requires_grad_(False)
    groups = layer_decayed_groups(vit, depth=2, layer_decay=1.0, lr=0.1, weight_decay=0.05)
    assert {group["lr"] for group in groups} == {0.1}
    assert not [name for group in groups for name in group["names"] if name.startswith("blocks")]
