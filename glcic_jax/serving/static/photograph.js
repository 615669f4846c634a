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
};
const BEGINNING = 1 << 16; // Bytes that tell how a file can be shown.

/**
 * @typedef {object} Photograph
 * @property {Blob} blob The file, as it came.
 * @property {string} name Its name.
 * @property {number} width Of the upright photograph, in pixels.
 * @property {number} height
 * @property {HTMLImageElement} image Shows it, perhaps at another size.
 */

/**
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<Photograph>}
 */
export async function openPhotograph(file, name) {
  // Read now, because a file on the disk may be gone when it is sent.
  const bytes = await file.arrayBuffer();
  const blob = new Blob([bytes], { type: file.type });
  const image = await shownByBrowser(blob, new Uint8Array(bytes, 0, Math.min(BEGINNING, bytes.byteLength)));
  if (image) {
    const photograph = { blob, name, image, width: image.naturalWidth, height: image.naturalHeight };
    await requireWithinLimits(photograph);
    return photograph;
  }
  const shown = await preview(blob);
  return { blob, name, image: await decoded(shown.blob), width: shown.width, height: shown.height };
}

async function shownByBrowser(blob, beginning) {
  if (!isShownByBrowsers(beginning)) return null;
  try {
    return await decoded(blob);
  } catch {
    return null; // The service may read more, or say what is wrong.
  }
}

/** Refuses before it is painted on what the service would refuse afterwards; if that can be reached. */
async function requireWithinLimits({ blob, width, height }) {
  const most = await limits().catch(() => null);
  if (!most) return;
  const refuse = (has, unit, limit) => {
    const [shown, allowed] = [has, limit].map((number) => number.toLocaleString("en"));
    throw new Refused(`This photograph has ${shown} ${unit}: at most ${allowed} are read.`, 413);
  };
  if (width * height > most.max_pixels) refuse(width * height, "pixels", most.max_pixels);
  if (blob.size > most.max_bytes) refuse(blob.size, "bytes", most.max_bytes);
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

/** Whether all browsers show a file as the service reads it: not all turn a PNG or a WebP by its EXIF block. */
function isShownByBrowsers(bytes) {
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  if (text.startsWith("\xff\xd8\xff")) return true;
  if (text.startsWith("\x89PNG")) return !text.includes("eXIf");
  if (text.startsWith("RIFF") && text.slice(8, 12) === "WEBP") {
    return !(text.slice(12, 16) === "VP8X" && bytes[20] & 8);
  }
  return text.startsWith("GIF8") || text.startsWith("BM");
}
