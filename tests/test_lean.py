"""A lean block gives the numbers and the gradients of the block it was made of, for the tokens that are read."""

import pytest
import torch
from timm.models.vision_transformer import Block
from torch.utils.flop_counter import FlopCounterMode

from cxrbase.backbones import create_backbone
from cxrbase.lean import LeanBlock, can_be_lean, make_lean, pooled

WIDTH = 32


@pytest.fixture(params=[{"qkv_bias": True}, {"qkv_bias": False}, {"qkv_bias": True, "init_values": 0.3}])
def block(request):
    torch.manual_seed(0)
    made = Block(WIDTH, 4, **request.param).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def gradients(output, module, *inputs):
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output * weights).sum(), [*inputs, *module.parameters()])


@pytest.mark.parametrize("read", [0, 1, 2, 5, 9, -1, -4, -9])
def test_same_output_and_gradient_for_what_is_read(block, read):
    tokens = torch.randn(3, 9, WIDTH, dtype=torch.float64, requires_grad=True)
    expected = block(tokens)
    expected = expected[:, :read] if read > 0 else expected[:, read:]
    wanted = gradients(expected, block, tokens)
    lean = LeanBlock(block)
    output = lean(tokens, read=read)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients(output, lean, tokens), wanted)


@pytest.mark.parametrize("read", [0, 1, -2, -6, -8])
def test_rows_of_a_table_are_as_good_as_tokens(block, read):
    seen = torch.randn(3, 4, WIDTH, dtype=torch.float64, requires_grad=True)
    table = torch.randn(10, WIDTH, dtype=torch.float64, requires_grad=True)
    index = torch.stack([torch.randperm(10)[:6] for _ in range(3)])
    expected = block(torch.cat([seen, table[index]], dim=1))
    expected = expected[:, :read] if read > 0 else expected[:, read:]
    wanted = gradients(expected, block, seen, table)
    lean = LeanBlock(block)
    output = lean(seen, table=table, index=index, read=read)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients(output, lean, seen, table), wanted)


def test_names_and_order_of_parameters_stay(block):
    before = {name: id(value) for name, value in block.named_parameters()}
    assert {name: id(value) for name, value in LeanBlock(block).named_parameters()} == before
    assert list(LeanBlock(block).state_dict()) == list(block.state_dict())


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 3}, {"class_token": False, "global_pool": "avg"},
                                     {"qk_norm": True}, {"attn_drop_rate": 0.1}, {"init_values": 0.1}])  # fmt: skip
@pytest.mark.parametrize("size", [32, 48])
def test_pooled_features_are_the_networks_own(options, size):
    torch.manual_seed(0)
    shape = {"patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 2, **options}
    vit = create_backbone("vit_tiny_patch16_224", image_size=32, options=shape).eval()
    images = torch.randn(3, 1, size, size)
    expected = vit(images)
    make_lean(vit.blocks, -1)
    assert isinstance(vit.blocks[-1], LeanBlock) == (not {"qk_norm", "attn_drop_rate"} & options.keys())
    torch.testing.assert_close(pooled(vit, images), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(vit(images), expected, atol=1e-5, rtol=1e-5)


def test_the_last_block_costs_next_to_nothing():
    vit = create_backbone("vit_small_patch16_224", image_size=224, options={"depth": 2}).eval()

    def flops(run):
        with FlopCounterMode(display=False) as counter:
            run(torch.zeros(1, 1, 224, 224))
        return counter.get_total_flops()

    whole = flops(vit)
    make_lean(vit.blocks, -1)
    one_block = 2 * 12 * 384**2 * 197
    assert whole - flops(lambda images: pooled(vit, images)) > 0.95 * one_block


@pytest.mark.parametrize("more", [{"qk_norm": True}, {"attn_drop": 0.1}, {"scale_attn_norm": True}])
def test_a_block_with_more_between_its_layers_stays_as_it_is(more):
    blocks = torch.nn.Sequential(Block(WIDTH, 4), Block(WIDTH, 4, **more))
    plain, other = blocks
    assert can_be_lean(plain)
    assert not can_be_lean(other)
    make_lean(blocks, 0, 1)
    assert isinstance(blocks[0], LeanBlock)
    assert blocks[1] is other


def test_what_is_no_plain_block_stays_as_it_is():
    assert not can_be_lean(torch.nn.Identity())
    assert not can_be_lean(LeanBlock(Block(WIDTH, 4)))


def test_under_bf16_the_lean_way_is_at_least_as_near_to_float32():
    torch.manual_seed(0)
    vit = create_backbone("vit_tiny_patch16_224", image_size=64, options={"depth": 3}).eval()
    images = torch.randn(8, 1, 64, 64)
    exact = vit(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        straight = (vit(images) - exact).norm()
        make_lean(vit.blocks, -1)
        assert (pooled(vit, images) - exact).norm() < 1.1 * straight
