"""Whether whitening features helps their nearest neighbours: macro AUROC of kNN with and without it.

python benchmarks/neighbours.py --encoder mae=runs/gain_mae_0 --encoder untrained=<encoder> \\
    --task experiments/task/phantom.yaml --task experiments/task/cxr_view_nih.yaml

The validation split decides; the test split is shown beside it.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _record import save
from numpy.typing import NDArray
from torch.nn import functional as F

from cxrbase.evaluation.knn import knn_scores
from cxrbase.evaluation.metrics import auroc, macro
from cxrbase.evaluation.suite.feature_store import FeatureStore
from cxrbase.evaluation.suite.score_encoder import NamedEncoder, prepare
from cxrbase.evaluation.suite.score_task import Settings
from cxrbase.evaluation.task import read_task
from cxrbase.evaluation.task_data import load_task_data
from cxrbase.weights import load_any_encoder

NEIGHBOURS, TEMPERATURE = (20, 100), 0.07


def centred_scores(bank: NDArray[Any], labels: NDArray[Any], queries: NDArray[Any], *, k: int) -> NDArray[Any]:
    """The same vote among features that were centred and not whitened, for labels that are all known."""
    centre = bank.mean(0)
    near, far = (F.normalize(torch.from_numpy(part - centre), dim=1) for part in (bank, queries))
    similarity, found = (far @ near.T).topk(min(k, len(near)))
    weights = F.softmax(similarity / TEMPERATURE, dim=1)
    votes: NDArray[Any] = torch.einsum("nk,nkc->nc", weights, torch.from_numpy(labels).float()[found]).numpy()
    return votes


def rows(encoder: NamedEncoder, task: str, folder: Path) -> list[dict[str, Any]]:
    """One row for each number of neighbours, with the scores of both splits."""
    data = load_task_data(read_task(task))
    (trial,) = prepare([encoder], data, Settings(seen="off"), out=folder)
    store = FeatureStore(
        encoder.network, encoder.card, manifest=data.manifest, images=trial.images, folder=folder / "features",
        device="cpu",
    )  # fmt: skip
    features = {split: store.features(own, name=f"{encoder.name} {split}") for split, own in trial.rows.items()}
    train = np.asarray(trial.splits.train.labels)
    if np.isnan(train).any():
        raise SystemExit(f"{task} has unknown labels, which the comparison without whitening does not take")
    made = []
    for k in NEIGHBOURS:
        row: dict[str, Any] = {"task": data.task.name, "encoder": encoder.name, "k": k}
        for split, part in (("val", trial.splits.val), ("test", trial.splits.test)):
            for name, score in (("centred", centred_scores), ("whitened", knn_scores)):
                scores = score(features["train"], train, features[split], k=k).astype(np.float64)
                row[f"{name}, {split}"] = round(macro(auroc(scores, np.asarray(part.labels, np.float64))), 4)
        made.append(row)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", action="append", required=True, metavar="NAME=PATH", help="encoder to score")
    parser.add_argument("--task", action="append", required=True, help="task file whose labels are all known")
    parser.add_argument("--out", default="", help="JSON; default benchmarks/results/neighbours.json")
    given = parser.parse_args()
    places = dict(word.split("=", 1) for word in given.encoder)
    encoders = [NamedEncoder(name, place, *load_any_encoder(place)) for name, place in places.items()]
    with tempfile.TemporaryDirectory() as folder:
        table = [row for task in given.task for one in encoders for row in rows(one, task, Path(folder))]
    measured = {"tables": {"Macro AUROC of nearest neighbours": table}}
    print(save("neighbours", measured, packages=("torch", "timm"), out=given.out))


if __name__ == "__main__":
    main()
