// Shows the photograph and what is painted on it, at any zoom.

const MOST_ZOOM = 40; // Screen pixels for one of the photograph.
const MARGIN = 12; // Around a photograph that is fitted, in CSS pixels.
const MOST_PIXELS = 2.5e6; // Of the painted layer.
const TINT = [0xff, 0x1f, 0x7a];
const OPACITY = 0.58;

export class View {
  #context;
  #data = null; // Of the painted layer.
  #dirty = null; // [left, top, right, bottom] in the photograph's pixels.
  #waiting = 0;
  #fitted = true;
  #bounds = { left: 0, top: 0, width: 0, height: 0 };

  /**
   * @param {HTMLElement} stage Contains the other two.
   * @param {HTMLElement} pictures Where the photograph's image goes.
   * @param {HTMLCanvasElement} layer Where the mask is drawn.
   */
  constructor(stage, pictures, layer) {
    this.stage = stage;
    this.pictures = pictures;
    this.layer = layer;
    this.#context = layer.getContext("2d");
    this.mask = null;
    this.scale = 1; // CSS pixels for one of the photograph.
    this.x = 0; // Where the photograph begins on the stage, in CSS pixels.
    this.y = 0;
    /** Called after the photograph has moved or changed its size on the screen. */
    this.onMove = () => {};
    new ResizeObserver(() => this.#resized()).observe(stage);
    addEventListener("scroll", () => this.#measure(), { passive: true, capture: true });
  }

  /** Shows a photograph with its mask; keeps the zoom if the size is the same. */
  show(photograph, original, mask) {
    const same = this.mask && this.mask.width === mask.width && this.mask.height === mask.height;
    this.mask = mask;
    mask.onChange = (...bounds) => this.#changed(bounds);
    this.pictures.replaceChildren(photograph.image, ...(original === photograph ? [] : [original.image]));
    original.image.className = "before";
    photograph.image.className = "after"; // It may be the original's.
    if (same) this.#moved();
    else this.fit();
  }

  /** The zoom: screen pixels for one of the photograph. */
  get zoom() {
    return this.scale * devicePixelRatio;
  }

  /** Converts a place in the window to the photograph's pixels. */
  toPhotograph(clientX, clientY) {
    const { left, top } = this.#bounds;
    return [(clientX - left - this.x) / this.scale, (clientY - top - this.y) / this.scale];
  }

  /** Converts the photograph's pixels to a place on the stage. */
  toStage([x, y]) {
    return [this.x + x * this.scale, this.y + y * this.scale];
  }

  /** The stage's middle, in the window. */
  get middle() {
    const { left, top, width, height } = this.#bounds;
    return [left + width / 2, top + height / 2];
  }

  fit() {
    this.#measure();
    const { width, height } = this.#bounds;
    this.scale = Math.min(this.#fitting(), MOST_ZOOM / devicePixelRatio);
    this.x = (width - this.mask.width * this.scale) / 2;
    this.y = (height - this.mask.height * this.scale) / 2;
    this.#fitted = true;
    this.#moved();
  }

  /** Changes the zoom around a place in the window. */
  zoomBy(factor, clientX, clientY) {
    const [x, y] = this.toPhotograph(clientX, clientY);
    const least = Math.min(this.#fitting(), 1) / 4;
    this.scale = Math.max(least, Math.min(MOST_ZOOM / devicePixelRatio, this.scale * factor));
    const { left, top } = this.#bounds;
    this.x = clientX - left - x * this.scale;
    this.y = clientY - top - y * this.scale;
    this.#fitted = false;
    this.#moved();
  }

  panBy(x, y) {
    this.x += x;
    this.y += y;
    this.#fitted = false;
    this.#moved();
  }

  /** Pans so far that a place of the photograph can be seen. */
  reveal(point) {
    const [x, y] = this.toStage(point);
    const { width, height } = this.#bounds;
    const edge = Math.min(40, width / 4, height / 4);
    const by = (at, length) => (at < edge ? edge - at : at > length - edge ? length - edge - at : 0);
    if (by(x, width) || by(y, height)) this.panBy(by(x, width), by(y, height));
  }

  #fitting() {
    const { width, height } = this.#bounds;
    return Math.max(1e-3, Math.min((width - 2 * MARGIN) / this.mask.width, (height - 2 * MARGIN) / this.mask.height));
  }

  #measure() {
    const { left, top, width, height } = this.stage.getBoundingClientRect();
    this.#bounds = { left, top, width, height };
  }

  #resized() {
    const before = this.#bounds;
    this.#measure();
    if (!this.mask) return;
    if (this.#fitted) this.fit();
    else this.panBy((this.#bounds.width - before.width) / 2, (this.#bounds.height - before.height) / 2);
  }

  #moved() {
    this.#keepInSight();
    const { style } = this.pictures;
    style.width = `${this.mask.width * this.scale}px`;
    style.height = `${this.mask.height * this.scale}px`;
    style.transform = `translate(${this.x}px, ${this.y}px)`;
    // A small photograph that is fitted is smooth; its pixels are shown to whom zooms in.
    this.pictures.classList.toggle("pixels", this.zoom >= 3 && !this.#fitted);
    this.#changed([-Infinity, -Infinity, Infinity, Infinity]); // What it has left is to be cleared, too.
    this.onMove();
  }

  #keepInSight() {
    const { width, height } = this.#bounds;
    const kept = (at, length, size) => {
      const least = Math.min(60, size / 3);
      return Math.min(Math.max(at, least - length), size - least);
    };
    this.x = kept(this.x, this.mask.width * this.scale, width);
    this.y = kept(this.y, this.mask.height * this.scale, height);
  }

  #changed(bounds) {
    // A thin line marks the whole pixels that it crosses.
    const [left, top, right, bottom] = bounds.map((at, side) => at + (side < 2 ? -1 : 1));
    const old = this.#dirty ?? [left, top, right, bottom];
    this.#dirty = [Math.min(left, old[0]), Math.min(top, old[1]), Math.max(right, old[2]), Math.max(bottom, old[3])];
    this.#waiting ||= requestAnimationFrame(() => {
      this.#waiting = 0;
      this.#draw();
    });
  }

