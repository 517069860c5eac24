"""Views on the device: batched antialiased crops and photometric changes, keyed by (seed, epoch, image id)."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cxrbase.sizes import Size, aspect, height_width

_DRAWS_PER_VIEW = 16  # uniform numbers reserved for each view of an image; room for further operations
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # SplitMix64 (Steele et al. 2014)


class Views(NamedTuple):
    """Crops of one batch of images; a radiologist's view (PA, AP, lateral) is `view_position` instead.

    Attributes:
        global_: Large crops, each (B, 1, H, W) float32, normalised.
        local: Small crops, each (B, 1, h, w) float32, normalised; may be empty.
        keys: (B,) int64, different for every image and epoch, for what an objective draws per image; None if unknown.
    """

    global_: list[Tensor]
    local: list[Tensor]
    keys: Tensor | None = None


def keyed_uniform(ids: Tensor, count: int, *, seed: int, epoch: int, offset: int = 0) -> Tensor:
    """Uniform numbers that depend on nothing but their key, so any worker, rank or resumed run draws the same.

    Args:
        ids: Image ids, (B,) int64.
        count: Numbers per image.
        seed: Seed of the run.
        epoch: Epoch, 0-based.
        offset: Index of the first number, to draw several disjoint blocks for one key.

    Returns:
        (B, count) float32 in [0, 1), on the device of `ids`.
    """
    counter = torch.arange(offset, offset + count, device=ids.device)
    state = _mix(ids * _signed(_GOLDEN) + _signed(seed * _MIX_1 + epoch * _MIX_2 + 1))
    bits = _mix(state[:, None] + counter * _signed(_GOLDEN))
    return _shift(bits, 40).to(torch.float32) / 2**24


def resample_matrix(start: Tensor, length: Tensor, *, size: int, out: int) -> Tensor:
    """Antialiased linear resampling of an interval as a matrix, the same as `interpolate(antialias=True)` on a crop.

    Args:
        start: First edge of the interval in input pixels, (B,) float32; pixel j covers [j, j + 1).
        length: Length of the interval in input pixels, (B,) float32.
        size: Input pixels.
        out: Output pixels.

    Returns:
        (B, out, size) float32; every row sums to 1.
    """
    scale = (length / out)[:, None, None]
    centre = start[:, None, None] + (torch.arange(out, device=start.device)[None, :, None] + 0.5) * scale
    pixel = torch.arange(size, device=start.device)[None, None, :] + 0.5
    weight = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    inside = (pixel + 0.5 > start[:, None, None]) & (pixel - 0.5 < (start + length)[:, None, None])
    weight = weight * inside
    return weight / weight.sum(-1, keepdim=True).clamp(min=1e-8)


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Gaussian blur along one axis as a matrix, edges renormalised.

    Args:
        sigma: Standard deviation in pixels, (B,) float32; 0 gives the identity.
        size: Pixels along the axis.

    Returns:
        (B, size, size) float32.
    """
    pixel = torch.arange(size, device=sigma.device)
    squared = (pixel[:, None] - pixel[None, :]).square().to(torch.float32)
    weight = torch.exp(-squared[None] / (2 * sigma.clamp(min=1e-3).square())[:, None, None])
    return weight / weight.sum(-1, keepdim=True)


def crop(
    images: Tensor, boxes: Tensor, *, out: Size, flip: Tensor | None = None, sigma: Tensor | None = None
) -> Tensor:
    """Crops, resizes, flips and blurs a batch, each image with its own box: two batched matrix products.

    Args:
        images: (B, 1, H, W), any real dtype.
        boxes: top, left, height, width in pixels, (B, 4) float32.
        out: Side, or height and width, of the output in pixels.
        flip: Images to mirror left to right, (B,) bool.
        sigma: Blur in output pixels, (B,) float32.

    Returns:
        (B, 1, H', W') float32 in the units of `images`.
    """
    top, left, height, width = boxes.unbind(-1)
    high, wide = height_width(out)
    rows = resample_matrix(top, height, size=images.shape[-2], out=high)
    columns = resample_matrix(left, width, size=images.shape[-1], out=wide)
    if sigma is not None:
        rows, columns = blur_matrix(sigma, high) @ rows, blur_matrix(sigma, wide) @ columns
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    return (rows @ images[:, 0].to(torch.float32) @ columns.transpose(1, 2))[:, None]


