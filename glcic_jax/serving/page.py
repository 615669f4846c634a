"""The page of the service: open a photograph, paint over what is to vanish, fill it, and take it away."""

import contextlib
import functools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import gradio as gr

from glcic_jax.completion import STRATEGIES
from glcic_jax.errors import DataError, TooLargeError, UserError, WeightsError, one_line
from glcic_jax.serving import page_actions as actions
from glcic_jax.serving.api import limits_of
from glcic_jax.serving.private_folder import PrivateFolder
from glcic_jax.serving.service import STOPPING, ClientGoneError, NotReadyError, Service

T = TypeVar("T")
_log = logging.getLogger(__name__)
_AS_IT_CAME = "as the photograph"
_FORMATS = (_AS_IT_CAME, "png", "jpeg", "webp", "tiff")
_SECONDS_BETWEEN_LOOKS = 0.15
# What the command's flags are called here.
_BOXES = {"--invert-mask": "Black is the hole", "--fit-mask": "Stretch a mask of another shape"}
_OPEN_FIRST = "there is no photograph: open one, or choose an example"

_START = "() => { window.glcicPainter.start(); }"
_OPEN = "(text) => { window.glcicPainter.open(text); }"
_APPLY = "(text) => { window.glcicPainter.apply(text); }"
_SAVE = "(text) => { window.glcicPainter.save(text); }"
_PAINTED = "(photograph, ignored, ...rest) => [photograph, window.glcicPainter.operations(), ...rest]"


class _Options(NamedTuple):
    """The choices that most visitors leave alone."""

    weights: gr.Dropdown
    strategy: gr.Dropdown
    blend: gr.Checkbox
    grow: gr.Slider
    keep_exif: gr.Checkbox
    file_format: gr.Dropdown


class _MaskOptions(NamedTuple):
    """A mask from a file, and how it is read."""

    mask: gr.File
    invert: gr.Checkbox
    fit: gr.Checkbox


class _Parts(NamedTuple):
    """What is on the page."""

    about: gr.Markdown
    photograph: gr.File
    examples: list[gr.Button]
    at_random: gr.Button
    take_mask: gr.Button
    go: gr.Button
    masks: _MaskOptions
    options: _Options
    slider: gr.ImageSlider
    result: gr.DownloadButton
    notes: gr.Markdown
    text: gr.Textbox
    operations: gr.Textbox

    @property
    def outputs(self) -> list[Any]:
        """Where a result is shown; `_nothing` empties them."""
        return [self.slider, self.result, self.notes]


def build_page(service: Service, folder: PrivateFolder) -> gr.Blocks:
    """Builds the page.

    Args:
      service: What completes.
      folder: Where results lie until they are fetched; gradio's uploads have to lie there, too.
    """
    with gr.Blocks(title="Fill a hole in a photograph", analytics_enabled=False) as page:
        parts = _laid_out(service)
        _connect(page, parts, service, folder)
    return page


def _laid_out(service: Service) -> _Parts:
    gr.Markdown("# Make something vanish from a photograph")
    about = gr.Markdown(_about(service, service.default))
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            photograph = gr.File(
                label="Photograph: open or drop a file", type="filepath", height=120, elem_id="glcic-open"
            )
            with gr.Row():
                examples = [gr.Button(f"Example: {one.label}", size="sm") for one in actions.EXAMPLES]
            gr.HTML('<div id="glcic-painter"></div>', padding=False)
            with gr.Row():
                at_random = gr.Button("Random hole", size="sm")
                take_mask = gr.Button("Download the mask", size="sm")
            go = gr.Button("Fill the hole", variant="primary", elem_id="glcic-go")
            with gr.Accordion("A mask from a file", open=False):
                masks = _mask_options()
            with gr.Accordion("Options", open=False):
                options = _options(service)
        with gr.Column(scale=2, min_width=300):
            slider = gr.ImageSlider(
                label="Before and after", type="filepath", buttons=["fullscreen"], elem_id="glcic-slider"
            )
            result = gr.DownloadButton("Download the result", interactive=False, elem_id="glcic-result")
            notes = gr.Markdown(elem_id="glcic-notes")
    # What goes to painter.js and comes from it.
    text, operations = gr.Textbox(visible=False), gr.Textbox(visible=False)
    made = (about, photograph, examples, at_random, take_mask, go, masks, options, slider, result, notes)
    return _Parts(*made, text, operations)


