"""`cxrbase embed`: features of images as a Parquet table."""

import sys

from jsonargparse.typing import PositiveInt

from cxrbase.devices import DEVICE_HELP
from cxrbase.suggestions import SuggestingParser


def embed(words: list[str]) -> int:
    """Runs `cxrbase embed` with the words after it and returns the exit code."""
    parser = SuggestingParser(
        prog="cxrbase embed",
        description="Writes class-token and mean-patch features of images, in order. Run a killed job again to resume "
        "it.",
    )
    parser.add_argument("images", nargs="+", type=str, help="files, folders, globs, manifests, or packed folders")
    parser.add_argument(
        "--encoder", type=str, required=True, help="run folder, fine-tuned model, others' weights, or timm:<name>"
    )
    parser.add_argument("--out", type=str, required=True, help="new .parquet file")
    parser.add_argument("--batch_size", type=PositiveInt, default=64, help="images per step of the network")
    parser.add_argument("--device", type=str, default="auto", help=DEVICE_HELP)
    parser.add_argument("--threads", type=PositiveInt, default=None, help="decoding threads; by default one per core")
    parser.add_argument(
        "--part", type=PositiveInt, default=1024, help="images per part; a killed job loses at most one part"
    )
    options = parser.parse_args(words)

    from cxrbase.release.embed import embed as run
    from cxrbase.release.outputs import refuse_all_bad

    done = run(
        options.encoder, options.images, out=options.out, batch_size=options.batch_size, device=options.device,
        threads=options.threads, part=options.part,
    )  # fmt: skip
    resumed = f", {done.resumed} of them from before" if done.resumed else ""
    sys.stdout.write(
        f"{done.path}: {done.images} images{resumed}, {done.warned} with warnings, {done.bad} could not be read "
        "(column error)\n"
    )
    refuse_all_bad(done.path, images=done.images, bad=done.bad)
    return 0
