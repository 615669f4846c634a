"""The page, in a browser, as a visitor uses it."""

import contextlib
import importlib.util
import io
import shutil

import httpx
import numpy as np
import pytest
from helpers.common import command_runner
from helpers.served import served
from PIL import Image

from glcic_jax.commands.main import cli

playwright = pytest.importorskip("playwright.sync_api")

from serving.page_driver import CONTRASTS, Visit, contrast  # noqa: E402 - it needs playwright.

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")


class Restartable:
    """The service, which can be ended and started again at the same address."""

    def __init__(self, start, stack):
        self._start = start
        self._stack = stack
        self._running = stack.enter_context(start("0"))
        self.url = self._running.url

    def kill(self):
        self._running.process.kill()
        self._running.process.wait(30)

    def start(self):
        self._running = self._stack.enter_context(self._start(self.url.rpartition(":")[2]))


@pytest.fixture(scope="module")
def service(tmp_path_factory, weights):
    def start(port):
        limits = ("--max-megabytes", "8", "--max-megapixels", "13", "--port", port)
        return served(tmp_path_factory.mktemp("service"), weights, *limits)

    with contextlib.ExitStack() as stack:
        yield Restartable(start, stack)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, service):
    opened = []

    def begin(**options) -> Visit:
        opened.append(Visit(browser, service.url, **options))
        return opened[-1]

    yield begin
    errors = [error for one in opened for error in one.errors]
    for one in opened:
        one.close()
    assert errors == []


def photograph(path, width=240, height=180, **options):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def camera():
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    return exif


def pixels(content) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def completed(path, mask, weights, *options) -> bytes:
    arguments = ["complete", str(path), str(mask), "-", "--weights", str(weights), *options]
    return command_runner().invoke(cli, arguments).stdout_bytes


def test_painted_area_alone_is_filled(visit, tmp_path, service, weights):
    one = visit()
    path = photograph(tmp_path / "sea side.png", exif=camera())
    one.open(path)
    one.drag((0.25, 0.3), (0.6, 0.5))
    hole = one.mask(tmp_path / "mask.png")
    name, filled = one.fill()
    assert name == "sea side_completed.png"
    before, after = pixels(path.read_bytes()), pixels(filled)
    np.testing.assert_array_equal(before[~hole], after[~hole])
    assert (before[hole] != after[hole]).mean() > 0.5
    assert hole[round(0.3 * 180), round(0.25 * 240)]
    assert hole[round(0.5 * 180), round(0.6 * 240)]
    assert 0.01 < hole.mean() < 0.2
    # The same through the other two doors.
    assert completed(path, tmp_path / "mask.png", weights, "--drop-exif") == filled
    files = {"image": path.read_bytes(), "mask": (tmp_path / "mask.png").read_bytes()}
    files = {name: (name, content) for name, content in files.items()}
    assert httpx.post(f"{service.url}/v1/complete", files=files, timeout=60).content == filled
    assert b"a camera" not in filled
    assert one.page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0


def test_going_on_with_a_result_and_back(visit, tmp_path, weights):
    one = visit()
    path = photograph(tmp_path / "a.jpg")
    one.open(path)
    one.drag((0.2, 0.3), (0.3, 0.3))
    first_hole = one.mask()
    name, first = one.fill()
    assert not one.one("mask-save").is_enabled()  # The painted area is filled, and gone.
    one.drag((0.6, 0.6), (0.7, 0.6))
    second_hole = one.mask(tmp_path / "mask.png")
    (tmp_path / name).write_bytes(first)
    assert one.fill() == (name, completed(tmp_path / name, tmp_path / "mask.png", weights, "--drop-exif"))
    one.one("undo").click()
    np.testing.assert_array_equal(one.mask(), second_hole)
    assert one.saved("download")[1] == first
    for _ in range(2):
        one.one("undo").click()
    np.testing.assert_array_equal(one.mask(), first_hole)
    assert one.one("download").is_disabled()
    for _ in range(2):
        one.one("redo").click()
    np.testing.assert_array_equal(one.mask(), second_hole)
    assert one.saved("download")[1] == first


