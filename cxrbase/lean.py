"""Transformer blocks that skip outputs nobody reads: same results, fewer operations."""

import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F


class LeanBlock(nn.Module):
    """A timm `Block` that can leave out tokens that nobody reads, and share what all images have in common.

    Called like a `Block` it is one. Its parameters keep their names and their order, so weights load either way.

    Args:
        block: The block whose layers are taken over; see `can_be_lean`.
    """

    norm1: nn.Module
    attn: Attention
    ls1: nn.Module
    drop_path1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    ls2: nn.Module
    drop_path2: nn.Module

    def __init__(self, block: Block) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)

    def forward(
        self,
        tokens: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        *,
        table: Tensor | None = None,
        index: Tensor | None = None,
        read: int = 0,
    ) -> Tensor:
        """Runs the block over (B, S, D) tokens, followed by (B, M) rows of a table where one is given.

        Args:
            tokens: (B, S, D).
            attn_mask: As of `Block`; for whole output only.
            is_causal: As of `Block`; for whole output only.
            table: (T, D) rows that are the same for all images, so that they are normalised and projected once.
            index: (B, M) rows of the table that follow the tokens of each image.
            read: Tokens to return: 0 for all of them, n for the first n, -n for the last n.

        Returns:
            (B, |read| or S + M, D).
        """
        if table is None and not read:
            mixed: Tensor = self.attn(self.norm1(tokens), attn_mask=attn_mask, is_causal=is_causal)
            return self._finish(tokens, mixed)
        rows = F.embedding(index, table) if table is not None and index is not None else None
        whole = tokens if rows is None else torch.cat([tokens, rows], dim=1)
        wanted = whole[:, :read] if read > 0 else whole[:, read:]
        normed = self.norm1(tokens)
        if rows is None and read == 1:
            return self._finish(wanted, self._one_query(normed))
        query, key, value = self._project(normed, None if table is None else self.norm1(table), index, read)
        mixed = F.scaled_dot_product_attention(self._heads(query), self._heads(key), self._heads(value))
        return self._finish(wanted, self.attn.proj_drop(self.attn.proj(mixed.transpose(1, 2).flatten(2))))

    def _finish(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        tokens = tokens + self.drop_path1(self.ls1(mixed))
        finished: Tensor = tokens + self.drop_path2(self.ls2(self.mlp(self.norm2(tokens))))
        return finished

    def _project(
        self, normed: Tensor, table: Tensor | None, index: Tensor | None, read: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the tokens that are read, keys and values of all: (B, n, D) each."""
        width = self.attn.attn_dim
        key_value = self._linear(normed, width, 3 * width)
        if table is None or index is None:
            query = self._linear(normed[:, :read] if read > 0 else normed[:, read:], 0, width)
            return query, key_value[..., :width], key_value[..., width:]
        # One gather of a small matrix in place of a product for every image.
        rows = F.embedding(index, self._linear(table, 0, 3 * width))
        key_value = torch.cat([key_value, rows[..., width:]], dim=1)
        count = index.shape[1]
        if read and -count <= read < 0:
            query = rows[:, read:, :width]
        else:
            query = torch.cat([self._linear(normed, 0, width), rows[..., :width]], dim=1)
            query = query[:, :read] if read > 0 else query[:, read:]
        return query, key_value[..., :width], key_value[..., width:]

    def _one_query(self, normed: Tensor) -> Tensor:
        """Attention of the first token alone, (B, 1, D), without keys and values of the others.

        q . (K x) = (K' q) . x, and the sum over tokens of a V x = V (sum of a x), so both matrices meet one vector of
        each head and not every token.
        """
        # So little is left to compute that it can be float32, and the detour rounds no more than the straight way.
        with torch.autocast(normed.device.type, enabled=False):
            mixed = self._look(normed if normed.dtype == torch.float64 else normed.float())
        out: Tensor = self.attn.proj_drop(self.attn.proj(mixed.to(self.attn.proj.weight.dtype)))
        return out[:, None]

    def _look(self, normed: Tensor) -> Tensor:
        heads, size, width = self.attn.num_heads, self.attn.head_dim, self.attn.attn_dim
        weight: Tensor = self.attn.qkv.weight.to(normed.dtype)
        given: Tensor | None = self.attn.qkv.bias
        bias = weight.new_zeros(3 * width) if given is None else given.to(normed.dtype)
        query = F.linear(normed[:, 0], weight[:width], bias[:width]).view(-1, heads, size) * self.attn.scale
        key, value = weight[width:].view(2, heads, size, -1)
        scores = torch.einsum("bhs,hsd->bhd", query, key) @ normed.transpose(1, 2)
        # The same for all tokens, so it changes nothing; but distributed training waits for a gradient.
        scores = scores + (query * bias[width : 2 * width].view(heads, size)).sum(-1, keepdim=True)
        seen = scores.softmax(-1) @ normed
        return torch.einsum("bhd,hsd->bhs", seen, value).flatten(1) + bias[2 * width :]

    def _linear(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        weight, bias = self.attn.qkv.weight[start:stop], self.attn.qkv.bias
        return F.linear(tokens, weight, None if bias is None else bias[start:stop])

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self.attn.num_heads, self.attn.head_dim).transpose(1, 2)


class CrossBlock(nn.Module):
    """A transformer block whose tokens look at a memory and not at each other, as in CrossMAE.

    (Fu et al. 2024, https://arxiv.org/abs/2401.14391, section 3.2.)

    Args:
        dim: Width.
        num_heads: Attention heads.
        qkv_bias: Whether queries, keys and values have a bias.
    """

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm_memory = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.query, self.key_value = nn.Linear(dim, dim, bias=qkv_bias), nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Updates (B, M, D) tokens from a (B, S, D) memory."""
        key, value = self.key_value(self.norm_memory(memory)).chunk(2, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query(self.norm1(tokens)), key, value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.proj(mixed)
        finished: Tensor = tokens + self.mlp(self.norm2(tokens))
        return finished


def can_be_lean(block: nn.Module) -> bool:
    """Whether a block is timm's plain one: nothing between projection and attention, no dropout inside it."""
    if type(block) is not Block or type(block.attn) is not Attention:
        return False
    attn = block.attn
    between = (attn.q_norm, attn.k_norm, attn.norm)
    return attn.gate is None and attn.attn_drop.p == 0 and all(isinstance(module, nn.Identity) for module in between)


def make_lean(blocks: nn.Sequential, *numbers: int) -> None:
    """Makes some blocks lean where they can be, in place."""
    for number in {number % len(blocks) for number in numbers}:
        block = blocks[number]
        if can_be_lean(block):
            assert isinstance(block, Block)
            blocks[number] = LeanBlock(block)


def pooled(vit: VisionTransformer, images: Tensor) -> Tensor:
    """The ViT's pooled features, (B, D), as `vit(images)` gives; the last block is run for the class token alone.

    Args:
        vit: The network; `make_lean` its last block first, or this is `vit(images)`.
        images: (B, C, H, W) normalised.
    """
    last = vit.blocks[-1]
    plain = vit.global_pool == "token" and vit.attn_pool is None and isinstance(vit.patch_drop, nn.Identity)
    if not (plain and isinstance(last, LeanBlock)):
        features: Tensor = vit(images)
        return features
    tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    for block in list(vit.blocks)[:-1]:
        tokens = block(tokens)
    head: Tensor = vit.forward_head(vit.norm(last(tokens, read=1)))
    return head
