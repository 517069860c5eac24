"""`cxrbase export`: an encoder as a folder for timm, transformers, onnxruntime or torch."""

import sys

from cxrbase.suggestions import SuggestingParser


def export(words: list[str]) -> int:
    """Runs `cxrbase export` with the words after it and returns the exit code."""
    parser = SuggestingParser(
        prog="cxrbase export",
        description="Writes an encoder with its preprocessing, model card, licence and checksums, and checks the "
        "result with the target program.",
    )
    parser.add_argument(
        "--encoder", type=str, required=True, help="run folder, third-party weight file, or timm:<name>"
    )
    parser.add_argument(
        "--to",
        choices=["timm", "hf", "onnx", "torch"],
        required=True,
        help="target: timm (local-dir:), hf (transformers AutoModel), onnx (onnxruntime) or torch (torch.export)",
    )
    parser.add_argument("--out", type=str, required=True, help="new folder")
    parser.add_argument(
        "--licence", type=str, default="Apache-2.0", help="of the weights: an SPDX name, or a file with the text"
    )
    options = parser.parse_args(words)

    from cxrbase.release.export import export as write

    result = write(options.encoder, to=options.to, out=options.out, licence=options.licence)
    opset = f", opset {result['opset']}, any batch size" if "opset" in result else ""
    sys.stdout.write(
        f"{options.out}: features differ by {result['max_difference']:.1e} of the largest, checked with "
        f"{result['checked_with']}{opset}\n"
    )
    return 0
