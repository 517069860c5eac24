"""MAE against the ViTMAE of transformers with the same weights and mask, and its parts against what they claim."""

import pytest
import torch
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from cxrbase.objectives.losses import masked_patch_loss
from cxrbase.objectives.mae import patchify, unpatchify
from cxrbase.views import Views

SIZE, PATCH, WIDTH, DECODER = 32, 8, 32, 16


def reference(mae, *, norm_pix, ratio, depth):
    """The ViTMAE of transformers with a copy of the weights of `mae`."""
    config = ViTMAEConfig(
        image_size=SIZE,
        patch_size=PATCH,
        num_channels=1,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=4 * WIDTH,
        decoder_hidden_size=DECODER,
        decoder_num_hidden_layers=depth,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=4 * DECODER,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        mask_ratio=ratio,
        norm_pix_loss=norm_pix,
    )
    model = ViTMAEForPreTraining(config).to(mae.mask_token.dtype)
    model.load_state_dict(translated(mae))
    return model


def translated(mae):
    """The state of `mae` by the names that transformers uses."""
    ours, theirs = mae.state_dict(), {}
    names = {
        "backbone.cls_token": "vit.embeddings.cls_token",
        "backbone.pos_embed": "vit.embeddings.position_embeddings",
        "backbone.patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "backbone.norm": "vit.layernorm",
        "mask_token": "decoder.mask_token",
        "decoder_embed": "decoder.decoder_embed",
        "decoder_norm": "decoder.decoder_norm",
        "decoder_pred": "decoder.decoder_pred",
    }
    blocks = {"backbone.blocks": "vit.layers", "decoder_blocks": "decoder.decoder_layers"}
    inside = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for name, value in ours.items():
        module, _, kind = name.rpartition(".")
        for stem, other in blocks.items():
            if name.startswith(f"{stem}."):
                number, within = module.removeprefix(f"{stem}.").split(".", 1)
                if within == "attn.qkv":
                    for letter, part in zip("qkv", value.chunk(3), strict=True):
                        theirs[f"{other}.{number}.attention.{letter}_proj.{kind}"] = part
                else:
                    theirs[f"{other}.{number}.{inside[within]}.{kind}"] = value
                break
        else:
            theirs[names[name] if name in names else f"{names[module]}.{kind}"] = value
    table = build_sincos2d_pos_embed([SIZE // PATCH, SIZE // PATCH], dim=DECODER).to(mae.mask_token.dtype)
    theirs["decoder.decoder_pos_embed"] = torch.cat([torch.zeros(1, DECODER), table])[None]
    return theirs


def rough(mae):
    """Moves every parameter, so that no zero bias or unit gain hides a difference."""
    with torch.no_grad():
        for parameter in mae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return mae


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize(("ratio", "depth"), [(0.75, 1), (0.9, 2), (0.5, 3)])
def test_same_prediction_and_loss_as_transformers(build, norm_pix, ratio, depth):
    options = {"mask_ratio": ratio, "decoder_dim": DECODER, "decoder_depth": depth, "decoder_heads": 2}
    # In float64 nothing but a real difference is left.
    mae = rough(build("MAE", norm_pix=norm_pix, **options)).double().eval()
    other = reference(mae, norm_pix=norm_pix, ratio=ratio, depth=depth).eval()
    images = torch.randn(3, 1, SIZE, SIZE, dtype=torch.float64)
    torch.manual_seed(1)
    keep, masked = mae.random_split(images)
    torch.manual_seed(1)
    expected = other(images, noise=torch.rand(3, 16))

    hidden = torch.zeros(3, 16, dtype=torch.bool).scatter(1, masked, True)
    assert torch.equal(hidden, expected.mask.bool())
    index = masked[:, :, None].expand(-1, -1, PATCH**2)
    prediction = mae.predict(images, keep, masked)
    torch.testing.assert_close(prediction, expected.logits.gather(1, index), atol=1e-6, rtol=1e-6)
    torch.manual_seed(1)
    loss, _ = mae(Views([images], []), 0.0)
    torch.testing.assert_close(loss.double(), expected.loss, atol=1e-5, rtol=1e-6)


def test_same_gradient_as_transformers(build):
    mae = rough(build("MAE", decoder_dim=DECODER, decoder_heads=2)).double()
    other = reference(mae, norm_pix=True, ratio=0.75, depth=1)
    images, noise = torch.randn(3, 1, SIZE, SIZE, dtype=torch.float64), torch.rand(3, 16)
    order = noise.argsort(dim=1)
    prediction = mae.predict(images, order[:, :4], order[:, 4:])
    masked_patch_loss(prediction, mae.target(images, order[:, 4:]), norm_pix=True).backward()
    other(images, noise=noise).loss.backward()
    for ours, theirs in [
        (mae.mask_token, other.decoder.mask_token),
        (mae.backbone.cls_token, other.vit.embeddings.cls_token),
        (mae.backbone.patch_embed.proj.weight, other.vit.embeddings.patch_embeddings.projection.weight),
        (mae.decoder_pred.weight, other.decoder.decoder_pred.weight),
    ]:
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)


def test_position_table_in_closed_form(tiny_vit):
    table = tiny_vit().pos_embed[0, 1:]
    for row, column, channel in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (2, 3, 1), (3, 2, 7)]:
        angles = torch.tensor([row, column]) / 10000 ** (channel / 8)
        # The paper's code has the same four blocks in another order, which no layer behind it can tell.
        expected = torch.cat([angles.sin(), angles.cos()])
        torch.testing.assert_close(table[4 * row + column, channel::8], expected)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 32, 32), (1, 16, 40), (3, 24, 8)])
