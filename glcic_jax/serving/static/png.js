// Writes a mask as a grey PNG, band by band, so that it is never there a second time in full.

const ROWS = 128;

/**
 * @param {import("./mask.js").Mask} mask
 * @returns {Promise<Blob>} White where the mask is 1.
 */
export async function maskToPng(mask) {
  const { width, height } = mask;
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8); // Bits of a pixel; grey.
  const data = await deflated(width, height, mask.pixels);
  const signature = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  const chunks = [chunk("IHDR", new Uint8Array(header.buffer)), chunk("IDAT", data), chunk("IEND", new Uint8Array())];
  return new Blob([signature, ...chunks.flat()], { type: "image/png" });
}

async function deflated(width, height, pixels) {
  const stream = new CompressionStream("deflate");
  const bytes = new Response(stream.readable).arrayBuffer();
  const writer = stream.writable.getWriter();
  for (let top = 0; top < height; top += ROWS) {
    await writer.ready;
    await writer.write(band(width, pixels, top, Math.min(height, top + ROWS)));
    await breath();
  }
  await writer.close();
  return new Uint8Array(await bytes);
}

function band(width, pixels, top, bottom) {
  const bytes = new Uint8Array((width + 1) * (bottom - top));
  for (let row = top, to = 0; row < bottom; row++) {
    bytes[to++] = 0; // No filter.
    for (let index = row * width; index < (row + 1) * width; index++) bytes[to++] = pixels[index] && 255;
  }
  return bytes;
}

function chunk(name, data) {
  const type = new TextEncoder().encode(name);
  return [fourBytes(data.length), type, data, fourBytes(checksum(type, data))];
}

function fourBytes(value) {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value);
  return new Uint8Array(view.buffer);
}

const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function checksum(...parts) {
  let crc = 0xffffffff;
  for (const part of parts) for (const byte of part) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** Lets the browser answer its user between two pieces of long work. */
export function breath() {
  return new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
}
