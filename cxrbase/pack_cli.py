"""`cxrbase pack`: packs originals of any source once, into shards that training streams from."""

import sys
from typing import get_args

from jsonargparse.typing import PositiveInt

from cxrbase.errors import ConfigError
from cxrbase.suggestions import SuggestingParser


def pack(words: list[str]) -> int:
    """Runs `cxrbase pack` with the words after it and returns the exit code."""
    from cxrbase.data import pack as packing
    from cxrbase.data.pack_image import ImageOptions

    asked = _parser().parse_args(words)
    if len(asked.source) != len(asked.root):
        raise ConfigError(f"each --source needs its --root: got {len(asked.source)} and {len(asked.root)}")
    options = ImageOptions(
        size=asked.size, codec=asked.codec, quality=asked.quality, window=asked.window, crop_borders=asked.crop_borders
    )
    done = packing.pack(
        list(zip(asked.source, asked.root, strict=True)),
        asked.out,
        options=options,
        exclude=asked.exclude or (),
        max_bad=asked.max_bad,
        jobs=asked.jobs,
        engine=asked.engine,
        partial=asked.partial,
        block_rows=asked.block_rows,
    )
    refused = f", {done.refused:,} refused" if done.refused else ""
    new = "nothing was left to do" if not done.new else f"{done.new:,} of them tried now"
    sys.stdout.write(f"{done.images:,} images packed{refused}, {new}; see {asked.out}/report.html\n")
    return 0


def _parser() -> SuggestingParser:
    from cxrbase.data.decode import Window
    from cxrbase.data.pack import Engine
    from cxrbase.data.shards import Codec

    parser = SuggestingParser(
        prog="cxrbase pack", description="Packs originals into shards; can be stopped and repeated."
    )
    add = parser.add_argument
    add(
        "--source",
        action="append",
        type=str,
        required=True,
        help="data set, see `cxrbase sources`, or <name>=<data set>",
    )
    add("--root", action="append", type=str, required=True, help="its folder; one for each --source, in this order")
    add("--out", type=str, required=True, help="folder or fsspec URL (s3://bucket/folder) to write to")
    add("--size", type=PositiveInt, default=512, help="shorter side in pixels; nothing is enlarged")
    add("--codec", choices=get_args(Codec), default="jpeg", help="jpeg, or png without loss for twice the space")
    add("--quality", type=PositiveInt, default=90, help="JPEG quality, 1 to 100")
    add(
        "--window",
        choices=get_args(Window),
        default="percentile",
        help="how images of more than 8 bits are reduced to 8",
    )
    add("--crop_borders", action="store_true", help="cut off black borders")
    add("--exclude", action="append", type=str, help="list of images to leave out, as `cxrbase audit` writes it")
    add("--max_bad", type=float, default=0.01, help="largest share of images that may be unreadable")
    add("--jobs", type=PositiveInt, help="processes; by default one per core")
    add("--engine", choices=get_args(Engine), default="local", help="local, or ray for an existing Ray cluster")
    add("--partial", action="store_true", help="continue if images of a source are missing")
    add("--block_rows", type=PositiveInt, help="images in a shard; by default as many as make about 64 MB")
    return parser
