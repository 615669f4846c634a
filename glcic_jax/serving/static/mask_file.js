// Reads a mask from a file, as the service does: 128 of 255 and brighter is white, transparency is black.

import { breath } from "./png.js";

const ROWS = 64;
const WHITE = 128 - 0.001;

/**
 * @param {Blob} file
 * @param {{width: number, height: number}} target The photograph's size.
 * @param {{invert: boolean, stretch: boolean}} options Whether black is the hole; whether any shape of mask will do.
 * @returns {Promise<Uint8Array>} One byte a pixel of the photograph: 1 is the hole.
 */
export async function readMaskFile(file, target, { invert, stretch }) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error("This mask cannot be read here: save it as a PNG.");
  }
  try {
    const own = { width: bitmap.width, height: bitmap.height };
    if (!stretch && !sameAspect(own, target)) {
      throw new Error(
        `The mask is ${own.width} x ${own.height} pixels, the photograph ${target.width} x ${target.height}: ` +
          "make a mask of the photograph's shape, or tick 'Stretch a mask of another shape'.",
      );
    }
    const white = await whitePixels(bitmap, invert);
    return own.width === target.width && own.height === target.height ? white : resized(white, own, target);
  } finally {
    bitmap.close();
  }
}

async function whitePixels(bitmap, invert) {
  const { width, height } = bitmap;
  const grey = new Uint8Array(width * height);
  const canvas = new OffscreenCanvas(width, Math.min(ROWS, height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let largest = 0;
  for (let top = 0; top < height; top += ROWS) {
    const rows = Math.min(ROWS, height - top);
    context.clearRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, top, width, rows, 0, 0, width, rows);
    const { data } = context.getImageData(0, 0, width, rows);
    for (let from = 0, to = top * width; from < data.length; from += 4, to++) {
      const value = (0.299 * data[from] + 0.587 * data[from + 1] + 0.114 * data[from + 2]) * (data[from + 3] / 255);
      grey[to] = value >= WHITE ? 255 : value >= 0.999 ? 1 : 0;
      largest = Math.max(largest, value);
    }
    await breath();
  }
  const threshold = largest <= 1.001 ? 1 : 255; // Some programs write masks of zeros and ones.
  for (let index = 0; index < grey.length; index++) grey[index] = (grey[index] >= threshold) !== invert ? 1 : 0;
  return grey;
}

/** Whether two sizes have one aspect ratio, up to the rounding of the larger one to whole pixels. */
function sameAspect(one, other) {
  const larger = one.width * one.height > other.width * other.height ? one : other;
  return Math.abs(one.width * other.height - one.height * other.width) <= Math.max(larger.width, larger.height);
}

function resized(pixels, own, target) {
  const made = new Uint8Array(target.width * target.height);
  const columns = Int32Array.from({ length: target.width }, (_, x) => ((x + 0.5) * own.width) / target.width);
  for (let row = 0, to = 0; row < target.height; row++) {
    const from = Math.floor(((row + 0.5) * own.height) / target.height) * own.width;
    for (let x = 0; x < target.width; x++) made[to++] = pixels[from + columns[x]];
  }
  return made;
}
