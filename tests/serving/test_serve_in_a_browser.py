"""The page, in a browser, as a visitor uses it."""

import io
import json
import re
import shutil

import httpx
import numpy as np
import pytest
from helpers.common import command_runner
from helpers.served import served
from PIL import Image

from glcic_jax.commands.main import cli

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")

CANVAS = "#glcic-painter canvas"
SECONDS = 60_000


@pytest.fixture(scope="module")
def service(tmp_path_factory, weights):
    limits = ("--max-megabytes", "8", "--max-megapixels", "13")
    with served(tmp_path_factory.mktemp("service"), weights, *limits) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


class Visit:
    """A page that is open, and what went wrong on it."""

    def __init__(self, browser, url, width=1200, height=900, **context):
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True, **context
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(SECONDS)
        self.elsewhere, self.errors = [], []
        self.page.on("request", lambda request: self._request(request.url, url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", lambda got: self.errors.append(got.url) if got.status >= 400 else None)
        self.page.goto(url)
        self.page.wait_for_selector("#glcic-painter button")

    def _request(self, asked, own):
        if not asked.startswith((own, "data:", "blob:")):
            self.elsewhere.append(asked)

    def open(self, path, label="Paint over"):
        self.page.set_input_files("#glcic-open input[type=file]", path)
        self.page.wait_for_function(
            "(text) => document.querySelector('#glcic-painter [role=status]').textContent.includes(text)",
            arg=label,
        )

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def stroke(self, *points, steps=6):
        """Paints along points in parts of the canvas, (0, 0) to (1, 1)."""
        canvas = self.page.locator(CANVAS)
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:] or places:
            self.page.mouse.move(*place, steps=steps)
        self.page.mouse.up()

    def saved(self, locator) -> tuple[str, bytes]:
        with self.page.expect_download() as waiting:
            locator.click()
        with open(waiting.value.path(), "rb") as file:
            return waiting.value.suggested_filename, file.read()

    def mask(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.saved(self.button("Download the mask"))[1])))

    def fill(self) -> tuple[str, bytes]:
        self.button("Fill the hole").click()
        self.page.wait_for_selector("#glcic-notes li")
        return self.saved(self.page.locator("#glcic-result"))

    def close(self):
        self.context.close()


@pytest.fixture
def visit(browser, service):
    opened = []

    def begin(**options) -> Visit:
        opened.append(Visit(browser, service.url, **options))
        return opened[-1]

    yield begin
    errors = [error for one in opened for error in (*one.errors, *one.elsewhere)]
    for one in opened:
        one.close()
    assert errors == []


def photograph(path, width=240, height=180, **options):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def pixels(content) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_painted_area_alone_is_filled(visit, tmp_path, service, weights):
    one = visit()
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    path = photograph(tmp_path / "sea side.png", exif=exif)
    one.open(path)
    one.stroke((0.25, 0.3), (0.6, 0.5))
    hole = one.mask()
    name, filled = one.fill()
    assert name == "sea side_completed.png"
    before, after = pixels(path.read_bytes()), pixels(filled)
    np.testing.assert_array_equal(before[~hole], after[~hole])
    assert (before[hole] != after[hole]).mean() > 0.5
    assert hole[round(0.3 * 180), round(0.25 * 240)]
    assert hole[round(0.5 * 180), round(0.6 * 240)]
    assert 0.01 < hole.mean() < 0.2
    # The same through the other two doors.
    Image.fromarray(hole).save(tmp_path / "mask.png")
    arguments = ["complete", str(path), str(tmp_path / "mask.png"), "-", "--weights", str(weights), "--drop-exif"]
    assert command_runner().invoke(cli, arguments).stdout_bytes == filled
    files = {"image": path.read_bytes(), "mask": (tmp_path / "mask.png").read_bytes()}
    files = {name: (name, content) for name, content in files.items()}
    assert httpx.post(f"{service.url}/v1/complete", files=files, timeout=60).content == filled
    assert b"a camera" not in filled