class RandomViews:
    """Random crops with brightness, contrast, gamma and blur, all in batch on the device.

    One channel, so hue, saturation and grayscale do not exist here; solarise is left out as it inverts a radiograph.

    Args:
        num_global: Large crops per image.
        num_local: Small crops per image (DINO, https://arxiv.org/abs/2104.14294).
        global_scale: Smallest and largest share of the image's area in a large crop, in (0, 1].
        local_scale: The same for a small crop.
        ratio: Smallest and largest width / height of a crop, relative to that of the view, so that shapes are stretched
            as much in views that are not square.
        local_size: Side, or [height, width], of a small crop in pixels; None takes 3/7 of the large one, as 96 is of
            224.
        flip: Probability of a left-right flip. A flip moves the heart to the other side.
        jitter: Probability that brightness, contrast and gamma are changed.
        brightness: Largest relative change of brightness.
        contrast: Largest relative change of contrast about the crop's mean.
        gamma: Largest change of the exponent's logarithm.
        blur: Probability of a Gaussian blur, one for all views.
        blur_sigma: Smallest and largest standard deviation of the blur, in pixels of the view.
        crop_on: "device", or "cpu" where the loader's workers make the one crop of a single-view objective, so that
            fewer bytes travel.
    """

    def __init__(
        self,
        num_global: int = 1,
        num_local: int = 0,
        global_scale: tuple[float, float] = (0.2, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.4),
        ratio: tuple[float, float] = (0.75, 4 / 3),
        local_size: Size | None = None,
        flip: float = 0.5,
        jitter: float = 0.0,
        brightness: float = 0.4,
        contrast: float = 0.4,
        gamma: float = 0.3,
        blur: float = 0.0,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        crop_on: Literal["device", "cpu"] = "device",
    ) -> None:
        if num_global < 1 or num_local < 0:
            raise ValueError(f"num_global must be at least 1, num_local at least 0, got {num_global}, {num_local}")
        for name, (low, high) in {"global_scale": global_scale, "local_scale": local_scale}.items():
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} must be two numbers in (0, 1] in rising order, got {(low, high)}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio must be two positive numbers in rising order, got {ratio}")
        for name, probability in {"flip": flip, "jitter": jitter, "blur": blur}.items():
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} is a probability and must be in [0, 1], got {probability}")
        if crop_on == "cpu" and (num_global, num_local) != (1, 0):
            raise ValueError(f"crop_on: cpu makes one view, got {num_global} global and {num_local} local; use device")
        self.num_global, self.num_local = num_global, num_local
        self.global_scale, self.local_scale, self.ratio, self.local_size = global_scale, local_scale, ratio, local_size
        self.flip, self.jitter, self.blur, self.blur_sigma = flip, jitter, blur, blur_sigma
        self.brightness, self.contrast, self.gamma, self.crop_on = brightness, contrast, gamma, crop_on

    def local_pixels(self, out: Size) -> Size:
        """Size of a small crop where a large one has size `out`."""
        if self.local_size is not None:
            return self.local_size
        height, width = height_width(out)
        return round(height * 3 / 7), round(width * 3 / 7)

    def __call__(
        self, images: Tensor, sizes: Tensor, ids: Tensor, *, out: Size, mean: float, std: float, seed: int, epoch: int
    ) -> Views:
        """Makes all views of a batch.

        Args:
            images: (B, 1, C, C) uint8 canvases.
            sizes: Valid height and width of each canvas, (B, 2) int.
            ids: Image ids, (B,) int64.
            out: Side, or height and width, of a large crop in pixels.
            mean: Subtracted after scaling to [0, 1].
            std: Divided by afterwards.
            seed: Seed of the run.
            epoch: Epoch, 0-based.

        Returns:
            The views, normalised.
        """
        source = images.to(torch.float32) / 255
        plan: list[tuple[Size, tuple[float, float]]] = [(out, self.global_scale)] * self.num_global
        plan += [(self.local_pixels(out), self.local_scale)] * self.num_local
        made = []
        for number, (size, scale) in enumerate(plan):
            draws = keyed_uniform(ids, _DRAWS_PER_VIEW, seed=seed, epoch=epoch, offset=number * _DRAWS_PER_VIEW)
            made.append((self._view(source, sizes, draws, size=size, scale=scale) - mean) / std)
        keys = _mix(ids * _signed(_GOLDEN) + _signed(seed * _MIX_2 + epoch * _MIX_1 + 1))
        return Views(made[: self.num_global], made[self.num_global :], keys)

    def _view(self, source: Tensor, sizes: Tensor, draws: Tensor, *, size: Size, scale: tuple[float, float]) -> Tensor:
        ratio = (self.ratio[0] * aspect(size), self.ratio[1] * aspect(size))
        boxes = whole(sizes) if self.crop_on == "cpu" else random_boxes(sizes, draws, scale=scale, ratio=ratio)
        sigma = None
        if self.blur > 0:
            low, high = self.blur_sigma
            sigma = torch.where(draws[:, 5] < self.blur, low + (high - low) * draws[:, 6], 0.0)
        view = crop(source, boxes, out=size, flip=draws[:, 4] < self.flip, sigma=sigma)
        return self._photometric(view, draws) if self.jitter > 0 else view

    def _photometric(self, view: Tensor, draws: Tensor) -> Tensor:
        apply = (draws[:, 7] < self.jitter)[:, None, None, None]
        signed = (2 * draws - 1)[:, :, None, None, None]
        changed = view * (1 + self.brightness * signed[:, 8])
        mean = changed.mean(dim=(1, 2, 3), keepdim=True)
        changed = mean + (changed - mean) * (1 + self.contrast * signed[:, 9])
        changed = changed.clamp(1e-4, 1) ** torch.exp(self.gamma * signed[:, 10])
        return torch.where(apply, changed, view)