def _connect(page: gr.Blocks, parts: _Parts, service: Service, folder: PrivateFolder) -> None:
    # Small works wait for nothing; how many pictures may wait, the service says.
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
    long = quiet | {"show_progress": "full", "show_progress_on": parts.slider}
    photograph, text, outputs = parts.photograph, parts.text, parts.outputs
    asked = [photograph, parts.operations, *parts.options]

    def bound(act: Callable[..., T], *arguments: Any) -> Callable[..., T]:
        return _telling()(functools.partial(act, service, *arguments))

    run = functools.partial(_run, service, folder)
    weights = parts.options.weights
    page.load(None, js=_START)
    weights.change(bound(_about), weights, parts.about, **quiet)
    runs = [parts.go.click(run, asked, outputs, js=_PAINTED, **long)]
    placed = []
    for button, example in zip(parts.examples, actions.EXAMPLES, strict=True):
        opened = [photograph, parts.operations, text, *outputs]
        placed.append(button.click(bound(_example, folder, example), None, opened, **quiet))
        runs.append(placed[-1].success(None, text, js=_OPEN).success(run, asked, outputs, **long))
    # A result belongs to the photograph that is open.
    quiet_end: dict[str, Any] = {"fn": None, "cancels": runs, "api_visibility": "private"}
    photograph.upload(**quiet_end)
    photograph.clear(**quiet_end)
    for button in parts.examples:
        button.click(**quiet_end)
    photograph.upload(bound(_open, folder), photograph, [text, *outputs], **quiet).success(None, text, js=_OPEN)
    photograph.clear(lambda: ("", *_nothing()), None, [text, *outputs], **quiet).then(None, text, js=_OPEN)
    parts.at_random.click(bound(_random), photograph, text, **quiet).success(None, text, js=_APPLY)
    masks = parts.masks
    masks.mask.upload(bound(_mask), [photograph, *masks], [text, masks.mask], **quiet).success(
        None, text, js=_APPLY
    )
    parts.take_mask.click(bound(_mask_file), asked[:2], text, js=_PAINTED, **quiet).success(None, text, js=_SAVE)


def _options(service: Service) -> _Options:
    return _Options(
        weights=gr.Dropdown(list(service.completers), value=service.default, label="Weights"),
        strategy=gr.Dropdown(
            list(STRATEGIES),
            value="auto",
            label="What the network sees",
            info="The whole photograph, that reduced, or windows around the holes.",
        ),
        blend=gr.Checkbox(False, label="Blend the fill with its surroundings"),
        grow=gr.Slider(0, 100, 0, step=1, label="Grow the hole, pixels"),
        keep_exif=gr.Checkbox(False, label="Keep EXIF: place, time, camera"),
        file_format=gr.Dropdown(_FORMATS, value=_AS_IT_CAME, label="Format of the result"),
    )


def _mask_options() -> _MaskOptions:
    return _MaskOptions(
        invert=gr.Checkbox(False, label=_BOXES["--invert-mask"]),
        fit=gr.Checkbox(False, label=_BOXES["--fit-mask"]),
        mask=gr.File(label="Mask: white is the hole", type="filepath", height=120, elem_id="glcic-mask"),
    )


def _about(service: Service, name: str) -> str:
    """Which weights are used, and what they cannot do."""
    completer = service.completer(name)
    licence = f" Licence: {completer.description.licence}."
    return f"Weights: **{completer.name}**. {limits_of(completer.description)}{licence}"


