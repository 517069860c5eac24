"""MAE: reconstruct the pixels of masked patches from the visible ones."""

from typing import ClassVar, Literal

import torch
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cxrbase.backbones import encode_visible
from cxrbase.lean import CrossBlock, make_lean
from cxrbase.objectives.base import Loss, Objective
from cxrbase.objectives.losses import masked_patch_loss
from cxrbase.views import Views, keyed_uniform


class MAE(Objective):
    """Masked autoencoder (He et al. 2022, https://arxiv.org/abs/2111.06377).

    The encoder sees the visible patches alone, a small decoder predicts the masked ones. Accumulating micro-batches
    gives the same update as one large batch.

    Args:
        backbone: The shared ViT.
        mask_ratio: Share of patches that is hidden, in (0, 1). 0.9 and a shallow decoder are the radiograph recipe
            (Xiao et al. 2023, https://arxiv.org/abs/2210.12843); 0.75 is the photograph recipe of the paper.
        decoder_dim: Width of the decoder; None takes the encoder's, at most 512.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Attention heads of the decoder; None takes one per 32 channels.
        decoder: "self", the paper's attention among all tokens; or "cross", where hidden patches ask the visible ones
            and not each other (CrossMAE, Fu et al. 2024, https://arxiv.org/abs/2401.14391, without its weighting of the
            encoder's layers), which costs less the more is hidden.
        norm_pix: Whether the target patches are normalised by their own mean and variance.
    """

    num_global_views: ClassVar[int] = 1
    position: Tensor

    def __init__(
        self,
        backbone: VisionTransformer,
        *,
        mask_ratio: float = 0.9,
        decoder_dim: int | None = None,
        decoder_depth: int = 2,
        decoder_heads: int | None = None,
        decoder: Literal["self", "cross"] = "self",
        norm_pix: bool = True,
    ) -> None:
        super().__init__(backbone)
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio must be in (0, 1), got {mask_ratio}")
        if decoder_depth < 1:
            raise ValueError(f"decoder_depth must be at least 1, got {decoder_depth}")
        if decoder not in ("self", "cross"):
            raise ValueError(f"decoder must be self or cross, got {decoder!r}")
        pools = (backbone.fc_norm, backbone.attn_pool)
        if any(list(pool.parameters()) for pool in pools if pool is not None):
            raise ValueError(
                "MAE trains the tokens and not what pools them, so the backbone's pooling would stay untrained: "
                "use backbone_options without global_pool"
            )
        height, width = backbone.patch_embed.patch_size
        if height != width:
            raise ValueError(
                f"MAE predicts square patches, got backbone_options.patch_size {[height, width]}: set one side"
            )
        self.mask_ratio, self.norm_pix, self.decoder = mask_ratio, norm_pix, str(decoder)
        self.patch = int(height)
        dim = decoder_dim or min(backbone.embed_dim, 512)
        heads = decoder_heads or max(1, dim // 32)
        if dim % heads or dim % 4:
            raise ValueError(f"decoder_dim must be a multiple of 4 and of decoder_heads, got {dim} and {heads}")
        self.decoder_embed = nn.Linear(backbone.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        kind = CrossBlock if decoder == "cross" else Block
        self.decoder_blocks = nn.Sequential(*(kind(dim, heads, qkv_bias=True) for _ in range(decoder_depth)))
        make_lean(self.decoder_blocks, 0, -1)
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_pred = nn.Linear(dim, self.patch**2 * backbone.patch_embed.proj.in_channels)
        # Fixed, so it is made once for the usual size of image and not in every step.
        grid = tuple(backbone.patch_embed.grid_size)
        self.register_buffer("position", build_sincos2d_pos_embed(list(grid), dim=dim), persistent=False)
        self._position_grid = grid
        self._init_decoder()

    def forward(self, views: Views, progress: float) -> Loss:
        """Masks at random and returns the error over the masked patches."""
        images = views.global_[0]
        keep, masked = self.random_split(images, views.keys)
        loss = masked_patch_loss(
            self.predict(images, keep, masked), self.target(images, masked), norm_pix=self.norm_pix
        )
        return Loss(loss, {})

    def random_split(self, images: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draws patches that stay and that are hidden: (B, K) and (B, N - K) indices, K = int(N * (1 - mask_ratio)).

        With keys, (B,) int64, an image's mask depends on its key alone, whatever batch, micro-batch or device it is in.
        """
        count = (images.shape[-2] // self.patch) * (images.shape[-1] // self.patch)
        # At least one patch on each side, or there is nothing to see or nothing to predict.
        kept = min(max(int(count * (1 - self.mask_ratio)), 1), count - 1)
        if keys is None:
            noise = torch.rand(images.shape[0], count, device=images.device)
        else:
            noise = keyed_uniform(keys, count, seed=0, epoch=0)
        order = noise.argsort(dim=1)
        return order[:, :kept], order[:, kept:]

    def predict(self, images: Tensor, keep: Tensor, masked: Tensor) -> Tensor:
        """Predicts the masked patches from the kept ones.

        Args:
            images: (B, C, H, W) normalised.
            keep: (B, K) indices of visible patches.
            masked: (B, M) indices of hidden patches.

        Returns:
            (B, M, patch * patch * C), pixels first, then channels.
        """
        tokens = self.decoder_embed(encode_visible(self.backbone, images, keep))
        prefix = self.backbone.num_prefix_tokens
        position = self._position(images)
        # Attention does not mind the order, so nothing is put back in place: [prefix, visible, hidden].
        tokens = torch.cat([tokens[:, :prefix], tokens[:, prefix:] + position[keep]], dim=1)
        # What stands for a hidden patch depends on its place alone, so all images share these rows.
        hidden = (self.mask_token + position)[0]
        decode = self._decode_across if self.decoder == "cross" else self._decode
        prediction: Tensor = self.decoder_pred(self.decoder_norm(decode(tokens, hidden, masked)))
        return prediction

    def _decode(self, tokens: Tensor, hidden: Tensor, masked: Tensor) -> Tensor:
        last = len(self.decoder_blocks) - 1
        for number, block in enumerate(self.decoder_blocks):
            shared = {"table": hidden, "index": masked} if number == 0 else {}
            # The last block is read at the hidden patches alone.
            tokens = block(tokens, **shared, **({"read": -masked.shape[1]} if number == last else {}))
        return tokens

    def _decode_across(self, tokens: Tensor, hidden: Tensor, masked: Tensor) -> Tensor:
        queries = F.embedding(masked, hidden)
        for block in self.decoder_blocks:
            queries = block(queries, tokens)
        return queries

    def _position(self, images: Tensor) -> Tensor:
        grid = (images.shape[-2] // self.patch, images.shape[-1] // self.patch)
        if grid == self._position_grid:
            return self.position
        return build_sincos2d_pos_embed(list(grid), dim=self.position.shape[-1], device=images.device)

    def target(self, images: Tensor, masked: Tensor) -> Tensor:
        """True pixels of the masked patches, (B, M, patch * patch * C)."""
        patches = patchify(images, self.patch)
        return patches.gather(1, masked[:, :, None].expand(-1, -1, patches.shape[-1]))

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Shows what the model sees and what it makes of it, with `norm_pix` undone.

        With `norm_pix` only the texture inside a patch is predicted: its mean and spread are taken from the true one.

        Args:
            images: (B, C, H, W) normalised.

        Returns:
            The images with masked patches at 0, and with masked patches as predicted; both (B, C, H, W).
        """
        keep, masked = self.random_split(images)
        prediction, truth = self.predict(images, keep, masked).float(), self.target(images, masked)
        if self.norm_pix:
            spread = (truth.var(-1, keepdim=True) + 1e-6).sqrt()
            prediction = prediction * spread + truth.mean(-1, keepdim=True)
        patches = patchify(images, self.patch)
        index = masked[:, :, None].expand_as(prediction)
        grid = (images.shape[-2] // self.patch, images.shape[-1] // self.patch)
        seen, filled = patches.scatter(1, index, 0.0), patches.scatter(1, index, prediction)
        return unpatchify(seen, self.patch, grid), unpatchify(filled, self.patch, grid)

    def _init_decoder(self) -> None:
        nn.init.normal_(self.mask_token, std=0.02)
        for module in [self.decoder_embed, self.decoder_pred, *self.decoder_blocks.modules()]:
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cuts (B, C, H, W) into (B, N, patch * patch * C), row by row, channels last within a pixel."""
    batch, channels, height, width = images.shape
    cut = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """Puts (B, N, patch * patch * C) of a grid of rows and columns together again, (B, C, H, W)."""
    rows, columns = grid
    channels = patches.shape[-1] // patch**2
    cut = patches.reshape(len(patches), rows, columns, patch, patch, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), channels, rows * patch, columns * patch)
