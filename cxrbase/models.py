"""A fine-tuned model as a folder with model.safetensors and model.json, read without pickle."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import cxrbase
from cxrbase.backbones import check_description
from cxrbase.data.reading import Reading
from cxrbase.errors import EncoderError, ModelError
from cxrbase.evaluation.classifier import Classifier, Features
from cxrbase.evaluation.heads import log_odds
from cxrbase.evaluation.lateral_check import LateralCheck
from cxrbase.sizes import Size, height_width
from cxrbase.states import write_state
from cxrbase.views import centre_view
from cxrbase.weights_checks import not_finite
from cxrbase.weights_fit import as_encoder
from cxrbase.whole_files import written_whole

FORMAT = 2  # 1 had the range of the pooled features, which full fine-tuning makes blind
WEIGHTS_FILE, CARD_FILE = "model.safetensors", "model.json"

_FIELDS = ("format", "encoder", "classes", "kind", "mode", "temperatures", "thresholds", "range", "task")
_OF_RANGE = ("mean", "scale", "precision")
_NETWORK, _RANGE, _LATERAL = "classifier.", "range.", "lateral_check.weight"


@dataclass(frozen=True, eq=False)
class FeatureRange:
    """Where the joined features of the training images lie, to tell when an image is unlike them.

    Args:
        mean: (F,).
        scale: (F,), their standard deviations.
        precision: (F, F), inverse of the covariance of what is left of them, as Ledoit and Wolf shrink it.
        limit: Distance that 99 % of the validation images keep below.
    """

    mean: Tensor
    scale: Tensor
    precision: Tensor
    limit: float

    @classmethod
    def of(cls, train: NDArray[np.float32], val: NDArray[np.float32]) -> "FeatureRange":
        """Measures it on features of training images (N, F), and its limit on those of validation images (V, F)."""
        table = torch.from_numpy(train).double()
        mean, scale = table.mean(0), table.std(0, correction=0)
        # Features of one layer may be a hundred times those of another, and shrinking draws all to one variance.
        scale = scale.clamp(min=1e-6)
        precision = torch.linalg.inv(_ledoit_wolf((table - mean) / scale))
        found = cls(mean.float(), scale.float(), precision.float(), 0.0)
        return replace(found, limit=float(np.quantile(found.distance(torch.from_numpy(val)).numpy(), 0.99)))

    def distance(self, features: Tensor) -> Tensor:
        """Mahalanobis distance per dimension, (B,), about 1 for images like those of training, of features (B, F)."""
        off = (features.double().cpu() - self.mean.double()) / self.scale.double()
        return (torch.einsum("bd,de,be->b", off, self.precision.double(), off).clamp(min=0) / off.shape[1]).sqrt()


def _ledoit_wolf(centred: Tensor) -> Tensor:
    """Covariance (F, F) of rows with mean 0, drawn to a multiple of the identity as far as their number calls for.

    Ledoit and Wolf 2004, https://doi.org/10.1016/S0047-259X(03)00096-4.
    """
    count, width = centred.shape
    covariance = centred.T @ centred / count
    level = covariance.diagonal().mean()
    off = covariance - level * torch.eye(width, dtype=covariance.dtype)
    noise = ((centred**2).sum(1) ** 2).sum() / count**2 - (covariance**2).sum() / count
    share = float((noise / (off**2).sum().clamp(min=1e-300)).clamp(0, 1))
    # Nothing else could be inverted where all images are the same one.
    level, share = level.clamp(min=1e-6), max(share, 1e-6)
    return (1 - share) * covariance + share * level * torch.eye(width, dtype=covariance.dtype)


@dataclass(frozen=True, eq=False)
class Model:
    """A calibrated classifier with what is needed to feed it and to judge its answers.

    Args:
        network: Encoder and head, in evaluation mode.
        card: What model.json says.
        range: Where the features of the training images lie.
        laterals: What tells lateral images; None where nothing was fitted, as in folders of earlier versions.
    """

    network: Classifier
    card: dict[str, Any]
    range: FeatureRange
    laterals: LateralCheck | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return self.network.classes

    @property
    def learnt(self) -> tuple[str, ...]:
        """Classes that its training images could teach; all of a model whose card is silent, as older ones are."""
        return tuple(self.card.get("learnt", self.classes))

    @property
    def image_size(self) -> Size:
        """Side, or height and width, of the view in pixels."""
        height, width = height_width(self.card["encoder"]["image_size"])
        return height, width

    @property
    def reading(self) -> Reading:
        """How the files of its images are read."""
        return Reading.of(self.card["encoder"])

    def view(self, canvases: Tensor, sizes: Tensor) -> Tensor:
        """What the network is fed, (B, 1, H, W), of uint8 canvases (B, 1, C, C) and valid sizes (B, 2)."""
        card = self.card["encoder"]
        return centre_view(canvases, sizes, out=self.image_size, mean=card["mean"], std=card["std"])

    def log_odds(self, images: Tensor) -> Tensor:
        """Calibrated log-odds, (B, K), of images from `view`; differentiable."""
        return self.calibrated(self.network.head(self.network.tokens(images)))

    def probabilities(self, images: Tensor) -> Tensor:
        """Calibrated probability of each class, (B, K); of a multiclass model they sum to one."""
        return self.log_odds(images).sigmoid()

    def features(self, images: Tensor) -> Features:
        """Features of images from `view`: `joined` for `range.distance`, `pooled` for `laterals.flags`."""
        return self.network.features(images)

    def probabilities_of(self, features: Features) -> Tensor:
        """Calibrated probability of each class, (B, K), without seeing the images again."""
        return self.calibrated(self.network.head.linear(features.pooled)).sigmoid()

    def calibrated(self, scores: Tensor) -> Tensor:
        """Calibrated log-odds, (B, K), of what the network's head gives."""
        divided = scores / torch.tensor(self.card["temperatures"], device=scores.device)
        return log_odds(divided, one_of=self.network.kind == "multiclass")

    @property
    def thresholds(self) -> tuple[float | None, ...]:
        """Probability from which each class counts as present; None where validation could not choose one."""
        return tuple(self.card["thresholds"])


