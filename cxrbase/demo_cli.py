"""`cxrbase demo`: a page on this machine that shows what a model makes of one radiograph."""

import importlib.util
import sys

from jsonargparse.typing import PositiveInt

from cxrbase.errors import ConfigError
from cxrbase.suggestions import SuggestingParser


def demo(words: list[str]) -> int:
    """Runs `cxrbase demo` with the words after it, until it is stopped."""
    parser = SuggestingParser(
        prog="cxrbase demo",
        description="Serves a page, on this machine only, that shows one radiograph as the network sees it, with "
        "probabilities, a map and similar images. Nothing is kept. Research software, not for diagnosis.",
    )
    parser.add_argument(
        "--model", type=str, required=True, help="model folder, or an encoder, as for cxrbase embed --encoder"
    )
    parser.add_argument(
        "--features", type=str, default=None, help="feature table from cxrbase embed, searched for similar images"
    )
    parser.add_argument("--max_mb", type=PositiveInt, default=100, help="largest accepted upload, in MB")
    parser.add_argument("--port", type=int, default=8642, help="port of the page")
    options = parser.parse_args(words)
    if not 0 < options.port < 65_536:
        parser.error(f"--port must be in 1..65535, got {options.port}")
    lacking = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if lacking:
        raise ConfigError(f"cxrbase demo needs {' and '.join(lacking)}: pip install 'cxrbase[demo]'")

    from cxrbase.release.demo.analysis import Analysis
    from cxrbase.release.demo.app import make_app, serve

    analysis = Analysis(options.model, features=options.features)
    app = make_app(analysis, max_upload=options.max_mb * 1_000_000)
    serve(app, port=options.port, ready=lambda address: sys.stdout.write(f"open {address}; Ctrl-C stops it\n"))
    return 0
