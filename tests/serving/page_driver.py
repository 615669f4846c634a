"""Drives the page of the service in a browser."""

import base64
import contextlib
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Locator, expect

SECONDS = 60_000
# Until the service has heard of a request it does not know its number.
_NOT_YET_KNOWN = re.compile(r"/v1/requests/[a-f0-9]+$")
_TAKES = """([name, type, kind, content]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const options = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(kind === "drop" ?
    new DragEvent(type, { ...options, dataTransfer: transfer }) :
    new ClipboardEvent(type, { ...options, clipboardData: transfer }));
}"""


class Visit:
    """A page that is open, and what went wrong on it.

    Args:
      browser: Playwright's browser.
      url: The service's address.
      path: Where a proxy would serve the page.
      width, height: Of the window.
      **context: Passed on to `new_context`.

    Attributes:
      page: Playwright's page.
      errors: Errors and broken policies, as the browser reports them; requests to other hosts.
    """

    def __init__(self, browser: Browser, url: str, path="/", width=1200, height=800, **context):
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True, **context
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(SECONDS)
        self.errors: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        if path != "/":  # As a proxy in front of the service has it.
            remove = f"{url}{path}"
            self.page.route(
                f"{remove}**", lambda route: route.continue_(url=route.request.url.replace(remove, f"{url}/"))
            )
        self.page.on("request", lambda request: self._request(request.url, f"{url}{path}"))
        self.page.goto(f"{url}{path}")
        expect(self.page.locator("#weights")).to_be_enabled(timeout=SECONDS)

    def _console(self, message) -> None:
        if message.type in ("error", "warning") and not _NOT_YET_KNOWN.search(message.location["url"]):
            self.errors.append(f"{message.text} {message.location['url']}")

    def _request(self, asked: str, own: str) -> None:
        if not asked.startswith((own, "blob:")):
            self.errors.append(f"asked elsewhere: {asked}")

    def one(self, name: str) -> Locator:
        """The element with an id."""
        return self.page.locator(f"#{name}")

    def says(self, text: str, name="status") -> None:
        """Waits until a text is shown."""
        expect(self.one(name)).to_contain_text(text, timeout=SECONDS)

    def open(self, path: Path, size: str | None = None) -> None:
        if size is None:
            with Image.open(path) as image:
                size = f"{image.width} x {image.height}"
        self.page.set_input_files("#open-file", path)
        self.says(f"{size} pixels")

    def take(self, kind: str, name: str, content: bytes) -> None:
        """Drops or pastes a file."""
        arguments = [name, kind, kind, base64.b64encode(content).decode()]
        self.page.evaluate(_TAKES, arguments)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A part of the photograph, (0, 0) to (1, 1), in the window."""
        box = self.one("pictures").bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def drag(self, *points: tuple[float, float], steps=6, button="left") -> None:
        """Drags along points in parts of the photograph."""
        places = [self.place(*point) for point in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down(button=button)
        for place in places[1:] or places:
            self.page.mouse.move(*place, steps=steps)
        self.page.mouse.up(button=button)

    def tool(self, name: str) -> None:
        self.page.locator(f"[data-tool={name}]").click()

    def saved(self, name: str) -> tuple[str, bytes]:
        """What a button downloads: a file's name and content."""
        with self.page.expect_download() as waiting:
            self.one(name).click()
        self.page.evaluate("scrollTo(0, 0)")  # On a phone, some buttons lie below.
        return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()

    def mask(self, path: Path | None = None) -> np.ndarray:
        """The painted area, [H, W] bool, as it is downloaded; also into a file."""
        content = self.saved("mask-save")[1]
        if path is not None:
            path.write_bytes(content)
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        assert set(np.unique(pixels)) <= {0, 255}
        return pixels == 255

    def fill(self) -> tuple[str, bytes]:
        """Fills, and downloads the result."""
        self.one("fill").click()
        self.says("Done in")
        return self.saved("download")

    @contextlib.contextmanager
    def refused(self, status: int):
        """Expects the browser to report answers of a status."""
        before = len(self.errors)
        yield
        reported = self.errors[before:]
        assert reported
        assert all(re.search(rf"\b{status}\b|ERR_CONNECTION_REFUSED", text) for text in reported), reported
        del self.errors[before:]

    def close(self) -> None:
        self.context.close()


CONTRASTS = """() => {
  const rgba = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility({ checkVisibilityCSS: true })) continue;
    const [r, g, b, alpha = 1] = rgba(getComputedStyle(element).color);
    let behind = element, ground;
    do {
      ground = rgba(getComputedStyle(behind).backgroundColor);
      behind = behind.parentElement;
    } while (behind && ground[3] === 0);
    found.push([walker.currentNode.data.trim().slice(0, 40), [r, g, b, alpha], ground]);
  }
  return found;
}"""


def contrast(one, other) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour):
        parts = [part / 255 for part in colour[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)
