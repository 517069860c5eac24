"""`cxrbase predict`: calibrated probabilities of a fine-tuned model, with warnings."""

import os
import sys

from jsonargparse.typing import PositiveInt

from cxrbase.devices import DEVICE_HELP
from cxrbase.suggestions import SuggestingParser


def predict(words: list[str]) -> int:
    """Runs `cxrbase predict` with the words after it and returns the exit code."""
    parser = SuggestingParser(
        prog="cxrbase predict",
        description="Calibrated probability of each finding, whether it reaches the threshold that validation "
        "chose, and warnings about images unlike those of training. Research software, not for diagnosis.",
    )
    parser.add_argument("images", nargs="+", type=str, help="files, folders, globs, manifests, or packed folders")
    parser.add_argument("--model", type=str, required=True, help="model folder or fine-tuning run")
    parser.add_argument("--out", type=str, required=True, help="new .csv or .json file")
    parser.add_argument("--batch_size", type=PositiveInt, default=32, help="images per step of the network")
    parser.add_argument("--device", type=str, default="auto", help=DEVICE_HELP)
    parser.add_argument("--threads", type=PositiveInt, default=None, help="decoding threads; by default one per core")
    options = parser.parse_args(words)

    from cxrbase.release.outputs import local_place, refuse_all_bad

    out = local_place(options.out)
    part = out.with_name(f"{out.name}.part")
    for path in (out, part):
        if path.exists():
            parser.error(f"{path} exists already: give another --out, or remove it")
    if out.suffix not in (".csv", ".json"):
        parser.error(f"--out must be a new file that ends in .csv or .json, got {out}")

    from cxrbase.models import load_model
    from cxrbase.release.doubt import in_words, unproven
    from cxrbase.release.predict import predict as run
    from cxrbase.release.predict import write_predictions

    model = load_model(options.model)
    found = run(
        options.model, options.images, batch_size=options.batch_size, device=options.device, threads=options.threads
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    # A row is on disk when it is made, so that what stops a long job does not take the others with it; the table has
    # its own name when it is whole.
    with part.open("x", newline="", encoding="utf-8", buffering=1) as file:
        done = write_predictions(found, model.classes, file, form="csv" if out.suffix == ".csv" else "json")
    os.replace(part, out)
    sys.stdout.write(
        f"{out}: {done.images} images, {done.warned} with warnings, {done.bad} could not be read (column error)\n"
    )
    if doubt := in_words(unproven(model.card)):
        sys.stdout.write(f"warning: {doubt}\n")
    refuse_all_bad(out, images=done.images, bad=done.bad)
    return 0
