"""`glcic serve`: its options. The web server is imported when the service starts, and JAX after it listens."""

import functools
import importlib.util
import re
from typing import Any

import click

from glcic_jax.command_line import FiniteFloat
from glcic_jax.errors import ConfigError, printable

# Windows around holes of up to about 200 px, and photographs of 640 px: the most common inputs of the network.
_WARMUP = "640x448,384x384,384x448,448x384,448x448,448x512,512x448,512x512,640x512,448x640,512x640"
PACKAGES = ("fastapi", "python_multipart", "starlette", "uvicorn")
_LONGEST_SIZE = len("4096x4096")


class _Sizes(click.ParamType):
    """Sizes such as 512x384,640x480, width first; converts to (height, width) pairs."""

    name = "WxH,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[tuple[int, int], ...]:
        sizes = []
        for part in filter(None, (text.strip() for text in str(value).split(","))):
            width, _, height = part.partition("x")
            numeric = len(part) <= _LONGEST_SIZE and width.isdecimal() and height.isdecimal()
            if not numeric or not (1 <= int(width) <= 4096 and 1 <= int(height) <= 4096):
                self.fail(f"{part[:20]!r} is not a size in pixels up to 4096x4096, such as 512x384", param, ctx)
            sizes.append((int(height), int(width)))
        return tuple(sizes)


class _Origin(click.ParamType):
    """The origin of a page, or * for all."""

    name = "ORIGIN"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if not re.fullmatch(r"\*|https?://[\w.\[\]:-]+", str(value)):
            self.fail(f"{printable(str(value))!r} is not an origin, such as https://example.org, or *", param, ctx)
        return str(value)


@click.command(context_settings={"show_default": True})
@click.option(
    "--weights",
    multiple=True,
    help="Weights that visitors may choose, as in 'glcic complete'; repeatable, the default first.  "
    "[default: $GLCIC_WEIGHTS, else photos; and all stored ones]",
)
@click.option("--host", default="127.0.0.1", help="0.0.0.0 accepts other machines, too.")
@click.option("--port", type=click.IntRange(0, 65535), default=7860, help="0 chooses a free one.")
@click.option("--device", help="cpu, gpu, gpu:1 ...  [default: JAX's first]")
@click.option(
    "--warmup",
    type=_Sizes(),
    default=_WARMUP,
    show_default="eleven common sizes",
    help="Sizes of windows to compile for at the start, while requests are answered; '' for none.",
)
@click.option("--max-megabytes", type=FiniteFloat(0.1, 1000), default=32, help="Largest file.")
@click.option("--max-megapixels", type=FiniteFloat(0.01, 500), default=40, help="Largest image.")
@click.option("--queue", type=click.IntRange(1, 1000), default=16, help="Requests at a time.")
@click.option("--upload-seconds", type=FiniteFloat(1), default=60, help="To send a request or read an answer.")
@click.option("--stop-seconds", type=FiniteFloat(0), default=60, help="Time for requests in progress at the end.")
@click.option("--root-path", default="", help="Path under which a proxy serves it, such as /fill.")
@click.option("--page/--no-page", default=True, help="Serve the page, or the endpoint alone.")
@click.option(
    "--allow-origin",
    type=_Origin(),
    multiple=True,
    help="Origin whose pages may use the service, such as https://example.org; repeatable, '*' allows all.",
)
def serve(**options: Any) -> None:
    """Serve a page to paint on, and POST /v1/complete.

    \b
    glcic serve                             then open http://127.0.0.1:7860
    curl -F image=@photo.jpg -F mask=@mask.png http://127.0.0.1:7860/v1/complete -o out.jpg

    Needs: pip install 'glcic-jax[serve]'. One image is completed at a time; other requests wait. Nothing that
    visitors send is kept or written to the disk. Ctrl-C or SIGTERM stops the service after the requests in
    progress. Exits with 2 for bad input, 3 if --weights cannot be used.
    """  # noqa: D301 - click reads the \\b.
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the service needs {', '.join(missing)}: pip install 'glcic-jax[serve]'")
    from glcic_jax.serving.server import ServerOptions, run_server

    run_server(ServerOptions(**options), functools.partial(click.echo, err=True))