def random_boxes(sizes: Tensor, draws: Tensor, *, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Boxes of random area, aspect and place inside each image; sides longer than the image are cut to it.

    Args:
        sizes: Height and width of each image, (B, 2) int.
        draws: Uniform numbers in [0, 1), (B, at least 4): area, aspect, top, left.
        scale: Smallest and largest share of the area.
        ratio: Smallest and largest width / height.

    Returns:
        top, left, height, width in pixels, (B, 4) float32.
    """
    height, width = sizes.to(torch.float32).unbind(-1)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[:, 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[:, 1])
    box_height = torch.minimum((area / aspect).sqrt(), height)
    box_width = torch.minimum((area * aspect).sqrt(), width)
    top, left = (height - box_height) * draws[:, 2], (width - box_width) * draws[:, 3]
    return torch.stack([top, left, box_height, box_width], dim=-1)


def whole(sizes: Tensor) -> Tensor:
    """Boxes that hold all of each image, (B, 4) float32, from heights and widths, (B, 2)."""
    size = sizes.to(torch.float32)
    return torch.cat([torch.zeros_like(size), size], dim=-1)


def centre_view(images: Tensor, sizes: Tensor, *, out: Size, mean: float, std: float) -> Tensor:
    """The view that encoders are evaluated on: the largest central part of the output's shape, no randomness.

    Args:
        images: (B, 1, C, C) uint8 canvases.
        sizes: Valid height and width of each canvas, (B, 2) int.
        out: Side of the output in pixels.
        mean: Subtracted after scaling to [0, 1].
        std: Divided by afterwards.

    Returns:
        (B, 1, H', W') float32, normalised.
    """
    size = sizes.to(torch.float32)
    height, width = size.unbind(-1)
    shape = aspect(out)
    part = torch.stack([torch.minimum(height, width / shape), torch.minimum(width, height * shape)], dim=-1)
    boxes = torch.cat([(size - part) / 2, part], dim=-1)
    return (crop(images, boxes, out=out) / 255 - mean) / std


def _signed(value: int) -> int:
    """The 64-bit two's complement of an integer of any size."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _shift(bits: Tensor, places: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask makes it logical.
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift(bits, 30)) * _signed(_MIX_1)
    bits = (bits ^ _shift(bits, 27)) * _signed(_MIX_2)
    return bits ^ _shift(bits, 31)