def _nothing() -> tuple[Any, ...]:
    """What the results show where there is none."""
    return None, gr.DownloadButton(value=None, interactive=False), ""


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """Shows a visitor what he can mend, and keeps what he cannot in the log."""
    try:
        yield
    except Exception as error:
        raise gr.Error(_in_words(error), duration=None, print_exception=False) from error


def _in_words(error: Exception) -> str:
    """What a visitor is told of an error; the log is told of what kind it is, as names may be in it."""
    if isinstance(error, UserError) and not isinstance(error, WeightsError):
        _log.info("refused: %s", type(error).__name__)
        detail = error.fact if isinstance(error, TooLargeError) else str(error)
        for flag, box in _BOXES.items():
            detail = detail.replace(f"give {flag}", f"tick '{box}'")
        return detail
    _log.error("the page: %s", one_line(error) if isinstance(error, WeightsError) else type(error).__name__)
    return "This failed, and the log says why: try other weights, or load the page anew."


def _open(service: Service, folder: PrivateFolder, photograph: str | None) -> tuple[Any, ...]:
    return actions.opened(service, folder, _required(photograph), []), *_nothing()


def _example(service: Service, folder: PrivateFolder, example: actions.Example) -> tuple[Any, ...]:
    path = actions.placed(folder, example.file, example.path.read_bytes())
    text = actions.opened(service, folder, path, example.operations)
    return str(path), json.dumps(example.operations), text, *_nothing()


def _random(service: Service, photograph: str | None) -> str:
    return actions.hole_at_random(service, _required(photograph))


def _mask(service: Service, photograph: str | None, mask: str, invert: bool, fit: bool) -> tuple[Any, ...]:
    try:
        return actions.hole_of_mask(service, _required(photograph), Path(mask), invert, fit), None
    except UserError as error:
        gr.Warning(_in_words(error), duration=None)
        return "", None  # An error would leave the file in its field, as if it had been taken.


def _mask_file(service: Service, photograph: str | None, operations: str) -> str:
    return actions.mask_file(service, _required(photograph), operations)


def _run(
    service: Service, folder: PrivateFolder, photograph: str | None, operations: str, *chosen: Any
) -> Iterator[tuple[Any, ...]]:
    """Gives the results; nothing at first, so that it can be left off when another photograph is opened."""
    with _telling():
        yield from _filled(service, folder, photograph, operations, *chosen)


def _filled(
    service: Service, folder: PrivateFolder, photograph: str | None, operations: str, *chosen: Any
) -> Iterator[tuple[Any, ...]]:
    path, choices = _required(photograph), actions.Choices(*chosen)
    file_format = None if choices.file_format == _AS_IT_CAME else choices.file_format
    choices = choices._replace(grow=round(choices.grow or 0), file_format=file_format)
    progress, windows, gone = gr.Progress(), (0, 0), threading.Event()

    def on_window(done: int, count: int) -> None:
        nonlocal windows
        windows = done, count

    begun = time.perf_counter()
    try:
        with service.queue_place():
            future = actions.ordered(service, path, operations, choices, gone, on_window)
            while not future.done():
                # Gradio's progress is that of this thread, and the work is done in another.
                progress(
                    windows if windows[1] > 1 else None, desc="Filling" if windows[0] else "Waiting and filling"
                )
                yield (gr.skip(),) * len(_nothing())
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            found = actions.shown(service, folder, path, future.result())
    except (ClientGoneError, CancelledError) as error:
        raise NotReadyError(STOPPING) from error
    finally:
        gone.set()
    _log.info("page: completed in %.1f s", time.perf_counter() - begun)
    lines = "\n".join(f"- {_plain(note)}" for note in found.notes)
    yield (
        (str(found.before), str(found.after)),
        gr.DownloadButton(value=str(found.result), interactive=True),
        lines,
    )


def _plain(note: str) -> str:
    """A line that Markdown shows as it is."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>()#+!|~$" else char for char in note)


def _required(photograph: str | None) -> Path:
    if photograph is None:
        raise DataError(_OPEN_FIRST)
    return Path(photograph)
