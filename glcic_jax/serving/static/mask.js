// The painted area: one byte for each pixel of the photograph, 1 where it is to be filled.

/** Pixels on each side of a block; what a change touched is kept in whole blocks. */
const BLOCK = 256;

/**
 * The blocks that a change touched, as they were before it.
 * @typedef {Map<number, 0 | 1 | Uint8Array>} Patch Block number to its one value, or to eight pixels a byte.
 */

export class Mask {
  #touched = new Map();

  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.pixels = new Uint8Array(width * height);
    this.columns = Math.ceil(width / BLOCK);
    /** Painted pixels in each block; between `begin` and `end`, as they were at `begin`. */
    this.counts = new Uint32Array(this.columns * Math.ceil(height / BLOCK));
    /** Painted pixels in all. */
    this.area = 0;
    /** Called with the bounds (left, top, right, bottom) of what changed. */
    this.onChange = () => {};
  }

  /** Starts a change: a stroke, or something larger. */
  begin() {
    this.#touched = new Map();
  }

  /**
   * Ends the change that `begin` started.
   * @returns {Patch | null} What undoes it; null if nothing is different.
   */
  end() {
    const patch = this.#touched;
    this.#touched = new Map();
    for (const [block, before] of patch) {
      const count = this.counts[block];
      this.#recount(block);
      if (this.counts[block] === count && same(before, this.#packed(block))) patch.delete(block);
    }
    return patch.size ? patch : null;
  }

  /** Ends the change that `begin` started, and takes it back. */
  abort() {
    const patch = this.end();
    if (patch) this.swap(patch);
  }

  /**
   * Puts earlier blocks back.
   * @param {Patch} patch As `end` returned it.
   * @returns {Patch} What undoes this.
   */
  swap(patch) {
    const opposite = new Map();
    for (const [block, before] of patch) {
      opposite.set(block, this.#packed(block));
      this.#unpack(block, before);
      this.#recount(block);
    }
    return opposite;
  }

  /** Paints (value 1) or erases (0) all within a distance of the line between two points, [x, y] in pixels. */
  line([x0, y0], [x1, y1], radius, value) {
    const low = [Math.min(x0, x1) - radius, Math.min(y0, y1) - radius];
    const high = [Math.max(x0, x1) + radius, Math.max(y0, y1) + radius];
    this.#keep(...low, ...high);
    // However small the brush, it marks the pixel that it is on.
    for (const [x, y] of [[x0, y0], [x1, y1]]) this.#row(Math.floor(y), Math.floor(x), Math.floor(x) + 1, value);
    const length = Math.hypot(x1 - x0, y1 - y0);
    const across = length ? [(-(y1 - y0) / length) * radius, ((x1 - x0) / length) * radius] : [0, 0];
    const sides = [
      [x0 + across[0], y0 + across[1]],
      [x1 + across[0], y1 + across[1]],
      [x1 - across[0], y1 - across[1]],
      [x0 - across[0], y0 - across[1]],
    ];
    const top = Math.max(0, Math.ceil(low[1] - 0.5));
    const bottom = Math.min(this.height - 1, Math.floor(high[1] - 0.5));
    for (let row = top; row <= bottom; row++) {
      const y = row + 0.5;
      // The shape is convex: in a row it is all between its leftmost and its rightmost point.
      let left = Infinity;
      let right = -Infinity;
      const widen = (x) => {
        left = Math.min(left, x);
        right = Math.max(right, x);
      };
      for (const [x, centre] of [[x0, y0], [x1, y1]]) {
        const half = Math.sqrt(radius * radius - (y - centre) ** 2);
        if (half >= 0) {
          widen(x - half);
          widen(x + half);
        }
      }
      if (length) crossings(sides, y).forEach(widen);
      if (left <= right) this.#row(row, Math.ceil(left - 0.5), Math.floor(right - 0.5) + 1, value);
    }
    this.onChange(...low, ...high);
  }

  /** Paints or erases a rectangle between two of its corners. */
  rectangle([x0, y0], [x1, y1], value) {
    const [left, right] = [Math.min(x0, x1), Math.max(x0, x1)].map(Math.round);
    const [top, bottom] = [Math.min(y0, y1), Math.max(y0, y1)].map(Math.round);
    this.#keep(left, top, right, bottom);
    for (let row = Math.max(0, top); row < Math.min(this.height, bottom); row++) this.#row(row, left, right, value);
    this.onChange(left, top, right, bottom);
  }

  /** Paints or erases what a closed line of points goes round. */
  polygon(points, value) {
    const xs = points.map(([x]) => x);
    const ys = points.map(([, y]) => y);
    const least = (values) => values.reduce((a, b) => Math.min(a, b));
    const most = (values) => values.reduce((a, b) => Math.max(a, b));
    const bounds = [least(xs), least(ys), most(xs), most(ys)];
    this.#keep(...bounds);
    const bottom = Math.min(this.height - 1, Math.ceil(bounds[3]));
    for (let row = Math.max(0, Math.floor(bounds[1])); row <= bottom; row++) {
      const at = crossings(points, row + 0.5).sort((a, b) => a - b);
      for (let pair = 0; pair + 1 < at.length; pair += 2) {
        this.#row(row, Math.ceil(at[pair] - 0.5), Math.ceil(at[pair + 1] - 0.5), value);
      }
    }
    this.onChange(...bounds);
  }

  clear() {
    this.#whole(() => this.pixels.fill(0));
  }

  invert() {
    this.#whole(() => {
      const { pixels } = this;
      for (let index = 0; index < pixels.length; index++) pixels[index] ^= 1;
    });
  }

  /** Takes other pixels, 0 or 1, of the same number. */
  replace(pixels) {
    this.#whole(() => this.pixels.set(pixels));
  }

  #whole(change) {
    this.#keep(0, 0, this.width, this.height);
    change();
    this.onChange(0, 0, this.width, this.height);
  }

  #row(row, from, to, value) {
    if (row < 0 || row >= this.height) return;
    const start = row * this.width;
    const [left, right] = [Math.max(0, from), Math.min(this.width, to)];
    if (left < right) this.pixels.fill(value, start + left, start + right);
  }

  #keep(left, top, right, bottom) {
    const [first, last] = [left, right].map((x) => Math.floor(Math.min(Math.max(x, 0), this.width - 1) / BLOCK));
    const [upper, lower] = [top, bottom].map((y) => Math.floor(Math.min(Math.max(y, 0), this.height - 1) / BLOCK));
    for (let row = upper; row <= lower; row++) {
      for (let block = row * this.columns + first; block <= row * this.columns + last; block++) {
        if (!this.#touched.has(block)) this.#touched.set(block, this.#packed(block));
      }
    }
  }

  /** Where the painted area begins and ends, from left to right; needs one. */
  sides() {
    const { pixels, width } = this;
    let [left, right] = [width, 0];
    for (let block = 0; block < this.counts.length; block++) {
      const [first, top, last, bottom] = this.#bounds(block);
      if (!this.counts[block] || (first >= left && last <= right)) continue;
      for (let row = top; row < bottom; row++) {
        const painted = pixels.subarray(row * width + first, row * width + last);
        const index = painted.indexOf(1);
        if (index < 0) continue;
        left = Math.min(left, first + index);
        right = Math.max(right, first + painted.lastIndexOf(1) + 1);
      }
    }
    return [left, right];
  }

  #bounds(block) {
    const left = (block % this.columns) * BLOCK;
    const top = Math.floor(block / this.columns) * BLOCK;
    return [left, top, Math.min(this.width, left + BLOCK), Math.min(this.height, top + BLOCK)];
  }

  #recount(block) {
    const { pixels, width } = this;
    const [left, top, right, bottom] = this.#bounds(block);
    let count = 0;
    for (let row = top; row < bottom; row++) {
      for (let index = row * width + left; index < row * width + right; index++) count += pixels[index];
    }
    this.area += count - this.counts[block];
    this.counts[block] = count;
  }

  /** A block for a patch; needs its count. */
  #packed(block) {
    const { pixels, width } = this;
    const [left, top, right, bottom] = this.#bounds(block);
    const count = this.counts[block];
    if (count === 0) return 0;
    if (count === (right - left) * (bottom - top)) return 1;
    const packed = new Uint8Array(((right - left) * (bottom - top) + 7) >> 3);
    let bit = 0;
    for (let row = top; row < bottom; row++) {
      for (let index = row * width + left; index < row * width + right; index++, bit++) {
        packed[bit >> 3] |= pixels[index] << (bit & 7);
      }
    }
    return packed;
  }

  #unpack(block, packed) {
    const { pixels, width } = this;
    const [left, top, right, bottom] = this.#bounds(block);
    let bit = 0;
    for (let row = top; row < bottom; row++) {
      if (typeof packed === "number") this.#row(row, left, right, packed);
      else {
        for (let index = row * width + left; index < row * width + right; index++, bit++) {
          pixels[index] = (packed[bit >> 3] >> (bit & 7)) & 1;
        }
      }
    }
    this.onChange(left, top, right, bottom);
  }
}

/** Bytes that a patch takes, about. */
export function patchBytes(patch) {
  let bytes = 0;
  for (const packed of patch.values()) bytes += 64 + (packed.length ?? 0);
  return bytes;
}

function same(one, other) {
  if (typeof one === "number" || typeof other === "number") return one === other;
  return one.every((byte, index) => byte === other[index]);
}

/** Where a closed line of points crosses a height. */
function crossings(points, y) {
  const found = [];
  let [x0, y0] = points[points.length - 1];
  for (const [x1, y1] of points) {
    if (y0 <= y !== y1 <= y) found.push(x0 + ((y - y0) / (y1 - y0)) * (x1 - x0));
    [x0, y0] = [x1, y1];
  }
  return found;
}
