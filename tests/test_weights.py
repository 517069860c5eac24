"""Encoders of others give on one grey channel what their own model gives on the image repeated three times."""

import json
import pickle

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from cxrbase.backbones import create_backbone, save_encoder
from cxrbase.errors import CXRBaseError, EncoderError
from cxrbase.evaluation.features import pool_tokens
from cxrbase.weights import initialise, load_any_encoder, short_name
from cxrbase.weights_fit import fold_stem
from weight_files import FORMATS, IMAGENET, dino, dinov2, eva_x, mae, timm_pth, vit


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def grey(size, count=2):
    return torch.rand(count, 1, size, size)


def rgb(image, stats):
    mean, std = (torch.tensor(part).expand(3)[:, None, None] for part in stats)
    return (image.expand(-1, 3, -1, -1) - mean) / std


def one(image, card):
    return (image - card["mean"]) / card["std"]


@pytest.mark.parametrize("make", FORMATS, ids=[make.__name__ for make in FORMATS])
def test_features_are_those_of_the_original_model(make, tmp_path, caplog):
    path, original, stats = make(tmp_path)
    with caplog.at_level("INFO", "cxrbase"):
        network, card = load_any_encoder(str(path))
    image = grey(card["image_size"])
    with torch.no_grad():
        expected = original.forward_features(rgb(image, stats))
        torch.testing.assert_close(network.forward_features(one(image, card)), expected, atol=2e-4, rtol=2e-4)
        pool_tokens(network, expected)
    assert not network.training
    assert "none missing" in caplog.text
    assert "stem of 3 channels summed to one" in caplog.text
    assert card["source"].startswith(str(path))


@pytest.mark.parametrize("make", FORMATS, ids=[make.__name__ for make in FORMATS])
def test_a_card_is_enough_to_make_the_network_again(make, tmp_path):
    path, _, _ = make(tmp_path)
    network, card = load_any_encoder(str(path))
    card = json.loads(json.dumps(card))
    assert {"timm_name", "timm_args", "image_size", "mean", "std", "intensity", "source"} <= card.keys()
    again = timm.create_model(card["timm_name"], **card["timm_args"])
    again.load_state_dict(network.state_dict())
    image = one(grey(card["image_size"]), card)
    with torch.no_grad():
        assert torch.equal(again.eval().forward_features(image), network.forward_features(image))


def save_hugging_face(folder, kind, **options):
    import transformers

    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 14}
    shape |= {"intermediate_size": 128} if kind == "ViTMAE" else {}
    names = {"ViTMAE": "ViTMAEForPreTraining"}
    config = getattr(transformers, f"{kind}Config")(**shape | options)
    model = getattr(transformers, names.get(kind, f"{kind}Model"))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("options", [{}, {"use_swiglu_ffn": True}])
@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
def test_rad_dinos_format_gives_the_features_of_transformers(kind, options, tmp_path):
    model = save_hugging_face(tmp_path, kind, image_size=70, **options)
    # As RAD-DINO's preprocessor has it, from MIMIC-CXR.
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3})
    )
    network, card = load_any_encoder(str(tmp_path))
    assert (card["mean"], card["std"], card["image_size"]) == (0.5307, 0.2583, 70)
    image = grey(70)
    with torch.no_grad():
        expected = model(rgb(image, ((0.5307,), (0.2583,)))).last_hidden_state
    torch.testing.assert_close(network.forward_features(one(image, card)), expected, atol=2e-4, rtol=2e-4)


def test_hugging_faces_mae_gives_the_features_of_transformers(tmp_path):
    model = save_hugging_face(tmp_path, "ViTMAE", image_size=56, mask_ratio=0.0)
    network, card = load_any_encoder(str(tmp_path / "model.safetensors"))
    image = grey(56)
    noise = torch.arange(16.0).expand(2, -1)  # keeps every patch, in order
    with torch.no_grad():
        expected = model.vit(rgb(image, IMAGENET), noise=noise).last_hidden_state
    torch.testing.assert_close(network.forward_features(one(image, card)), expected, atol=2e-4, rtol=2e-4)


