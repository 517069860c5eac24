"""Weight files under the key names of their authors, made from real models; each with the model to compare to."""

import argparse
import re

import timm
import torch
from timm.models.eva import Eva

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NIH = ((0.506,), (0.252,))
EVA_X = ((0.49185243,), (0.28509309,))
SHAPE = {"embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 0}


def shaken(model):
    """No parameter at the value it is made with: a scale left at 1 or a bias at 0 would hide a mistake."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def vit(name="vit_small_patch16_224", size=64, **options):
    return shaken(timm.create_model(name, img_size=size, **SHAPE | options))


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def decoder(width=64):
    keys = {"mask_token": (1, 1, 32), "decoder_pos_embed": (1, 17, 32), "decoder_embed.weight": (32, width)}
    keys |= {"decoder_embed.bias": (32,), "decoder_blocks.0.norm1.weight": (32,), "decoder_pred.weight": (768, 32)}
    return {key: torch.randn(shape) for key, shape in keys.items()}


def timm_pth(folder):
    model = vit(num_classes=5)
    torch.save(state(model), folder / "timm.pth")
    return folder / "timm.pth", model, IMAGENET


def timm_safetensors(folder):
    from safetensors.torch import save_file

    model = vit("deit3_small_patch16_224")
    save_file(state(model), folder / "model.safetensors")
    return folder, model, IMAGENET


def mae(folder):
    model = vit()
    torch.save({"model": state(model) | decoder(), "optimizer": {"state": {}}, "epoch": 1}, folder / "mae.pth")
    return folder / "mae.pth", model, IMAGENET


def medical_mae(folder):
    model = vit()
    args = argparse.Namespace(datasets_names=["chestxray_nih"], mask_ratio=0.9)
    torch.save({"model": state(model) | decoder(), "epoch": 799, "args": args}, folder / "medical.pth")
    return folder / "medical.pth", model, NIH


def mae_fine_tuned(folder):
    model = vit(global_pool="avg", num_classes=14)
    torch.save({"model": state(model)}, folder / "tuned.pth")
    return folder / "tuned.pth", model, IMAGENET


def dino(folder):
    teacher, student = vit(), vit()
    content = {
        "student": {f"module.backbone.{key}": value for key, value in state(student).items()},
        "teacher": {f"backbone.{key}": value for key, value in state(teacher).items()},
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small"),
    }
    for net, prefix in (("student", "module."), ("teacher", "")):
        content[net][f"{prefix}head.mlp.0.weight"] = torch.randn(8, 64)
        content[net][f"{prefix}head.last_layer.weight_v"] = torch.randn(8, 8)
    torch.save(content, folder / "dino.pth")
    return folder / "dino.pth", teacher, IMAGENET


def _dinov2(model, *, chunked, registers):
    names = {}
    for key, value in state(model).items():
        if chunked:
            key = re.sub(r"^blocks\.(\d+)", r"blocks.0.\1", key)
        if "mlp.fc" in key and "giant" in model.pretrained_cfg["architecture"]:
            key = key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        names[key] = value
    names["mask_token"] = torch.zeros(1, 64)
    if registers:
        # The authors give the class token a position of its own; timm has it in the token already.
        first = torch.randn(1, 1, 64)
        names["register_tokens"] = names.pop("reg_token")
        names["cls_token"] = names["cls_token"] - first
        names["pos_embed"] = torch.cat([first, names["pos_embed"]], 1)
    return names


def dinov2(folder):
    model = vit("vit_small_patch14_dinov2", size=70)
    torch.save(_dinov2(model, chunked=False, registers=False), folder / "dinov2.pth")
    return folder / "dinov2.pth", model, IMAGENET


def dinov2_registers(folder):
    model = vit("vit_small_patch14_reg4_dinov2", size=70)
    torch.save(_dinov2(model, chunked=False, registers=True), folder / "dinov2_reg4.pth")
    return folder / "dinov2_reg4.pth", model, IMAGENET


def dinov2_giant_in_chunks(folder):
    model = vit("vit_giant_patch14_dinov2", size=70, mlp_ratio=4.0)
    inner = _dinov2(model, chunked=True, registers=False)
    content = {f"backbone.{key}": value for key, value in inner.items()} | {
        "dino_head.mlp.0.weight": torch.randn(8, 64)
    }
    torch.save({"teacher": content}, folder / "teacher_checkpoint.pth")
    return folder / "teacher_checkpoint.pth", model, IMAGENET


def eva_x(folder, *, base=False):
    # The constructor of https://github.com/hustvl/EVA-X, eva_x.py, with the norm after the blocks of its pretraining.
    options = {"img_size": 64, "patch_size": 16, "mlp_ratio": 4 * 2 / 3, "swiglu_mlp": True, "use_rot_pos_emb": True}
    options |= {"ref_feat_shape": (4, 4), "global_pool": "token"} | (
        {"qkv_fused": False, "scale_mlp": True} if base else {}
    )
    model = shaken(Eva(**SHAPE | options))
    names = {}
    for key, value in state(model).items():
        key = key.replace("mlp.norm", "mlp.ffn_ln").replace("fc1_g", "w1").replace("fc1_x", "w2")
        key = key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        names[re.sub(r"attn\.([qv])_proj\.bias", r"attn.\1_bias", key)] = value
    names |= {
        "mask_token": torch.zeros(1, 1, 64),
        "rope.freqs_cos": torch.randn(16, 64),
        "lm_head.weight": torch.randn(8, 64),
    }
    torch.save({"model": names}, folder / "eva_x.pt")
    return folder / "eva_x.pt", model, EVA_X


def eva_x_base(folder):
    return eva_x(folder, base=True)


FORMATS = [
    timm_pth,
    timm_safetensors,
    mae,
    medical_mae,
    mae_fine_tuned,
    dino,
    dinov2,
    dinov2_registers,
    dinov2_giant_in_chunks,
    eva_x,
    eva_x_base,
]
