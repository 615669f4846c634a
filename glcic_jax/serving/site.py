"""The endpoint with the page mounted on it, behind its guard."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from starlette.types import ASGIApp

from glcic_jax.serving.page import build_page
from glcic_jax.serving.private_folder import PrivateFolder
from glcic_jax.serving.serve_guard import Guard, tended
from glcic_jax.serving.service import Service

_TEMPLATES = Path(__file__).parent / "static"


def with_page(
    app: FastAPI, service: Service, folder: PrivateFolder, seconds: float, root_path: str = ""
) -> ASGIApp:
    """Mounts the page.

    Args:
      app: The endpoint.
      service: What completes.
      folder: Where gradio keeps its files, as $GRADIO_TEMP_DIR says since before it was imported.
      seconds: Between two times that the folder is tended.
      root_path: Where a proxy in front has it.
    """
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        async with inner(application), tended(folder, seconds):
            yield

    app.router.lifespan_context = lifespan
    page = build_page(service, folder).queue(max_size=8 * service.limits.queue)
    # What is mounted is never launched, and what was not launched takes every path for its own.
    page.has_launched = True
    # System fonts: gradio's own come from elsewhere.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    mounted = gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        root_path=root_path or None,
        show_error=False,
        max_file_size=service.limits.max_bytes,
        ssr_mode=False,
        mcp_server=False,
        theme=theme,
        css=(_TEMPLATES / "painter.css").read_text(),
        head=f"<script>{(_TEMPLATES / 'painter.js').read_text()}</script>",
    )
    return Guard(mounted, folder, service.limits)
