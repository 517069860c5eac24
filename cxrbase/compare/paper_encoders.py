"""Opens the encoders of the paper's figures, one per training seed, and creates untrained ones like ours."""

from collections.abc import Iterator
from typing import Any

import torch

from cxrbase.backbones import create_backbone
from cxrbase.compare.paper_plan import UNTRAINED, Paper, Slot
from cxrbase.data.reading import Reading
from cxrbase.errors import ConfigError
from cxrbase.evaluation.suite.score_encoder import NamedEncoder
from cxrbase.sizes import height_width
from cxrbase.weights import load_any_encoder

Card = dict[str, Any]
# The network of experiments/size/tiny.yaml, where no encoder says which to take.
_TINY: Card = {
    "timm_name": "vit_tiny_patch16_224",
    "timm_args": {"patch_size": 16, "embed_dim": 128, "depth": 6, "num_heads": 4},
    "image_size": 96,
    "mean": 0.506,
    "std": 0.252,
}
_OF_THE_CALL = ("in_chans", "num_classes", "img_size", "dynamic_img_size", "drop_path_rate")


def read_cards(plan: Paper) -> dict[str, Card]:
    """The card of every given encoder, of its first file; every file is opened, so that mistakes are found early.

    Raises:
        EncoderError: A file is missing or damaged.
        ConfigError: No encoder is given, or an untrained network cannot be made like ours.
    """
    if not plan.given:
        raise ConfigError("no encoder is given: name one by --encoder <name>=<path>")
    cards: dict[str, Card] = {}
    for slot in plan.given:
        for path in (path for path in slot.paths if path != UNTRAINED):
            cards.setdefault(slot.name, load_any_encoder(path)[1])
    like = cards[plan.ours.name] if plan.ours and plan.ours.name in cards else next(iter(cards.values()), _TINY)
    for slot in plan.given:
        if slot.name not in cards:
            cards[slot.name] = _untrained(slot, like, seed=0).card
    return cards


def networks(slot: Slot, card: Card, seeds: list[int]) -> Iterator[tuple[list[int], NamedEncoder]]:
    """Each network of a slot with the seeds of draws that are scored with it.

    Every training learns from all draws: then neither is taken for the other, and no training is left out. The weights
    of an untrained network are of its seed.

    Args:
        slot: The encoder.
        card: Its card, of `read_cards`.
        seeds: Of the draws.
    """
    if slot.random:
        for seed in seeds:
            yield [seed], _untrained(slot, card, seed=seed)
        return
    for place, path in enumerate(slot.paths):
        # Rows of two encoders of one name would be written over each other.
        name = f"{slot.name} training {place + 1}" if place else slot.name
        yield seeds, NamedEncoder(name, path, *load_any_encoder(path))


def _untrained(slot: Slot, like: Card, *, seed: int) -> NamedEncoder:
    """A network with random weights of a seed: that of `timm:<name>`, or the same as another encoder's."""
    if slot.paths[0] != UNTRAINED:
        return NamedEncoder(slot.name, slot.paths[0], *load_any_encoder(slot.paths[0], seed=seed))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        options = {name: value for name, value in like["timm_args"].items() if name not in _OF_THE_CALL}
        size = like["image_size"] if isinstance(like["image_size"], int) else height_width(like["image_size"])
        network = create_backbone(like["timm_name"], image_size=size, options=options).eval()
    card = {name: like[name] for name in ("timm_name", "timm_args", "image_size", "mean", "std")}
    card |= {"format": UNTRAINED, **Reading.of(like).values()}
    return NamedEncoder(slot.name, f"timm:{like['timm_name']}", network, card)
