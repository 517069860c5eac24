"""The web application: one page, one upload at a time, nothing stored, local access only."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from cxrbase.errors import CXRBaseError
from cxrbase.release.demo.analysis import Analysis

HOST = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost")
_PAGES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
logger = logging.getLogger(__name__)


def make_app(analysis: Analysis, *, max_upload: int) -> FastAPI:
    """The application.

    Args:
        analysis: What is done with an upload.
        max_upload: Bytes above which one is refused.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    turn = asyncio.Lock()

    @app.middleware("http")
    async def guard(request: Request, following: Callable[[Request], Awaitable[Response]]) -> Response:
        answer = await following(request) if _from_here(request) else Response("only from this machine", 403)
        answer.headers.update(_HEADERS)
        return answer

    for path, (name, kind) in _PAGES.items():
        text = resources.files("cxrbase.release.demo").joinpath(name).read_text("utf-8")
        app.add_api_route(path, _constant(text, kind), methods=["GET"])

    async def analyse(request: Request) -> JSONResponse:
        data = await _limited(request, max_upload)
        async with turn:
            try:
                return JSONResponse(await run_in_threadpool(analysis, data))
            except CXRBaseError as error:
                # The reason without the name of the temporary file.
                return JSONResponse({"detail": getattr(error, "reason", "") or str(error)}, 422)

    app.add_api_route("/analyse", analyse, methods=["POST"])
    return app


def _constant(text: str, kind: str) -> Callable[[], Response]:
    def give() -> Response:
        return Response(text, media_type=kind)

    return give


def _from_here(request: Request) -> bool:
    """Whether the page itself asks: a name of another machine, or a page of another site, may not."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname
    origin = request.headers.get("origin")
    return host in _NAMES and (origin is None or urlsplit(origin).netloc == request.headers.get("host"))


async def _limited(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise HTTPException(413, f"the file is larger than {limit / 1e6:g} MB")
        parts.append(part)
    if not size:
        raise HTTPException(422, "the file is empty")
    return b"".join(parts)


def serve(app: FastAPI, *, port: int, ready: Callable[[str], Any]) -> None:
    """Serves on loopback until it is stopped; `ready` gets the address."""
    import uvicorn

    ready(f"http://{HOST}:{port}")
    uvicorn.run(app, host=HOST, port=port, log_level="warning", access_log=False)