def test_a_network_of_518_pixels_runs_at_224(tmp_path):
    model = vit("vit_base_patch14_dinov2", size=518)
    torch.save(model.state_dict(), tmp_path / "large.pth")
    network, card = load_any_encoder(str(tmp_path / "large.pth"), image_size=224)
    assert card["image_size"] == 224
    assert network.pos_embed.shape[1] == 1 + 16 * 16
    model.set_input_size(img_size=(224, 224))
    image = grey(224, count=1)
    with torch.no_grad():
        expected = model.forward_features(rgb(image, IMAGENET))
        torch.testing.assert_close(network.forward_features(one(image, card)), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("make", [mae, eva_x])
def test_size_may_be_a_rectangle(make, tmp_path):
    path, _, _ = make(tmp_path)
    network, card = load_any_encoder(str(path), image_size=(64, 96))
    assert card["image_size"] == [64, 96]
    assert network(torch.randn(1, 1, 64, 96)).shape == (1, 64)


def test_another_patch_size_gives_nearly_the_same_token_on_a_smooth_image(tmp_path):
    path, _, _ = mae(tmp_path)
    coarse, card = load_any_encoder(str(path))
    fine, _ = load_any_encoder(str(path), patch_size=8, image_size=32)
    image = torch.nn.functional.interpolate(torch.randn(1, 1, 4, 4), 64, mode="bicubic")
    small = torch.nn.functional.interpolate(image, 32, mode="area")
    tokens, expected = fine.patch_embed(one(small, card)), coarse.patch_embed(one(image, card))
    assert (tokens - expected).norm() < 0.1 * expected.norm()


def test_own_encoders_keep_their_card_and_change_size(tmp_path):
    network = create_backbone("test_vit", image_size=64)
    card = {"timm_name": "test_vit", "timm_args": {"in_chans": 1, "num_classes": 0, "img_size": 64}}
    save_encoder(network, tmp_path, card | {"image_size": 64, "mean": 0.4, "std": 0.3, "objective": "MAE"})
    same, found = load_any_encoder(str(tmp_path))
    assert (found["mean"], found["objective"], found["format"]) == (0.4, "MAE", "cxrbase")
    image = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(
        same.forward_features(image), network.eval().forward_features(image), atol=1e-5, rtol=1e-4
    )
    larger, found = load_any_encoder(str(tmp_path / "encoder.json"), image_size=96)
    assert found["image_size"] == found["timm_args"]["img_size"] == 96
    assert larger.pos_embed.shape[1] == 1 + 36


def test_a_folder_with_a_dot_in_its_name_is_ours_too(tmp_path):
    card = {"timm_name": "test_vit", "timm_args": {"in_chans": 1, "num_classes": 0, "img_size": 64}}
    card |= {"image_size": 64, "mean": 0.4, "std": 0.3, "window": "dicom"}
    save_encoder(create_backbone("test_vit", image_size=64), tmp_path / "mae_0.9", card)
    for place in (tmp_path / "mae_0.9", tmp_path / "mae_0.9" / "encoder.json"):
        _, found = load_any_encoder(str(place))
        assert (found["mean"], found["window"], found["format"]) == (0.4, "dicom", "cxrbase")


@pytest.mark.parametrize("options", [{"pos_embed": "none"}, {"pre_norm": True}], ids=["no positions", "no bias"])
def test_own_encoders_without_positions_or_a_bias_in_the_stem_are_read(options, tmp_path):
    network = create_backbone("test_vit", image_size=64, options=options).eval()
    arguments = {"in_chans": 1, "num_classes": 0, "img_size": 64, **options}
    card = {"timm_name": "test_vit", "timm_args": arguments, "image_size": 64, "mean": 0.4, "std": 0.3}
    save_encoder(network, tmp_path, card)
    same, _ = load_any_encoder(str(tmp_path))
    image = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(same.forward_features(image), network.forward_features(image), atol=1e-5, rtol=1e-4)
    start = create_backbone("test_vit", image_size=32, options=options)
    initialise(start, str(tmp_path), mean=0.4, std=0.3)
    assert torch.equal(start.blocks[0].attn.qkv.weight, network.blocks[0].attn.qkv.weight)
    if "pre_norm" in options:
        with pytest.raises(EncoderError, match=r"no bias to take up another mean"):
            initialise(start, str(tmp_path), mean=0.5, std=0.3)
    else:
        with pytest.raises(EncoderError, match="the weights have no positions"):
            initialise(create_backbone("test_vit", image_size=64), str(tmp_path), mean=0.4, std=0.3)


def test_a_run_on_a_backbone_as_timm_has_it_has_its_heads(tmp_path):
    network = create_backbone("vit_tiny_patch16_224", image_size=32, options={"depth": 1})
    settings = {"backbone": "vit_tiny_patch16_224", "backbone_options": {"depth": 1}}
    for name, said in (("", {}), ("hf-hub:who/what", {"backbone": "hf-hub:who/what"})):
        held = {f"objective.encoder.{key}": value for key, value in network.state_dict().items()}
        torch.save({"state_dict": held, "hyper_parameters": settings | said}, tmp_path / "last.ckpt")
        if name:
            with pytest.raises(EncoderError, match="knows no network"):
                load_any_encoder(str(tmp_path / "last.ckpt"))
        else:
            assert load_any_encoder(str(tmp_path / "last.ckpt"))[0].blocks[0].attn.num_heads == 3


def test_the_checkpoint_of_a_run_gives_the_features_of_its_encoder(fit):
    fit("mae", "--data.window=dicom", "--data.crop_borders=true")  # of two heads, 16 wide
    network, card = load_any_encoder(str(fit.run_dir))
    stopped, told = load_any_encoder(str(fit.run_dir / "last.ckpt"))
    image = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(stopped.forward_features(image), network.forward_features(image))
    said = ("window", "crop_borders", "mean", "std", "image_size")
    assert {name: told[name] for name in said} == {name: card[name] for name in said}
    assert (told["window"], told["crop_borders"]) == ("dicom", True)


@pytest.mark.parametrize(("size", "patch"), [([24, 40], 8), ([64, 16], 8), ([32, 48], (8, 16))])
def test_the_checkpoint_of_a_run_on_images_that_are_not_square_has_their_grid(size, patch, tmp_path):
    options = {"patch_size": patch, "embed_dim": 64, "depth": 1, "num_heads": 1}  # 15 + 1 or 16 positions: of squares
    network = create_backbone("vit_tiny_patch16_224", image_size=size, options=options)
    settings = {"backbone": "vit_tiny_patch16_224", "backbone_options": options, "image_size": size}
    held = {f"objective.backbone.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": held, "hyper_parameters": settings}, tmp_path / "last.ckpt")
    loaded, card = load_any_encoder(str(tmp_path / "last.ckpt"))
    assert card["image_size"] == size
    image = torch.randn(2, 1, *size)
    torch.testing.assert_close(loaded.forward_features(image), network.eval().forward_features(image))
    again = create_backbone("vit_tiny_patch16_224", image_size=size, options=options)
    initialise(again, str(tmp_path / "last.ckpt"), mean=0.506, std=0.252)
    torch.testing.assert_close(again.eval().forward_features(image), network.forward_features(image))


