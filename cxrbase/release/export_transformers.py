"""An encoder as transformers' own ViTModel with an image processor; needs transformers only for the check."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cxrbase.data.reading import Reading
from cxrbase.errors import ConfigError, EncoderError
from cxrbase.evaluation.features import pool_tokens
from cxrbase.release.compare import difference, sample
from cxrbase.release.package import WEIGHTS
from cxrbase.states import write_state
from cxrbase.weights_fit import Encoder

# timm's names to transformers', checked in this order.
_NAMES = [
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
]
_PLAIN = re.compile(
    r"^(cls_token|pos_embed|patch_embed\.proj\.(weight|bias)|norm\.(weight|bias)"
    r"|blocks\.\d+\.(norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])\.(weight|bias))$"
)


def write(network: Encoder, card: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Writes config.json, preprocessor_config.json and model.safetensors, opens them by AutoModel and compares.

    Args:
        network: The encoder.
        card: Its description.
        folder: An empty folder.

    Returns:
        max_difference and checked_with.

    Raises:
        EncoderError: ViTModel cannot hold the network.
        ConfigError: transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError("--to hf is checked with transformers, which is not installed: pip install 'cxrbase[export]'")
    vit = _plain(network, card)
    write_state(folder / WEIGHTS, _renamed(vit))
    (folder / "config.json").write_text(json.dumps(_config(vit, card), indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(_processor(card), indent=2) + "\n")
    return _check(vit, card, folder)


def _plain(network: Encoder, card: dict[str, Any]) -> VisionTransformer:
    """The network, if ViTModel computes the same; EncoderError names what it has beyond."""
    strange = [key for key in network.state_dict() if not _PLAIN.match(key)]
    if not isinstance(network, VisionTransformer) or strange or not network.has_class_token:
        what = ", ".join(strange[:3]) or f"{type(network).__name__} without a class token"
        raise EncoderError(f"transformers' ViTModel has no place for {what}: use --to timm, which AutoModel opens too")
    block: Any = network.blocks[0]
    if not isinstance(block.mlp.act, nn.GELU) or block.mlp.act.approximate != "none":
        raise EncoderError(f"transformers' export takes exact GELU only, this has {block.mlp.act}: use --to timm")
    if not isinstance(card["image_size"], int):
        raise EncoderError(f"--to hf takes square inputs only, this is {card['image_size']}: use --to timm")
    return network


def _renamed(vit: VisionTransformer) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, value in vit.state_dict().items():
        parts = {key: value}
        if ".attn.qkv." in key:
            names = (key.replace(".qkv.", f".{part}.") for part in ("query", "key", "value"))
            parts = dict(zip(names, value.chunk(3), strict=True))
        for name, part in parts.items():
            for pattern, other in _NAMES:
                name = re.sub(pattern, other, name)
            state[name] = part
    # AutoModel adds a pooler; as the identity it hands on the class token, instead of a random projection of it.
    state["pooler.dense.weight"], state["pooler.dense.bias"] = torch.eye(vit.embed_dim), torch.zeros(vit.embed_dim)
    return state


def _config(vit: VisionTransformer, card: dict[str, Any]) -> dict[str, Any]:
    block: Any = vit.blocks[0]
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": block.norm1.eps,
        "qkv_bias": block.attn.qkv.bias is not None,
        "image_size": card["image_size"],
        "patch_size": vit.patch_embed.patch_size[0],
        "num_channels": 1,
        "pooler_output_size": vit.embed_dim,
        "pooler_act": "linear",
        "dtype": "float32",
    }


def _processor(card: dict[str, Any]) -> dict[str, Any]:
    """Settings of the only image processor that cuts out the centre and can leave an image grey."""
    size = card["image_size"]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": False,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [card["mean"]],
        "image_std": [card["std"]],
        # Nothing of theirs, which takes images that are decoded; for who reads this file alone.
        "decoding": Reading.of(card).values(),
    }


def _check(vit: VisionTransformer, card: dict[str, Any], folder: Path) -> dict[str, Any]:
    import transformers

    with _quiet():
        theirs = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    images = sample(card, batch=2)
    with torch.inference_mode():
        ours = pool_tokens(vit, vit.forward_features(images))
        tokens = theirs(pixel_values=images)
    found = torch.cat([tokens.pooler_output, tokens.last_hidden_state[:, 1:].mean(1)], 1)
    return {"max_difference": difference(ours, found), "checked_with": f"transformers {transformers.__version__}"}


class _quiet:
    """Without the progress bar of loading, which is put back afterwards."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._was = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def __exit__(self, *stop: object) -> None:
        from transformers.utils import logging

        if self._was:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
