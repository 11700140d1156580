"""The chat page: files that lie beside this module, under the paths they are served at."""

from __future__ import annotations

from importlib import resources
from typing import Final

from starlette.responses import Response

PAGE_PATHS: Final = {
    "/": ("index.html", "text/html"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
# Nothing from elsewhere, nothing inline, in no frame.
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def page_responses() -> dict[str, Response]:
    """Each path's response, read once: no request's path reaches the file system."""
    folder = resources.files(__package__) / "page"
    return {
        path: Response((folder / name).read_bytes(), media_type=media_type, headers=_HEADERS)
        for path, (name, media_type) in PAGE_PATHS.items()
    }