def save_model(folder: Path, model: Model) -> Path:
    """Writes a model folder, the card last, and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {_NETWORK + name: value for name, value in model.network.state_dict().items()}
    state |= {_RANGE + name: getattr(model.range, name) for name in _OF_RANGE}
    told = {}
    if model.laterals is not None:
        state[_LATERAL], told["lateral_check"] = model.laterals.weight, model.laterals.to_dict()
    card = {"format": FORMAT, "version": cxrbase.__version__, "range": {"limit": model.range.limit}} | model.card | told
    write_state(folder / WEIGHTS_FILE, state)
    with written_whole(folder / CARD_FILE) as part:
        part.write_text(json.dumps(card, indent=2, allow_nan=False) + "\n")
    return folder


def load_model(path: str | Path) -> Model:
    """Reads a model folder, every key matched, without running any code of the files.

    Args:
        path: The folder `model` of a fine-tuning run, that run's folder, or one of the two files.

    Raises:
        ModelError: It is missing, damaged or of a newer format, or the weights do not fit its description or are not
            finite.
    """
    folder = _folder(Path(path))
    card = _card(folder / CARD_FILE)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise ModelError(f"{folder} has {CARD_FILE} and no {WEIGHTS_FILE}: copy both files of the model")
    try:
        state = load_file(weights)
        check_description(card["encoder"], weights)
        name = card["encoder"]["timm_name"]
        encoder = as_encoder(timm.create_model(name, pretrained=False, **card["encoder"]["timm_args"]), name)
        network = Classifier(encoder, card["classes"], kind=card["kind"], mode=card["mode"])
        network.load_state_dict({k.removeprefix(_NETWORK): v for k, v in state.items() if k.startswith(_NETWORK)})
        limits = FeatureRange(
            state[_RANGE + "mean"], state[_RANGE + "scale"], state[_RANGE + "precision"], float(card["range"]["limit"])
        )
        laterals = _laterals(card.get("lateral_check"), state, width=int(encoder.embed_dim))
        if not len(card["classes"]) == len(card["temperatures"]) == len(card["thresholds"]):
            raise ValueError("classes, temperatures and thresholds differ in number")
        if any(not isinstance(value, int | float | None) for value in card["thresholds"]):
            raise ValueError(f"thresholds must be numbers or null, got {str(card['thresholds'])[:80]}")
        if not set(card.get("learnt", ())) <= set(card["classes"]):
            raise ValueError(f"what was learnt must be some of the classes, got {card['learnt']}")
        if any(not (isinstance(value, int | float) and value > 0) for value in card["temperatures"]):
            raise ValueError(f"temperatures must be above 0, got {card['temperatures']}")
        if card["kind"] == "multiclass" and len(set(card["temperatures"])) > 1:
            raise ValueError(
                f"classes of which one is true share a temperature, got {card['temperatures']} as an earlier version "
                "chose them: fit the model again"
            )
    except (EncoderError, OSError, SafetensorError, RuntimeError, TypeError, KeyError, ValueError, AssertionError,
            AttributeError) as error:  # fmt: skip
        raise ModelError(f"{weights} does not fit {CARD_FILE}: {' '.join(str(error).split())[:300]}") from error
    if said := not_finite(state):
        raise ModelError(f"{weights} is no model: {said}")
    network.requires_grad_(False)
    return Model(network.eval(), card, limits, laterals)


def _laterals(told: Any, state: dict[str, Tensor], *, width: int) -> LateralCheck | None:
    if told is None or "why_not" in told:
        return None
    weight, counts = state[_LATERAL], {split: told[split] for split in ("train", "val")}
    bias, threshold = float(told["bias"]), float(told["threshold"])
    if weight.shape != (width,) or not (weight.isfinite().all() and np.isfinite([bias, threshold]).all()):
        raise ValueError(f"the lateral check must have {width} finite weights, a bias and a threshold")
    return LateralCheck(weight, bias, threshold, counts)


def _folder(path: Path) -> Path:
    for folder in (path, path / "model", path.parent):
        if (folder / CARD_FILE).is_file() and (folder != path.parent or path.name in (CARD_FILE, WEIGHTS_FILE)):
            return folder
    if (path / "encoder.json").is_file():
        raise ModelError(
            f"{path} holds an encoder, which knows no finding: fit it to a task first, "
            f"cxrbase fit --config experiments/task/<task>.yaml --encoder {path}"
        )
    raise ModelError(f"no model at {path}: give a fine-tuning run or its folder model/ with {CARD_FILE}")


def _card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not a description of a model: {error}") from error
    if not isinstance(card, dict):
        raise ModelError(f"{path} is not a description of a model: it holds a {type(card).__name__}, not an object")
    if lacking := [name for name in _FIELDS if name not in card]:
        raise ModelError(f"{path} is not a description of a model: it lacks {', '.join(lacking)}")
    if card["format"] != FORMAT:
        remedy = "fit it again" if card["format"] in range(1, FORMAT) else "update cxrbase"
        raise ModelError(f"{path} has format {card['format']!r}, this version of cxrbase reads {FORMAT}: {remedy}")
    return card
