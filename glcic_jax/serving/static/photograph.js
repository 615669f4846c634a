// Opens photographs: keeps their bytes as they are, and finds a way to show them.

import { Refused, limits, preview } from "./client.js";

const SUFFIXES = {
  "image/jpeg": ["jpg", "jpeg", "jpe", "jfif"],
  "image/png": ["png"],
  "image/webp": ["webp"],
  "image/avif": ["avif"],
  "image/heic": ["heic", "heif"],
  "image/heif": ["heif", "heic"],
  "image/tiff": ["tif", "tiff"],
  "image/bmp": ["bmp"],
  "image/jp2": ["jp2"],
  "image/x-tga": ["tga"],
  "image/x-portable-anymap": ["ppm", "pgm", "pbm", "pnm"],
};
const BEGINNING = 1 << 16; // Bytes at either end that tell how a file can be shown.

/**
 * @typedef {object} Photograph
 * @property {Blob} blob The file, as it came.
 * @property {string} name Its name.
 * @property {number} width Of the upright photograph, in pixels.
 * @property {number} height
 * @property {HTMLImageElement} image Shows it, perhaps at another size.
 * @property {boolean} [unseen] Whether `image` shows what it was before, because it cannot be shown itself.
 */

/**
 * Opens what a person chose.
 * @param {Blob} file
 * @param {string} name
 * @param {AbortSignal} signal Aborted when it is not wanted any more.
 * @returns {Promise<Photograph>}
 */
export async function openPhotograph(file, name, signal) {
  const most = await limits();
  if (most && file.size > most.max_bytes) throw tooLarge(file.size, "bytes", most.max_bytes);
  // Read now, because a file on the disk may be gone when it is sent.
  const blob = new Blob([await file.arrayBuffer()], { type: file.type });
  const photograph = await shown(blob, name, signal);
  const pixels = photograph.width * photograph.height;
  if (most && pixels > most.max_pixels) throw tooLarge(pixels, "pixels", most.max_pixels);
  return photograph;
}

/**
 * Opens a result, which may be larger than what the service accepts.
 * @param {Blob} blob
 * @param {string} name
 * @param {Photograph} before
 * @returns {Promise<Photograph>}
 */
export async function openResult(blob, name, before) {
  try {
    return await shown(blob, name);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return { ...before, blob, name, unseen: true };
  }
}

async function shown(blob, name, signal) {
  const [beginning, end] = [blob.slice(0, BEGINNING), blob.slice(-BEGINNING)];
  const image = await shownByBrowser(blob, await bytesOf(beginning), await bytesOf(end));
  if (image) return { blob, name, image, width: image.naturalWidth, height: image.naturalHeight };
  const { blob: jpeg, width, height } = await preview(blob, signal);
  return { blob, name, image: await decoded(jpeg), width, height };
}

function tooLarge(has, unit, limit) {
  const [given, allowed] = [has, limit].map((number) => number.toLocaleString("en"));
  return new Refused(`This photograph has ${given} ${unit}: at most ${allowed} are read.`, 413);
}

const bytesOf = async (blob) => new Uint8Array(await blob.arrayBuffer());

async function shownByBrowser(blob, beginning, end) {
  if (!isShownByBrowsers(beginning, end)) return null;
  try {
    return await decoded(blob);
  } catch {
    return null; // The service may read more, or say what is wrong.
  }
}

/**
 * The name of a result.
 * @param {string} name The photograph's.
 * @param {string} type The result's media type.
 */
export function completedName(name, type) {
  const [, stem, suffix] = name.match(/^(.*?)(?:\.([^.]*))?$/s);
  const suffixes = SUFFIXES[type] ?? [type.replace(/^image\/(x-)?/, "")];
  const kept = suffixes.includes((suffix ?? "").toLowerCase()) ? suffix : suffixes[0];
  return `${stem}_completed.${kept}`;
}

/** The name of a photograph's mask. */
export const maskName = (name) => `${name.replace(/\.[^.]*$/, "")}_mask.png`;

async function decoded(blob) {
  const url = URL.createObjectURL(blob);
  try {
    const image = new Image();
    image.alt = "";
    image.draggable = false;
    image.src = url;
    await image.decode();
    return image;
  } finally {
    URL.revokeObjectURL(url);
  }
}

/**
 * Whether all browsers show a file as the service reads it. They differ in turning a PNG or a WebP by its EXIF block, and
 * show animations and JPEGs without an end, which the service refuses.
 */
function isShownByBrowsers(beginning, end) {
  const text = textOf(beginning);
  if (text.startsWith("\xff\xd8\xff")) return textOf(end).includes("\xff\xd9");
  if (text.startsWith("\x89PNG")) return !text.includes("eXIf") && !text.includes("acTL");
  if (text.startsWith("RIFF") && text.slice(8, 12) === "WEBP") {
    return !(text.slice(12, 16) === "VP8X" && beginning[20] & (ANIMATED | HAS_EXIF));
  }
  return text.startsWith("BM");
}

const [ANIMATED, HAS_EXIF] = [2, 8]; // Of a WebP's flags.
const textOf = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