def test_large_photograph_keeps_size_and_format(visit, tmp_path):
    one = visit()
    path = photograph(tmp_path / "large.jpg", 4000, 3000, quality=80)
    one.open(path)
    one.stroke((0.1, 0.1), (0.12, 0.1))
    hole = one.mask()
    assert hole.shape == (3000, 4000)
    # The brush begins with a twentieth of the longer side, wherever it is shown.
    assert abs(np.count_nonzero(hole[:, 400]) - 200) < 30
    name, filled = one.fill()
    assert name == "large_completed.jpg"
    assert Image.open(io.BytesIO(filled)).format == "JPEG"
    assert pixels(filled).shape == (3000, 4000, 3)


def test_undo_redo_erase_and_clear(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png"))
    one.stroke((0.2, 0.5), (0.4, 0.5))
    first = one.mask()
    one.stroke((0.6, 0.5), (0.8, 0.5))
    both = one.mask()
    assert both.sum() > 1.5 * first.sum()
    one.button("Undo").click()
    np.testing.assert_array_equal(one.mask(), first)
    one.button("Redo").click()
    np.testing.assert_array_equal(one.mask(), both)
    one.button("Eraser").click()
    one.stroke((0.5, 0.5), (0.95, 0.5))
    erased = one.mask()
    assert not (erased & ~both).any()
    assert 0 < erased.sum() < both.sum()
    one.button("Clear all").click()
    one.button("Brush").click()
    one.stroke((0.5, 0.2), (0.5, 0.3))
    assert not (one.mask() & both).any()


def test_result_belongs_to_the_open_photograph(visit, tmp_path, service):
    one = visit()
    one.open(photograph(tmp_path / "first.png", 3000, 2000))
    one.stroke((0.1, 0.1), (0.9, 0.9))
    one.button("Fill the hole").click()
    one.page.locator("#glcic-open").get_by_label("Clear").click()
    one.open(photograph(tmp_path / "second.png"), "240 x 180")
    # Waits in the queue behind the first photograph, if that is still worked on.
    files = {name: (name, (tmp_path / "second.png").read_bytes()) for name in ("image", "mask")}
    assert httpx.post(f"{service.url}/v1/complete", files=files, timeout=60).status_code == 200
    one.page.wait_for_timeout(500)  # The page looks for results several times a second.
    assert one.page.locator("#glcic-notes li").count() == 0
    assert one.page.locator("#glcic-result").is_disabled()
    one.stroke((0.4, 0.4), (0.5, 0.5))
    assert one.fill()[0] == "second_completed.png"


def test_tiny_picture_can_be_painted_on(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png", 8, 6))
    assert one.page.locator(CANVAS).bounding_box()["width"] >= 200
    one.stroke((0.5, 0.5), (0.6, 0.5))
    hole = one.mask()
    assert hole.shape == (6, 8)
    assert 0 < hole.sum() < 48


def test_missing_paint_is_reported(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png"))
    one.button("Fill the hole").click()
    one.page.get_by_text("nothing is painted").wait_for()


def test_mask_from_a_file_can_be_painted_on(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png"))
    hole = np.random.default_rng(0).random((180, 240)) < 0.02
    Image.fromarray(hole).save(tmp_path / "m.png")
    one.page.get_by_text("A mask from a file").click()
    one.page.set_input_files("#glcic-mask input[type=file]", tmp_path / "m.png")
    one.page.wait_for_function("JSON.parse(window.glcicPainter.operations()).length === 1")
    np.testing.assert_array_equal(one.mask(), hole)
    one.stroke((0.5, 0.5), (0.6, 0.5))
    more = one.mask()
    assert more[hole].all()
    assert more.sum() > hole.sum() + 100
    photograph(tmp_path / "other.png", 50, 50)
    one.page.set_input_files("#glcic-mask input[type=file]", tmp_path / "other.png")
    one.page.get_by_text("or tick 'Stretch a mask of another shape'").wait_for()
    Image.new("L", (240, 180)).save(tmp_path / "black.png")
    one.page.set_input_files("#glcic-mask input[type=file]", tmp_path / "black.png")  # Its field was emptied.
    one.page.get_by_text("the hole is empty").wait_for()
    np.testing.assert_array_equal(one.mask(), more)


def test_example_and_random_hole_take_one_click(visit):
    one = visit()
    one.button("Example: cat").click()
    one.page.wait_for_selector("#glcic-notes li")
    assert one.saved(one.page.locator("#glcic-result"))[0] == "chelsea_completed.png"
    assert one.page.locator("#glcic-slider img").count() >= 2
    painted = one.mask()
    one.button("Random hole").click()
    one.page.wait_for_function("window.glcicPainter.operations().includes('mask')")
    assert (one.mask() != painted).any()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("letter.txt", b"Dear Sir", "cannot be read as an image"), ("huge.png", None, "at most 13,000,000 are read")],
)
def test_wrong_file_is_reported_and_the_page_goes_on(visit, tmp_path, name, content, said):
    one = visit()
    if content is None:
        Image.new("1", (5000, 5000)).save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    one.page.set_input_files("#glcic-open input[type=file]", tmp_path / name)
    one.page.get_by_text(said).wait_for()
    one.button("Example: cat").click()
    one.page.wait_for_selector("#glcic-notes li")


def test_page_works_on_a_phone(visit, tmp_path):
    one = visit(width=360, height=740, has_touch=True, is_mobile=True)
    one.open(photograph(tmp_path / "a.png", 1200, 800))
    assert one.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    box = one.page.locator(CANVAS).bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    one.page.locator(CANVAS).scroll_into_view_if_needed()
    one.page.locator(CANVAS).tap(position={"x": box["width"] / 2, "y": box["height"] / 2})
    hole = one.mask()
    assert hole[400, 600]
    assert pixels(one.fill()[1]).shape == (800, 1200, 3)
    for button in one.page.locator("#glcic-painter button").all():
        assert button.bounding_box()["height"] >= 36


def test_page_works_with_the_keyboard_alone(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png"))
    keyboard = one.page.keyboard
    one.button("Brush").focus()
    for _ in range(12):
        keyboard.press("Tab")
        if one.page.evaluate("document.activeElement.tagName") == "CANVAS":
            break
    assert "Arrow keys" in one.page.evaluate("document.activeElement.getAttribute('aria-label')")
    keyboard.press("ArrowLeft")
    keyboard.press("Space")
    for _ in range(8):
        keyboard.press("ArrowRight")
    keyboard.press("Space")
    keyboard.press("ArrowDown")
    hole = one.mask()
    assert hole[90, 115:125].all()
    assert not hole[[60, 120]].any()
    one.page.locator(CANVAS).focus()
    keyboard.press("Control+z")
    assert json.loads(one.page.evaluate("window.glcicPainter.operations()")) == []
    keyboard.press("Control+y")
    one.button("Fill the hole").focus()
    keyboard.press("Enter")
    one.page.wait_for_selector("#glcic-notes li")


def test_page_names_the_weights_and_their_limits(visit, weights):
    text = visit().page.locator("body").inner_text()
    assert weights.name in text
    assert re.search(r"holes of up to 16 px", text)


def test_options_have_the_effect_of_the_command_line(visit, tmp_path, weights):
    one = visit()
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    path = photograph(tmp_path / "a.jpg", exif=exif)
    one.open(path)
    one.stroke((0.4, 0.4), (0.5, 0.5))
    Image.fromarray(one.mask()).save(tmp_path / "mask.png")
    one.page.get_by_text("Options", exact=True).click()
    one.page.get_by_label("Blend the fill").check()
    one.page.get_by_label("Keep EXIF").check()
    one.page.get_by_label("number input for Grow").fill("4")
    _, filled = one.fill()
    arguments = ["complete", str(path), str(tmp_path / "mask.png"), "-", "--weights", str(weights)]
    expected = command_runner().invoke(cli, [*arguments, "--blend", "--grow", "4"]).stdout_bytes
    assert filled == expected
    assert b"a camera" in filled
