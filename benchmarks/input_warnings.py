"""Which images does a fine-tuned model warn of? Frontal, lateral, inverted ones of the phantom, and no radiographs."""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from _record import save

from cxrbase.data.decode import decode_uint8
from cxrbase.data.manifest import Manifest
from cxrbase.models import load_model
from cxrbase.release.feature_warnings import LATERAL, UNLIKE
from cxrbase.release.predict import predict

PHOTOS = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}
TILES = 4  # a photo is cut into so many rows and columns
SIDE = 256

Grey = NDArray[np.uint8]


def photos() -> Iterator[Grey]:
    for package, names in PHOTOS.items():
        for name in names:
            with Image.open(str(files(package).joinpath(*name.split("/")))) as opened:
                whole = np.asarray(opened.convert("L").resize((TILES * SIDE, TILES * SIDE)))
            for row in range(TILES):
                for column in range(TILES):
                    yield whole[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]


def noise(count: int = 48) -> Iterator[Grey]:
    for seed in range(count):
        yield np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


def flat(count: int = 16) -> Iterator[Grey]:
    for level in np.linspace(0, 255, count).round():
        yield np.full((SIDE, SIDE), level, np.uint8)


def kinds(root: Path) -> dict[str, Iterator[Grey]]:
    """Images by kind; of the phantom those of test patients."""
    test = Manifest.read(root / "manifest.parquet").select("test")
    lateral = test.column("view_position") == "LATERAL"
    frontal = [path for path, side in zip(test.paths, lateral, strict=True) if not side]
    sideways = [path for path, side in zip(test.paths, lateral, strict=True) if side]
    return {
        "frontal": map(decode_uint8, frontal),
        "lateral": map(decode_uint8, sideways),
        "inverted frontal": (255 - decode_uint8(path) for path in frontal),
        "inverted lateral": (255 - decode_uint8(path) for path in sideways),
        "tiles of photographs": photos(),
        "noise": noise(),
        "one grey": flat(),
    }


def measure(model: Path, root: Path, elsewhere: Path | None) -> dict[str, dict[str, int]]:
    """How many images of each kind got each warning."""
    found = {}
    if elsewhere is not None:
        found["frontal, real, of elsewhere"] = counts([row.warnings for row in predict(model, [str(elsewhere)])])
    for kind, images in kinds(root).items():
        with tempfile.TemporaryDirectory() as folder:
            for number, image in enumerate(images):
                Image.fromarray(image).save(Path(folder) / f"{number:04}.png")
            found[kind] = counts([row.warnings for row in predict(model, [folder])])
    return found


def counts(said: list[tuple[str, ...]]) -> dict[str, int]:
    words = {"lateral": LATERAL, "unlike": UNLIKE, "inverted": "perhaps inverted", "no_contrast": "no contrast"}
    return {
        "images": len(said),
        "any": sum(bool(set(found) - {"small"}) for found in said),
        **{name: sum(word in found for found in said) for name, word in words.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=RUN", help="fine-tuned on frontals")
    parser.add_argument("--data", type=Path, default=Path("data/phantom"), help="the phantom that they learnt from")
    parser.add_argument("--elsewhere", type=Path, help="folder of real frontal radiographs, which no model learnt from")
    parser.add_argument("--out", default="", help="JSON; default benchmarks/results/input_warnings.json")
    given = parser.parse_args()
    models = dict(word.split("=", 1) for word in given.model)
    rows = {name: measure(Path(place), given.data, given.elsewhere) for name, place in models.items()}
    cards = {name: load_model(place).card for name, place in models.items()}
    about = {
        name: {"encoder": card["encoder"].get("name"), "mode": card["mode"], "epochs": card["settings"]["epochs"],
               "lateral_check": card.get("lateral_check")}
        for name, card in cards.items()
    }  # fmt: skip
    print(save("input_warnings", {"warned": rows, "models": about}, packages=("torch", "timm"), out=given.out))


if __name__ == "__main__":
    main()
