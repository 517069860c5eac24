"""Maps of what an encoder or classifier looks at: rollout, gradient-weighted attention, relevance, occlusion."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrbase.evaluation.features import pool_tokens
from cxrbase.release.attention import recorded_attention, relevance, rollout, weighted
from cxrbase.release.methods import Method, check_method
from cxrbase.weights_fit import Encoder

_SQUARES = 64  # hidden in one step of the network
# From all tokens of the last layer, (B, P + L, D), to the number that is explained, (B,).
Score = Callable[[Tensor], Tensor]


def explain(network: Encoder, images: Tensor, *, method: Method, score: Score | None = None) -> Tensor:
    """How much each place of each image matters for a score.

    Args:
        network: In evaluation mode.
        images: (B, 1, H, W) normalised.
        method: rollout joins the attention of all blocks and uses the score only for which tokens are read; gradient is
            attention of the last block times its gradient; relevance joins that over all blocks; occlusion greys out
            one square after another, twice a patch wide, and measures what the score loses.
        score: What is explained, such as the logit of a finding. None explains the features as a whole: how much of
            their direction is lost.

    Returns:
        (B, rows, columns), one value per patch, higher matters more. Occlusion may be negative.

    Raises:
        ConfigError: There is no such method.
    """
    check_method(method)
    if method == "occlusion":
        return _occlusion(network, images, score)
    with torch.enable_grad(), recorded_attention(network) as maps:
        # Weights may be frozen; the gradient of the input reaches the attention all the same.
        tokens = network.forward_features(images.detach().requires_grad_())
        tokens.retain_grad()
        chosen = (score or _whole(network, tokens))(tokens)
        chosen.sum().backward()  # type: ignore[no-untyped-call]
        network.zero_grad(set_to_none=True)
    assert tokens.grad is not None
    share = (tokens.grad * tokens).sum(-1).abs().detach()
    if method == "rollout":
        share, table = (share > 0).float(), rollout(maps)
    else:
        table = weighted(maps[-1]) if method == "gradient" else relevance(maps)
    return _patches(network, table, share, images)


def _patches(network: Encoder, table: Tensor, share: Tensor, images: Tensor) -> Tensor:
    """Rows of the table (B, N, N), each token counted by its share in the score (B, N), as a map of the patches."""
    # What a token keeps of itself is no explanation; with it the mean of patches would be flat.
    table = table * (1 - torch.eye(table.shape[-1], device=table.device))
    read = (share[:, None] @ table)[:, 0] / share.sum(1, keepdim=True).clamp(min=1e-12)
    rows, columns = _grid(network, images)
    return read[:, network.num_prefix_tokens :].reshape(len(images), rows, columns).detach()


def _grid(network: Encoder, images: Tensor) -> tuple[int, int]:
    height, width = network.patch_embed.patch_size
    return images.shape[-2] // height, images.shape[-1] // width


def _whole(network: Encoder, tokens: Tensor) -> Score:
    """Projection on the features as they are, so that a gradient asks what made them so."""
    direction = F.normalize(pool_tokens(network, tokens.detach()), dim=1)
    return lambda found: (pool_tokens(network, found) * direction).sum(1)


@torch.no_grad()
def _occlusion(network: Encoder, images: Tensor, score: Score | None) -> Tensor:
    """Mean loss of the score over all squares that cover a patch (Zeiler & Fergus 2014, arXiv 1311.2901)."""
    rows, columns = _grid(network, images)
    squares = [(row, column) for row in range(-1, rows) for column in range(-1, columns)]
    maps = []
    for image in images:
        tokens = network.forward_features(image[None])
        chosen = score or _whole(network, tokens)
        before = chosen(tokens)
        lost = torch.zeros(rows, columns, device=images.device)
        count = torch.zeros_like(lost)
        for start in range(0, len(squares), _SQUARES):
            part = squares[start : start + _SQUARES]
            after = chosen(network.forward_features(_hidden(network, image, part)))
            for (row, column), drop in zip(part, before - after, strict=True):
                covered = slice(max(row, 0), row + 2), slice(max(column, 0), column + 2)
                lost[covered] += drop
                count[covered] += 1
        maps.append(lost / count)
    return torch.stack(maps)


def _hidden(network: Encoder, image: Tensor, squares: list[tuple[int, int]]) -> Tensor:
    """Copies of an image (1, H, W), each without a square of two by two patches, (n, 1, H, W)."""
    height, width = network.patch_embed.patch_size
    hidden = image.expand(len(squares), -1, -1, -1).clone()
    for copy, (row, column) in zip(hidden, squares, strict=True):
        # 0 is the mean of the images that the encoder was trained on.
        copy[:, max(row, 0) * height : (row + 2) * height, max(column, 0) * width : (column + 2) * width] = 0
    return hidden