@pytest.mark.parametrize(
    ("name", "kind"), [("vit_tiny_patch16_224", VisionTransformer), ("eva02_tiny_patch14_224", Eva)]
)
def test_timm_names_are_made_untrained(name, kind):
    network, card = load_any_encoder(f"timm:{name}", image_size=112)
    assert isinstance(network, kind)
    assert (card["format"], card["image_size"], card["mean"]) == ("untrained", 112, 0.506)
    assert network(torch.randn(1, 1, 112, 112)).shape == (1, 192)


def test_an_untrained_network_is_the_same_every_time_and_another_with_another_seed():
    before = torch.random.get_rng_state()
    first, again, other = (load_any_encoder("timm:test_vit", seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["patch_embed.proj.weight"], other["patch_embed.proj.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_named_network_takes_its_file_and_its_own_mean_and_std(tmp_path):
    # Twelve heads at width 384, as MoCo-v3's ViT-S has, cannot be told from the file; timm's AugReg models expect 0.5.
    name = "vit_tiny_patch16_224.augreg_in21k"
    model = timm.create_model(name, num_classes=0).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    network, card = load_any_encoder(f"timm:{name}={tmp_path / 'w.pth'}")
    assert (card["mean"], card["std"]) == (0.5, 0.5)
    image = grey(224, count=1)
    with torch.no_grad():
        expected = model.forward_features(rgb(image, ((0.5,), (0.5,))))
        torch.testing.assert_close(network.forward_features(one(image, card)), expected, atol=2e-4, rtol=2e-4)


def test_mean_and_std_can_be_said(tmp_path):
    path, original, _ = timm_pth(tmp_path)
    network, card = load_any_encoder(str(path), mean=0.3, std=0.2)
    image = grey(64)
    with torch.no_grad():
        expected = original.forward_features(rgb(image, ((0.3,), (0.2,))))
        torch.testing.assert_close(network.forward_features(one(image, card)), expected, atol=2e-4, rtol=2e-4)
    with pytest.raises(EncoderError, match="both mean and std"):
        load_any_encoder(str(path), mean=0.3)


@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.lists(st.floats(0.05, 1), min_size=3, max_size=3),
    st.tuples(st.floats(0, 1), st.floats(0.05, 1)),
)
@settings(max_examples=30, deadline=None)
def test_folding_is_exact_for_any_mean_and_std(mean, std, to):
    weight, bias, image = torch.randn(5, 3, 4, 4), torch.randn(5), torch.rand(2, 1, 8, 8)
    conv = torch.nn.functional.conv2d
    expected = conv(rgb(image, (mean, std)).double(), weight.double(), bias.double(), stride=4)
    stem = fold_stem(weight, bias, stats=(tuple(mean), tuple(std)), to=to)
    got = conv(((image - to[0]) / to[1]).double(), stem[0].double(), stem[1].double(), stride=4)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code in a weight file was run",))


def test_nothing_in_a_file_is_run(tmp_path):
    for name, write in (("zip.pth", torch.save), ("old.pt", lambda o, p: p.write_bytes(pickle.dumps(o)))):
        write({"model": {"patch_embed.proj.weight": Evil()}}, tmp_path / name)
        with pytest.raises(EncoderError):
            load_any_encoder(str(tmp_path / name))


def test_weights_that_do_not_fit_are_refused_in_a_sentence(tmp_path):
    path, model, _ = timm_pth(tmp_path)
    state = model.state_dict()
    cases = [
        ({"classifier.weight": torch.zeros(2)}, "no Vision Transformer"),
        (
            {key: value for key, value in state.items() if key != "blocks.1.norm1.weight"},
            r"1 missing \(blocks\.1\.norm1\.weight",
        ),
        (state | {"blocks.0.adapter.weight": torch.zeros(2)}, r"1 without a place \(blocks\.0\.adapter\.weight"),
        (state | {"norm.weight": torch.zeros(2)}, "1 of another shape"),
        (state | {"pos_embed": torch.zeros(1, 12, 64)}, "not those of a square"),
        (state | {"dist_token": torch.zeros(1, 1, 64)}, "DeiT's distillation token"),
        (state | {"blocks.0.attn.relative_position_bias_table": torch.zeros(3)}, "BEiT"),
        (state | {"norm_pre.weight": torch.zeros(64)}, "CLIP"),
        ({key: value for key, value in state.items() if key != "pos_embed"}, "lacks"),
        ({}, "no Vision Transformer"),
    ]
    for content, message in cases:
        torch.save(content, path)
        with pytest.raises(EncoderError, match=message):
            load_any_encoder(str(path))
    torch.save([1], path)
    with pytest.raises(EncoderError, match="holds a list"):
        load_any_encoder(str(path))
    torch.save(state, path)
    for name, message in [
        ("vit_small_patch16_224", "write timm:vit_small_patch16_224"),
        ("/no/such.pth", "no weights at"),
        (str(tmp_path), "neither encoder.json nor model.safetensors nor pytorch_model.bin"),
        ("timm:resnet18", "must be a Vision Transformer|cannot make"),
        ("timm:vit_enormous", "cannot make 'vit_enormous'"),
        (f"timm:vit_small_patch16_224.no_such_tag={path}", "knows no network 'vit_small_patch16_224.no_such_tag'"),
        (__file__, "not a weight file"),
    ]:
        with pytest.raises(EncoderError, match=message):
            load_any_encoder(name)


@pytest.mark.parametrize("make", [timm_pth, mae, eva_x])
def test_weights_that_are_not_finite_are_refused(make, tmp_path):
    path, model, _ = make(tmp_path)
    broken = model.state_dict() | {"norm.bias": torch.full((64,), torch.nan), "pos_embed": model.pos_embed / 0}
    torch.save(broken, path)
    for load in (load_any_encoder, lambda name: initialise(vit(), name, mean=0.5, std=0.25)):
        with pytest.raises(EncoderError, match=f"{path.name} is no encoder: 2 of .* tensors are not finite, first"):
            load(str(path))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"image_mean": [0.5] * 3, "image_std": [0]},
            "the std in .*preprocessor_config.json must be .* above 0, got .0",
        ),
        ({"image_mean": 0.5, "image_std": [0.5]}, "the mean in .* must be a list of 1 or 3 numbers, got 0.5"),
        ({"image_mean": None, "image_std": None}, "the mean in .*, got None"),
        ({"image_mean": ["a"], "image_std": [1]}, "the mean in .*, got ..a"),
        ({"image_mean": [0.5], "image_std": [1, 1]}, "the std in .* must be a list of 1 or 3 numbers above 0"),
        ({"image_mean": [True], "image_std": [1]}, "the mean in .*, got .True"),
        ({"image_mean": [0.5], "image_std": [float("nan")]}, "the std in .*, got .nan"),
        ({"num_attention_heads": "four"}, "the attention heads of .* must divide its width 64, got 'four'"),
        ({"num_attention_heads": 7}, "must divide its width 64, got '7'"),
        ({"num_attention_heads": -1}, "must divide its width 64, got '-1'"),
    ],
)
def test_odd_files_beside_weights_are_answered_in_a_sentence(said, message, tmp_path):
    path, _, _ = timm_pth(tmp_path)
    for name in ("preprocessor_config.json", "config.json"):
        (tmp_path / name).write_text(json.dumps(said))
    with pytest.raises(EncoderError, match=message):
        load_any_encoder(str(path))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hyper_parameters": {"backbone": "resnet18"}}, "'resnet18' is none"),
        (
            {"hyper_parameters": {"backbone": "vit_tiny_patch16_224", "backbone_options": "x"}},
            "backbone_options .* 'x'",
        ),
        ({"hyper_parameters": {"backbone": "a", "backbone_options": {"num_heads": "four"}}}, "got 'four'"),
        ({"normalised": {"mean": 0.5}}, "the std in .* must be a list of 1 number above 0, got .None"),
        ({"normalised": {"mean": 0.5, "std": "x"}}, "the std in .*, got .'x'"),
        ({"normalised": {"mean": 0.5, "std": 0.5, "window": ["x"]}}, "window must be"),
    ],
)
def test_odd_settings_in_a_checkpoint_of_fit_are_answered_in_a_sentence(changed, message, tmp_path):
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, in_chans=1, num_classes=0, embed_dim=64, depth=1, num_heads=1
    )
    torch.save({"state_dict": network.state_dict()} | changed, tmp_path / "last.ckpt")
    with pytest.raises(CXRBaseError, match=message):
        load_any_encoder(str(tmp_path / "last.ckpt"))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("runs/mae", "mae"),
        ("runs/mae/", "mae"),
        ("runs/mae/encoder.safetensors", "mae"),
        ("runs/mae/encoder.json", "mae"),
        ("encoder.json", "here"),
        (".", "here"),
        ("weights/mae_pretrain.pth", "mae_pretrain.pth"),
        ("weights/encoder.pth", "encoder.pth"),
        ("timm:vit_small_patch16_224", "timm:vit_small_patch16_224"),
    ],
)
def test_an_encoder_is_called_as_its_run_or_its_file(place, name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert short_name(place) == name


@given(st.binary(max_size=200), st.sampled_from([".pth", ".safetensors", ".bin"]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_refused_in_a_sentence(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("bytes") / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(EncoderError):
        load_any_encoder(str(path))


@pytest.mark.parametrize("make", [mae, dino, dinov2])
def test_a_backbone_starts_from_another_encoder_under_its_own_mean_and_std(make, tmp_path):
    path, original, stats = make(tmp_path)
    size, patch = original.patch_embed.img_size[0], original.patch_embed.patch_size[0]
    options = {"patch_size": patch, "embed_dim": 64, "depth": 2, "num_heads": 1}
    options |= {"init_values": 1.0} if make is dinov2 else {}
    backbone = create_backbone("vit_small_patch16_224", image_size=size, options=options)
    initialise(backbone, str(path), mean=0.506, std=0.252)
    image = grey(size)
    with torch.no_grad():
        expected = original.forward_features(rgb(image, stats))
        got = backbone.eval().forward_features((image - 0.506) / 0.252)
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)


def test_a_backbone_of_other_shape_or_family_is_refused(tmp_path):
    path, _, _ = mae(tmp_path)
    backbone = create_backbone(
        "vit_small_patch16_224", image_size=64, options={"embed_dim": 64, "depth": 3, "num_heads": 1}
    )
    with pytest.raises(EncoderError, match="do not fit the network, 30 of 42 keys match: 12 missing"):
        initialise(backbone, str(path), mean=0.5, std=0.25)
    path, _, _ = eva_x(tmp_path)
    said = "eva_x.pt, which is of the EVA kind .* score it with cxrbase evaluate, or fit it to a task with cxrbase fit"
    with pytest.raises(EncoderError, match=said):
        initialise(backbone, str(path), mean=0.5, std=0.25)


def test_another_number_of_heads_is_refused_where_it_is_known(tmp_path):
    options = {"embed_dim": 64, "depth": 1, "num_heads": 4}
    network, backbone = (
        create_backbone("vit_small_patch16_224", image_size=64, options=options | {"num_heads": heads})
        for heads in (4, 2)
    )
    settings = {"backbone": "vit_small_patch16_224", "backbone_options": options}
    held = {f"objective.backbone.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": held, "hyper_parameters": settings}, tmp_path / "last.ckpt")
    said = "last.ckpt has 4 attention heads, the network to train has 2: set --model.backbone_options.num_heads=4"
    with pytest.raises(EncoderError, match=said):
        initialise(backbone, str(tmp_path / "last.ckpt"), mean=0.506, std=0.252)
    torch.save(network.state_dict(), tmp_path / "bare.pt")  # says nothing of heads
    initialise(backbone, str(tmp_path / "bare.pt"), mean=0.506, std=0.252)


def test_attention_layers_side_by_side_are_refused(tmp_path):
    network = timm.create_model("vit_small_patch16_18x2_224", depth=1, img_size=32, num_classes=0)
    torch.save(network.state_dict(), tmp_path / "parallel.pt")
    with pytest.raises(EncoderError, match="attention layers side by side in a block, which no encoder here has"):
        load_any_encoder(str(tmp_path / "parallel.pt"))
