"""The masked path against timm's own forward pass, and encoders that survive the way through a file."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from cxrbase.backbones import create_backbone, encode_visible, load_encoder, save_encoder
from cxrbase.errors import ConfigError, EncoderError
from cxrbase.weights import load_any_encoder

MODELS = ["test_vit", "test_vit2", "vit_tiny_patch16_224", "deit3_small_patch16_224"]


def card(name="test_vit", size=64, **options):
    arguments = {"in_chans": 1, "num_classes": 0, "img_size": size, **options}
    return {"timm_name": name, "timm_args": arguments, "image_size": size, "mean": 0.5, "std": 0.25}


@pytest.mark.parametrize("name", MODELS)
def test_keeping_every_patch_is_timms_forward_and_order_is_free(name):
    vit = create_backbone(name, image_size=64).eval()
    images = torch.randn(2, 1, 64, 64)
    count = vit.patch_embed.num_patches
    everything = torch.arange(count).expand(2, -1)
    expected = vit.forward_features(images)
    torch.testing.assert_close(encode_visible(vit, images, everything), expected, atol=1e-5, rtol=1e-4)
    shuffled = torch.stack([torch.randperm(count), torch.randperm(count)])
    got = encode_visible(vit, images, shuffled)[:, vit.num_prefix_tokens :]
    wanted = expected[:, vit.num_prefix_tokens :].gather(1, shuffled[:, :, None].expand_as(got))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_hidden_patches_do_not_matter():
    vit = create_backbone("test_vit", image_size=64).eval()
    images = torch.randn(1, 1, 64, 64)
    keep = torch.tensor([[0, 5]])
    before = encode_visible(vit, images, keep)
    images[..., 48:, 48:] = 9  # the last patch, which is hidden
    torch.testing.assert_close(encode_visible(vit, images, keep), before)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 96), (64, 96), (32, 32)])
def test_other_sizes_are_taken(height, width):
    vit = create_backbone("test_vit", image_size=64)
    assert vit(torch.randn(2, 1, height, width)).shape == (2, vit.embed_dim)


def test_position_starts_at_sines_and_prefix_at_zero():
    vit = create_backbone("test_vit", image_size=64)
    position = vit.pos_embed[0]
    assert position[: vit.num_prefix_tokens].abs().sum() == 0
    patches = position[vit.num_prefix_tokens :]
    torch.testing.assert_close(patches.square().sum(-1), torch.full((len(patches),), vit.embed_dim / 2))
    assert vit.pos_embed.requires_grad


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_encoder_through_a_file_gives_equal_features_in_both_loaders(tmp_path, name):
    vit = create_backbone(name, image_size=64).eval()
    path = save_encoder(vit, tmp_path, card(name))
    images = torch.randn(2, 1, 64, 64)
    expected = vit.forward_features(images)
    for given in (tmp_path, path, path.with_suffix(".json"), str(path)):
        torch.testing.assert_close(load_encoder(given).forward_features(images), expected, atol=0, rtol=0)
    plain = timm.create_model(name, in_chans=1, num_classes=0, img_size=64, checkpoint_path=str(path)).eval()
    torch.testing.assert_close(plain.forward_features(images), expected, atol=0, rtol=0)


def test_mean_std_and_size_travel_with_the_encoder(tmp_path):
    save_encoder(create_backbone("test_vit", image_size=64), tmp_path, card())
    config = timm.data.resolve_model_data_config(load_encoder(tmp_path))
    assert (config["input_size"], config["mean"], config["std"]) == ((1, 64, 64), (0.5,), (0.25,))


def test_every_key_must_match(tmp_path):
    path = save_encoder(create_backbone("test_vit", image_size=64), tmp_path, card())
    state = load_file(path)
    save_file({key: value for key, value in state.items() if key != "norm.weight"}, path)
    with pytest.raises(EncoderError, match=r"norm\.weight"):
        load_encoder(path)


def test_broken_encoders_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(EncoderError, match="no encoder description"):
        load_encoder(tmp_path)
    path = save_encoder(create_backbone("test_vit", image_size=64), tmp_path, card())
    for text, message in [
        ("{", "not an encoder description"),
        ("[]", "not an encoder"),
        ("{}", "lacks image_size, mean"),
    ]:
        path.with_suffix(".json").write_text(text)
        with pytest.raises(EncoderError, match=message):
            load_encoder(path)
    deep = json.dumps(card() | {"more": 0}).replace(": 0}", ": " + "[" * 100_000 + "]" * 100_000 + "}")
    changes = [{"image_size": size} for size in (None, "x", [1, 2, 3], [64], 0, 9000, True, 64.0)]
    changes += [{"mean": value} for value in (None, "x", [0.5], float("nan"))] + [{"std": 0}, {"std": float("inf")}]
    for text in [deep, *(json.dumps(card() | change) for change in changes)]:
        path.with_suffix(".json").write_text(text)
        for load in (load_encoder, lambda given: load_any_encoder(str(given))):
            with pytest.raises(EncoderError, match=r"encoder|^(image_size|mean|std) must be"):
                load(path)
    path.with_suffix(".json").write_text(json.dumps(card()))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(EncoderError, match="cannot be loaded as test_vit"):
        load_encoder(path)
    path.write_bytes(b"")
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_enormous", {}, "timm has no backbone 'vit_enormous'"),
        ("resnet18", {}, "resnet18"),
        ("test_vit", {"no_such": 1}, "no_such"),
    ],
)
def test_impossible_backbones_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        create_backbone(name, image_size=64, options=options)


def test_drop_path_reaches_the_blocks():
    vit = create_backbone("test_vit", image_size=64, drop_path=0.3)
    assert vit.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