def test_options_have_the_effect_of_the_command_line(visit, tmp_path, weights):
    one = visit()
    path = photograph(tmp_path / "a.jpg", exif=camera())
    one.open(path)
    one.drag((0.4, 0.4), (0.5, 0.5))
    one.mask(tmp_path / "mask.png")
    one.page.get_by_text("Options", exact=True).click()
    one.page.get_by_label("Blend the fill").select_option("on")
    one.page.get_by_label("Keep EXIF").check()
    one.page.get_by_label("Grow the painted area").fill("-4")
    one.one("fill").click()
    one.says("Grow the painted area", "options-error")
    one.page.get_by_label("Grow the painted area").fill("4")
    _, filled = one.fill()
    assert filled == completed(path, tmp_path / "mask.png", weights, "--blend", "on", "--grow", "4")
    assert b"a camera" in filled
    one.one("undo").click()
    one.page.get_by_label("Format of the result").select_option("png")
    name, filled = one.fill()
    assert name == "a_completed.png"
    assert Image.open(io.BytesIO(filled)).format == "PNG"


def test_undo_redo_erase_clear_and_invert(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png"))
    one.drag((0.2, 0.5), (0.4, 0.5))
    first = one.mask()
    one.drag((0.6, 0.5), (0.8, 0.5))
    both = one.mask()
    assert both.sum() > 1.5 * first.sum()
    one.one("undo").click()
    np.testing.assert_array_equal(one.mask(), first)
    one.one("redo").click()
    np.testing.assert_array_equal(one.mask(), both)
    one.one("erase").click()
    one.drag((0.5, 0.5), (0.95, 0.5))
    erased = one.mask()
    assert not (erased & ~both).any()
    assert 0 < erased.sum() < both.sum()
    one.one("invert").click()
    np.testing.assert_array_equal(one.mask(), ~erased)
    one.one("clear").click()
    assert not one.one("mask-save").is_enabled()
    one.one("undo").click()
    np.testing.assert_array_equal(one.mask(), ~erased)


def test_fill_waits_for_a_photograph_and_stands_out_once_something_is_painted(visit, tmp_path):
    one = visit()
    playwright.expect(one.one("fill")).to_be_disabled()
    one.page.keyboard.press("f")
    one.says("", "fill-error")
    one.open(photograph(tmp_path / "a.png"))
    playwright.expect(one.one("fill")).to_have_class("")
    one.drag((0.0, 0.2), (0.2, 0.2))
    playwright.expect(one.one("fill")).to_have_class("primary")
    columns = np.argwhere(one.mask())[:, 1]
    one.fill()
    playwright.expect(one.one("fill")).to_have_class("")
    one.one("compare").click()
    # At the left edge, there is more room at the other side of the hole.
    at = 100 * (columns.max() + 1) / 240 + 2
    assert float(one.one("slider").input_value()) == pytest.approx(at, abs=0.1)


def test_rectangle_lasso_and_random_hole(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png", 300, 200))
    one.tool("rectangle")
    one.drag((0.1, 0.2), (0.5, 0.6))
    expected = np.zeros((200, 300), bool)
    expected[40:120, 30:150] = True
    np.testing.assert_array_equal(one.mask(), expected)
    one.one("clear").click()
    one.tool("lasso")
    one.drag((0.1, 0.2), (0.5, 0.2), (0.5, 0.6), (0.1, 0.6))
    assert np.count_nonzero(one.mask() != expected) < 300  # Edges, by a pixel.
    one.one("random").click()
    rows, columns = np.nonzero(one.mask())
    assert 0 < len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1) < 200 * 300 / 4
    one.page.keyboard.press("Control+z")
    assert np.count_nonzero(one.mask() != expected) < 300


def test_mask_files_go_in_and_out_unchanged(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png"))
    hole = np.random.default_rng(0).random((180, 240)) < 0.3
    for stored in (hole, np.where(hole, 128, 127).astype(np.uint8), hole.astype(np.uint8)):
        Image.fromarray(stored).save(tmp_path / "m.png")
        one.page.set_input_files("#mask-file", tmp_path / "m.png")
        playwright.expect(one.one("mask-save")).to_be_enabled()
        np.testing.assert_array_equal(one.mask(), hole)
        one.one("clear").click()
    one.page.set_input_files("#mask-file", photograph(tmp_path / "other.png", 50, 50))
    one.says("tick 'Stretch a mask of another shape'", "mask-error")
    Image.new("L", (240, 180)).save(tmp_path / "black.png")
    one.page.set_input_files("#mask-file", tmp_path / "black.png")
    one.says("Nothing in this mask is white", "mask-error")
    (tmp_path / "m.txt").write_text("no mask")
    one.page.set_input_files("#mask-file", tmp_path / "m.txt")
    one.says("save it as a PNG", "mask-error")
    one.page.get_by_label("Black is the hole").check()
    one.page.get_by_label("Stretch a mask").check()
    Image.fromarray(np.repeat(~hole, 2, axis=1)).save(tmp_path / "wide.png")
    one.page.set_input_files("#mask-file", tmp_path / "wide.png")
    playwright.expect(one.one("mask-save")).to_be_enabled()
    np.testing.assert_array_equal(one.mask(), hole)


def test_large_photograph_keeps_size_format_and_brush(visit, tmp_path):
    one = visit()
    path = photograph(tmp_path / "large.jpg", 3000, 2000, quality=80)
    one.open(path)
    one.drag((0.1, 0.1), (0.12, 0.1))
    hole = one.mask()
    assert hole.shape == (2000, 3000)
    # The brush begins with a twentieth of the longer side, wherever it is shown.
    assert np.count_nonzero(hole[:, 330]) == pytest.approx(150, abs=3)
    name, filled = one.fill()
    assert name == "large_completed.jpg"
    assert Image.open(io.BytesIO(filled)).format == "JPEG"
    assert pixels(filled).shape == (2000, 3000, 3)


def test_zoom_pan_and_brush_size(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png", 8, 6))  # Far smaller than the screen.
    fitted = one.one("pictures").bounding_box()
    assert fitted["width"] >= 200
    rendering = one.page.locator("#pictures img")
    playwright.expect(rendering).to_have_css("image-rendering", "auto")
    x, y = one.place(0.25, 0.25)
    one.page.mouse.move(x, y)
    one.page.mouse.wheel(0, 300)
    zoomed = one.one("pictures").bounding_box()
    assert zoomed["width"] < fitted["width"]
    playwright.expect(rendering).to_have_css("image-rendering", "pixelated")
    assert one.place(0.25, 0.25) == pytest.approx((x, y), abs=0.1)
    one.drag((0.2, 0.2), (0.4, 0.4), button="middle")
    panned = one.one("pictures").bounding_box()
    assert panned["x"] - zoomed["x"] == pytest.approx(0.2 * zoomed["width"], abs=1)
    one.one("stage").focus()
    one.page.keyboard.down(" ")
    one.drag((0.4, 0.4), (0.2, 0.2))
    one.page.keyboard.up(" ")
    assert one.one("pictures").bounding_box()["x"] == pytest.approx(zoomed["x"], abs=1)
    assert not one.one("mask-save").is_enabled()
    one.page.keyboard.press("1")
    one.says("100 %", "zoom")
    one.page.keyboard.press("0")
    assert one.one("pictures").bounding_box() == fitted
    one.says("4 px", "size-pixels")
    one.page.keyboard.press("]")
    one.says("5 px", "size-pixels")
    for _ in range(9):
        one.page.keyboard.press("[")
    one.says("1 px", "size-pixels")
    one.drag((0.51, 0.51))
    assert np.argwhere(one.mask()).tolist() == [[3, 4]]


def test_notes_name_the_controls_of_the_page(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png"))
    one.tool("rectangle")
    one.drag((0.02, 0.02), (0.98, 0.98))
    one.fill()
    one.says("more than can be completed well: if black marks the hole, use 'Invert'", "notes")


def test_original_is_compared_with_the_result(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png"))
    assert one.one("compare").is_disabled()
    one.drag((0.2, 0.2), (0.8, 0.8))
    columns = np.argwhere(one.mask())[:, 1]
    one.fill()
    playwright.expect(one.page.locator(".before")).to_be_hidden()
    one.one("compare").click()
    playwright.expect(one.page.locator(".before")).to_be_visible()
    # The line is beside the hole.
    assert float(one.one("slider").input_value()) == pytest.approx(100 * columns.min() / 240 - 2, abs=0.1)
    one.drag((0.5, 0.5), (0.25, 0.5))
    assert float(one.one("slider").input_value()) == pytest.approx(25, abs=0.5)
    clip = "(image) => getComputedStyle(image).clipPath"
    assert one.page.locator(".before").evaluate(clip).startswith("inset(0px 75")
    one.one("slider").focus()
    one.page.keyboard.press("ArrowRight")
    assert float(one.one("slider").input_value()) > 25
    one.tool("brush")
    playwright.expect(one.page.locator(".before")).to_be_hidden()
    assert not one.one("mask-save").is_enabled()  # That drag painted nothing.
    one.one("original").hover()
    one.page.mouse.down()
    playwright.expect(one.page.locator(".before")).to_be_visible()
    one.page.mouse.up()
    playwright.expect(one.page.locator(".before")).to_be_hidden()
    one.one("undo").click()  # All of the original, which was compared until now, is shown.
    assert one.page.locator("#pictures img").evaluate(clip) == "none"


@pytest.mark.parametrize("kind", ["tif", "heic"])
def test_what_browsers_cannot_show_is_shown_by_the_service(visit, tmp_path, weights, kind):
    if kind == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    one = visit()
    path = photograph(tmp_path / f"a.{kind}")
    one.open(path, "240 x 180")
    one.drag((0.3, 0.3), (0.5, 0.5))
    one.mask(tmp_path / "mask.png")
    name, filled = one.fill()
    assert name == f"a_completed.{kind}"
    assert filled == completed(path, tmp_path / "mask.png", weights, "--drop-exif")


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_turned_photograph_is_painted_upright(visit, tmp_path, weights, kind):
    one = visit()
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by a right angle.
    path = photograph(tmp_path / f"a.{kind}", exif=exif)
    one.open(path, "180 x 240")
    one.drag((0.2, 0.1), (0.8, 0.1))
    hole = one.mask(tmp_path / "mask.png")
    assert hole.shape == (240, 180)
    assert hole[24, 60:120].all()
    assert one.fill()[1] == completed(path, tmp_path / "mask.png", weights, "--drop-exif")


def test_example_takes_one_click(visit):
    one = visit()
    one.page.get_by_role("button", name="Example: cat").click()
    one.says("Done in")
    assert one.saved("download")[0] == "chelsea_completed.png"
    assert "the hole covers" in one.one("notes").inner_text()
    one.one("undo").click()
    rows, columns = np.nonzero(one.mask())
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (214, 237, 178, 199)


def test_files_are_dropped_and_pasted(visit, tmp_path):
    one = visit()
    for kind, width in {"drop": 60, "paste": 70}.items():
        content = photograph(tmp_path / f"{kind}.png", width, 50).read_bytes()
        one.take(kind, f"{kind}.png", content)
        one.says(f"{width} x 50 pixels")
    one.one("undo").click()  # The photograph before it.
    one.drag((0.5, 0.5))
    assert one.mask().shape == (50, 60)


def test_wrong_file_is_reported_and_nothing_is_lost(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png"))
    one.one("fill").click()
    one.says("Nothing is painted", "fill-error")
    one.drag((0.5, 0.5), (0.6, 0.5))
    hole = one.mask()
    (tmp_path / "letter.txt").write_bytes(b"Dear Sir")
    with one.refused(415):
        one.page.set_input_files("#open-file", tmp_path / "letter.txt")
        one.says("cannot be read as an image", "photograph-error")
    np.testing.assert_array_equal(one.mask(), hole)
    assert one.fill()[0] == "a_completed.png"
    Image.new("1", (5000, 5000)).save(tmp_path / "huge.png")
    one.page.set_input_files("#open-file", tmp_path / "huge.png")
    one.says("25,000,000 pixels: at most 13,000,000", "photograph-error")
    (tmp_path / "long.png").write_bytes((tmp_path / "a.png").read_bytes() + bytes(8_000_000))
    one.page.set_input_files("#open-file", tmp_path / "long.png")
    one.says("at most 8,000,000", "photograph-error")
    assert one.saved("download")[0] == "a_completed.png"


def test_result_may_be_larger_than_what_is_accepted(visit, tmp_path):
    one = visit()
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=30)
    one.open(tmp_path / "a.jpg")
    one.page.get_by_text("Options", exact=True).click()
    one.page.get_by_label("Format of the result").select_option("png")
    one.drag((0.5, 0.5))
    name, filled = one.fill()
    assert name == "a_completed.png"
    assert len(filled) > 8_000_000
    one.drag((0.2, 0.2))
    with one.refused(413):
        one.one("fill").click()
        one.says("a file may have at most 8,000,000 bytes", "photograph-error")


def test_place_in_the_queue_is_shown_and_a_fill_can_be_cancelled(visit, tmp_path):
    one, other = visit(), visit()
    one.open(photograph(tmp_path / "a.png"))
    one.drag((0.5, 0.5), (0.6, 0.5))
    hole = one.mask()
    other.open(photograph(tmp_path / "large.png", 3000, 2000))
    dots = np.zeros((2000, 3000), bool)
    dots[::250, ::250] = True  # Each in a window of its own.
    Image.fromarray(dots).save(tmp_path / "dots.png")
    other.page.set_input_files("#mask-file", tmp_path / "dots.png")
    playwright.expect(other.one("mask-save")).to_be_enabled()
    other.one("more").click()
    other.page.get_by_label("What the network sees").select_option("crop")
    other.one("fill").click()
    other.says("Filling, window")
    one.one("fill").click()
    one.says("Queued at place 1")
    assert one.one("undo").is_disabled()
    one.page.wait_for_timeout(600)  # Before, a click would be the second of two on Fill.
    one.one("cancel").click()
    one.says("Cancelled")
    np.testing.assert_array_equal(one.mask(), hole)
    other.one("stage").focus()
    other.page.keyboard.press("Escape")
    other.says("Cancelled")
    one.fill()


def test_page_works_on_a_phone(visit, tmp_path):
    one = visit(width=390, height=844, has_touch=True, is_mobile=True, device_scale_factor=3)
    one.page.set_viewport_size({"width": 320, "height": 640})
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 320
    one.page.set_viewport_size({"width": 390, "height": 844})
    one.open(photograph(tmp_path / "a.png", 1200, 800))
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 390
    for button in one.page.locator("#bar button:visible").all():
        box = button.bounding_box()
        assert box["height"] >= 44
        assert box["width"] >= 40
        assert box["y"] > 400
        assert box["y"] + box["height"] <= 844
    cdp = one.context.new_cdp_session(one.page)

    def touch(kind, *points):
        fingers = [
            dict(zip("xy", one.place(*point), strict=True), id=finger) for finger, point in enumerate(points)
        ]
        cdp.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    touch("touchStart", (0.4, 0.5))
    touch("touchMove", (0.45, 0.5))
    touch("touchEnd")
    hole = one.mask()
    assert hole[400, 480:540].all()
    fitted = one.one("pictures").bounding_box()
    # The first finger has painted a little when the second comes.
    touch("touchStart", (0.4, 0.7))
    touch("touchMove", (0.42, 0.7))
    touch("touchStart", (0.42, 0.7), (0.6, 0.7))
    touch("touchMove", (0.3, 0.7), (0.8, 0.7))
    touch("touchEnd")
    assert one.one("pictures").bounding_box()["width"] > 1.5 * fitted["width"]
    np.testing.assert_array_equal(one.mask(), hole)
    assert pixels(one.fill()[1]).shape == (800, 1200, 3)


@pytest.mark.parametrize("size", [(1280, 800), (900, 700), (844, 390)])
def test_all_tools_are_in_sight_on_wider_screens(visit, size):
    width, height = size
    one = visit(width=width, height=height)
    for button in one.page.locator("header button, #bar button:visible").all():
        box = button.bounding_box()
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height
        on_top = (
            "(one) => { const box = one.getBoundingClientRect(); return one.contains("
            "document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2)); }"
        )
        assert button.evaluate(on_top)


def test_page_works_with_the_keyboard_alone(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png"))
    keyboard = one.page.keyboard
    for _ in range(40):
        keyboard.press("Tab")
        if one.page.evaluate("document.activeElement.id") == "stage":
            break
    keyboard.press("ArrowLeft")
    keyboard.press("Space")
    for _ in range(8):
        keyboard.press("ArrowRight")
    keyboard.press("Space")
    keyboard.press("ArrowDown")
    hole = one.mask()
    assert hole[90, 118:130].all()
    assert not hole[[60, 120]].any()
    one.one("stage").focus()
    keyboard.press("Control+z")
    assert not one.one("mask-save").is_enabled()
    keyboard.press("Control+y")
    keyboard.press("Enter")
    one.says("Done in")
    with one.page.expect_download():
        keyboard.press("Control+s")


def test_every_control_is_reached_by_tab_and_has_a_name(visit, tmp_path):
    one = visit()
    one.open(photograph(tmp_path / "a.png"))
    one.drag((0.5, 0.5))
    one.page.evaluate("document.querySelectorAll('details').forEach((fold) => (fold.open = true))")
    controls = "button, input, select, summary, [tabindex='0']"
    number = (
        "(what) => [...document.querySelectorAll(what)].filter((one) => one.checkVisibility() && !one.disabled)"
        ".map((one, index) => (one.dataset.number = index)).length"
    )
    count = one.page.evaluate(number, controls)
    assert count > 30
    reached = set()
    one.page.evaluate("document.activeElement.blur()")
    for _ in range(count + 2):
        one.page.keyboard.press("Tab")
        reached.add(one.page.evaluate("document.activeElement.dataset.number"))
    assert {str(index) for index in range(count)} <= reached
    for control in one.page.locator("button:visible, input:visible, select:visible").all():
        name = "(one) => one.ariaLabel || one.textContent.trim() || one.labels?.[0]?.textContent.trim()"
        assert control.evaluate(name), control.evaluate("(one) => one.outerHTML")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(visit, tmp_path, scheme):
    one = visit(color_scheme=scheme)
    texts = one.page.evaluate(CONTRASTS)
    one.page.evaluate("document.querySelectorAll('details').forEach((fold) => (fold.open = true))")
    one.open(photograph(tmp_path / "a.png"))
    one.one("fill").click()
    one.says("Nothing is painted", "fill-error")
    one.drag((0.5, 0.5))
    texts += one.page.evaluate(CONTRASTS)
    one.fill()
    one.one("compare").click()
    texts += one.page.evaluate(CONTRASTS)
    assert len(texts) > 60
    for text, colour, ground in texts:
        assert (colour[3], ground[3] if len(ground) > 3 else 1) == (1, 1), text
        assert contrast(colour, ground) >= 4.5, text


def test_page_works_below_a_path_of_a_proxy(visit):
    one = visit(path="/fill/")
    one.page.get_by_role("button", name="Example: cat").click()
    one.says("Done in")


def test_page_names_the_weights_and_their_limits(visit, weights):
    text = visit().page.locator("aside").inner_text()
    assert "holes of up to 16 px" in text
    assert weights.name in visit().one("weights").inner_text()


def test_work_survives_the_end_of_the_service(visit, tmp_path, service):
    one = visit()
    one.open(photograph(tmp_path / "a.png"))
    one.drag((0.3, 0.5), (0.4, 0.5))
    one.fill()
    one.drag((0.6, 0.5), (0.7, 0.5))
    hole = one.mask()
    service.kill()
    with one.refused(0):
        one.one("fill").click()
        one.says("cannot be reached", "fill-error")
    np.testing.assert_array_equal(one.mask(), hole)
    service.start()
    one.page.get_by_role("button", name="Try again").click()
    one.says("Done in")
    assert one.saved("download")[0] == "a_completed.png"
    one.one("undo").click()
    np.testing.assert_array_equal(one.mask(), hole)


def test_example_photographs_are_those_of_the_page(service):
    folder = importlib.util.find_spec("skimage").submodule_search_locations[0]
    for name in ("astronaut.png", "coffee.png", "chelsea.png"):
        with open(f"{folder}/data/{name}", "rb") as file:
            assert httpx.get(f"{service.url}/examples/{name}").content == file.read()