  #draw() {
    const { width, height } = this.#bounds;
    if (!width || !height || !this.mask) return;
    const ratio = Math.min(devicePixelRatio, Math.sqrt(MOST_PIXELS / (width * height)));
    const [columns, rows] = [Math.ceil(width * ratio), Math.ceil(height * ratio)];
    if (!this.#data || this.#data.width !== columns || this.#data.height !== rows) {
      this.layer.width = columns;
      this.layer.height = rows;
      this.#data = new ImageData(columns, rows);
    }
    const scale = this.scale * ratio;
    const [x, y] = [this.x * ratio, this.y * ratio];
    const left = Math.max(0, Math.floor(x + this.#dirty[0] * scale) - 1);
    const top = Math.max(0, Math.floor(y + this.#dirty[1] * scale) - 1);
    const right = Math.min(columns, Math.ceil(x + this.#dirty[2] * scale) + 1);
    const bottom = Math.min(rows, Math.ceil(y + this.#dirty[3] * scale) + 1);
    this.#dirty = null;
    if (left >= right || top >= bottom) return;
    this.#sample(left, top, right, bottom, x, y, scale);
    this.#context.putImageData(this.#data, 0, 0, left, top, right - left, bottom - top);
  }

  /** Computes the layer's pixels in a rectangle, each from four places in the photograph. */
  #sample(left, top, right, bottom, x, y, scale) {
    const { pixels, width, height } = this.mask;
    const columns = this.#data.width;
    const words = new Uint32Array(this.#data.data.buffer);
    const from = Math.min(right, Math.max(left, Math.ceil(x)));
    const to = Math.max(from, Math.min(right, Math.floor(x + width * scale)));
    const inside = (value, size) => Math.max(0, Math.min(size - 1, Math.floor(value)));
    const at = (offset) =>
      Int32Array.from({ length: to - from }, (_, index) => inside((from + index + offset - x) / scale, width));
    const [first, second] = [at(0.25), at(0.75)];
    for (let row = top; row < bottom; row++) {
      const line = row * columns;
      words.fill(0, line + left, line + right);
      const place = (row + 0.5 - y) / scale;
      if (place < 0 || place >= height) continue;
      const one = inside((row + 0.25 - y) / scale, height) * width;
      const other = inside((row + 0.75 - y) / scale, height) * width;
      for (let column = from, index = 0; column < to; column++, index++) {
        const near = first[index];
        const far = second[index];
        const painted = pixels[one + near] + pixels[one + far] + pixels[other + near] + pixels[other + far];
        words[line + column] = SHADES[painted];
      }
    }
  }
}

/** The tint by how many of four pixels are painted, as the words of an ImageData. */
const SHADES = new Uint32Array(
  Uint8Array.from([0, 1, 2, 3, 4].flatMap((count) => [...TINT, Math.round((255 * OPACITY * count) / 4)])).buffer,
);