def test_unpatchify_undoes_patchify(channels, height, width):
    images = torch.randn(2, channels, height, width)
    patches = patchify(images, PATCH)
    assert patches.shape == (2, height * width // PATCH**2, PATCH**2 * channels)
    assert torch.equal(unpatchify(patches, PATCH, (height // PATCH, width // PATCH)), images)


def test_patches_run_row_by_row():
    images = torch.arange(16 * 24.0).reshape(1, 1, 16, 24)
    patches = patchify(images, PATCH)[0]
    assert torch.equal(patches[1].reshape(PATCH, PATCH), images[0, 0, :8, 8:16])
    assert torch.equal(patches[3].reshape(PATCH, PATCH), images[0, 0, 8:, :8])


@pytest.mark.parametrize(
    ("ratio", "kept"), [(0.75, 4), (0.9, 1), (0.5, 8), (0.6, 6), (0.99, 1), (0.01, 15), (0.001, 15)]
)
def test_share_of_masked_patches_is_exact_in_every_image(build, ratio, kept):
    keep, masked = build("MAE", mask_ratio=ratio).random_split(torch.zeros(64, 1, SIZE, SIZE))
    assert keep.shape == (64, kept)
    assert masked.shape == (64, 16 - kept)
    assert torch.equal(torch.cat([keep, masked], dim=1).sort(dim=1).values, torch.arange(16).expand(64, -1))


def test_every_patch_is_masked_equally_often_and_images_differ(build):
    keep, _ = build("MAE", mask_ratio=0.75).random_split(torch.zeros(4000, 1, SIZE, SIZE))
    counts = torch.bincount(keep.flatten(), minlength=16)
    # 1000 expected, standard deviation 27.
    assert (counts - 1000).abs().max() < 130
    assert len(keep.sort(dim=1).values.unique(dim=0)) > 1000


def test_loss_looks_at_hidden_patches_alone(build):
    mae = build("MAE").eval()
    images = torch.randn(2, 1, SIZE, SIZE)
    keep, masked = mae.random_split(images)
    prediction = mae.predict(images, keep, masked)

    def loss_with(patch):
        index = patch[:, :1, None].expand(-1, 1, PATCH**2)
        target = unpatchify(patchify(images, PATCH).scatter(1, index, torch.randn(2, 1, PATCH**2)), PATCH, (4, 4))
        return masked_patch_loss(prediction, mae.target(target, masked), norm_pix=True)

    loss = masked_patch_loss(prediction, mae.target(images, masked), norm_pix=True)
    assert loss_with(keep) == loss
    assert loss_with(masked) != loss


def test_prediction_does_not_see_hidden_patches(build):
    mae = build("MAE").eval()
    images = torch.randn(2, 1, SIZE, SIZE, requires_grad=True)
    keep, masked = mae.random_split(images)
    mae.predict(images, keep, masked).sum().backward()
    seen = patchify(images.grad, PATCH).abs().sum(-1)
    assert (seen.gather(1, keep) > 0).all()
    assert (seen.gather(1, masked) == 0).all()


def test_norm_pix_takes_no_notice_of_brightness_and_contrast():
    prediction, target = torch.randn(2, 3, 64), torch.randn(2, 3, 64)
    scale, shift = torch.rand(2, 3, 1) + 1, torch.randn(2, 3, 1)
    plain = masked_patch_loss(prediction, target, norm_pix=True)
    torch.testing.assert_close(masked_patch_loss(prediction, scale * target + shift, norm_pix=True), plain)
    assert masked_patch_loss(prediction, scale * target + shift, norm_pix=False) != masked_patch_loss(
        prediction, target, norm_pix=False
    )


def test_flat_patches_keep_the_loss_finite():
    prediction = torch.randn(1, 4, 64, requires_grad=True)
    loss = masked_patch_loss(prediction, torch.full((1, 4, 64), 0.3), norm_pix=True)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_perfect_prediction_is_reconstructed_as_the_image(build, norm_pix, monkeypatch):
    mae = build("MAE", norm_pix=norm_pix).eval()
    images = 0.3 * torch.randn(3, 1, SIZE, SIZE) + 0.5

    def perfect(images, keep, masked):
        target = mae.target(images, masked)
        mean, variance = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        return (target - mean) / (variance + 1e-6).sqrt() if norm_pix else target

    # Only a prediction without error tells whether the way back is the inverse of the way there.
    monkeypatch.setattr(mae, "predict", perfect)
    seen, filled = mae.reconstruct(images)
    torch.testing.assert_close(filled, images)
    shown = patchify(seen, PATCH)
    hidden = (shown == 0).all(-1)
    assert (hidden.sum(1) == 12).all()
    assert torch.equal(shown[~hidden], patchify(images, PATCH)[~hidden])


def test_reconstruction_keeps_what_is_visible(build):
    mae = build("MAE").eval()
    images = torch.randn(2, 1, SIZE, SIZE)
    seen, filled = mae.reconstruct(images)
    visible = seen != 0
    assert torch.equal(filled[visible], images[visible])
    assert (filled[~visible] != images[~visible]).all()
    assert not filled.requires_grad


def test_decoding_across_is_crossmaes_own_formula(build):
    """Hidden tokens as queries, visible ones as keys and values, written out with torch's own attention layer."""
    mae = rough(build("MAE", decoder="cross", decoder_dim=DECODER, decoder_depth=2, decoder_heads=2)).double()
    images = torch.randn(2, 1, SIZE, SIZE, dtype=torch.float64)
    keep, masked = mae.random_split(images)
    memory = mae.decoder_embed(mae.backbone.norm(visible_features(mae.backbone, images, keep)))
    memory = torch.cat([memory[:, :1], memory[:, 1:] + mae.position[keep]], dim=1)
    tokens = mae.mask_token + mae.position[masked]
    for block in mae.decoder_blocks:
        layer = torch.nn.MultiheadAttention(DECODER, 2, batch_first=True).double()
        with torch.no_grad():
            layer.in_proj_weight.copy_(torch.cat([block.query.weight, block.key_value.weight]))
            layer.in_proj_bias.copy_(torch.cat([block.query.bias, block.key_value.bias]))
            layer.out_proj.load_state_dict(block.proj.state_dict())
        known = block.norm_memory(memory)
        tokens = tokens + layer(block.norm1(tokens), known, known)[0]
        tokens = tokens + block.mlp(block.norm2(tokens))
    torch.testing.assert_close(mae.predict(images, keep, masked), mae.decoder_pred(mae.decoder_norm(tokens)))


def visible_features(vit, images, keep):
    tokens = vit._pos_embed(vit.patch_embed(images))
    visible = torch.stack([row[1:][kept] for row, kept in zip(tokens, keep, strict=True)])
    return vit.blocks(torch.cat([tokens[:, :1], visible], dim=1))


def test_decoding_across_trains_every_parameter(build):
    mae = build("MAE", decoder="cross", decoder_depth=2)
    mae(Views([torch.randn(4, 1, SIZE, SIZE)], []), 0.0).loss.backward()
    assert [name for name, parameter in mae.named_parameters() if parameter.grad is None] == []


def test_an_unknown_decoder_is_refused(build):
    with pytest.raises(ValueError, match="self or cross"):
        build("MAE", decoder="both")
