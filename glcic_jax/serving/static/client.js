// Calls the service. All addresses are relative, because a proxy may serve the page below a path.

const POLL_MILLISECONDS = 400;
const LIMITS_MILLISECONDS = 500; // While the service loads, it would be seconds.
const UNREACHABLE = "The service cannot be reached, or broke off. Nothing is lost: try again.";
const RETRYABLE = [0, 408, 429, 500, 502, 503, 504];

/** An answer that is no success. */
export class Refused extends Error {
  /**
   * @param {string} message For people.
   * @param {number} status The HTTP status; 0 if there was no answer.
   */
  constructor(message, status) {
    super(message);
    this.status = status;
    this.retryable = RETRYABLE.includes(status);
  }
}

/**
 * @returns {Promise<Array<{name: string, default: boolean, origin: string, licence: string, limits: string,
 *   hole_sides: number[]}>>} The weights that may be chosen, the default first.
 */
export async function listWeights() {
  return await asked("v1/weights", {}, (response) => response.json());
}

/** @returns {Promise<{max_bytes: number, max_pixels: number} | null>} What the service accepts, if it answers soon. */
export async function limits() {
  const init = { signal: AbortSignal.timeout(LIMITS_MILLISECONDS) };
  return await asked("v1/limits", init, (response) => response.json()).catch(() => null);
}

/**
 * Has a hole filled.
 * @param {Blob} image
 * @param {Blob} mask
 * @param {Object<string, string>} options As the endpoint names them.
 * @param {AbortSignal} signal Aborted to cancel.
 * @param {(progress: {state: string, place: number, windows_done: number, windows: number, note: string}) => void}
 *   onProgress
 * @returns {Promise<{blob: Blob, notes: string[], weights: string}>}
 */
export async function complete(image, mask, options, signal, onProgress) {
  const random = crypto.getRandomValues(new Uint8Array(16));
  const id = Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const ended = new AbortController();
  follow(id, ended.signal, onProgress);
  const headers = { "X-Glcic-Request": id };
  const init = { method: "POST", body: form({ image, mask }, options), signal, headers };
  try {
    return await asked("v1/complete", init, async (response) => ({
      blob: await response.blob(),
      notes: JSON.parse(response.headers.get("X-Glcic-Notes") ?? "[]"),
      weights: response.headers.get("X-Glcic-Weights") ?? "",
    }));
  } finally {
    ended.abort();
  }
}

/**
 * Has a photograph shown that the browser cannot.
 * @param {Blob} image
 * @returns {Promise<{blob: Blob, width: number, height: number}>} A picture of it, and the photograph's own size.
 */
export async function preview(image, signal) {
  return await asked("v1/preview", { method: "POST", body: form({ image }, {}), signal }, async (response) => {
    const [width, height] = response.headers.get("X-Glcic-Size").split("x").map(Number);
    return { blob: await response.blob(), width, height };
  });
}

/** Fetches an example photograph. */
export async function example(name) {
  return await asked(`examples/${name}`, {}, (response) => response.blob());
}

function form(files, options) {
  const body = new FormData();
  // Under no name of the photograph's.
  for (const [name, blob] of Object.entries(files)) body.append(name, blob, name);
  for (const [name, value] of Object.entries(options)) body.append(name, value);
  return body;
}

async function asked(path, init, read) {
  try {
    const response = await fetch(path, { credentials: "same-origin", ...init });
    if (!response.ok) throw await refusal(response);
    return await read(response);
  } catch (error) {
    if (error instanceof Refused || error.name === "AbortError") throw error;
    throw new Refused(UNREACHABLE, 0);
  }
}

async function refusal(response) {
  let detail = `The service answered ${response.status} ${response.statusText}`.trim();
  if (response.headers.get("Content-Type")?.startsWith("application/problem+json")) {
    ({ detail } = await response.json());
  }
  return new Refused(detail, response.status);
}

async function follow(id, signal, onProgress) {
  while (!signal.aborted) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MILLISECONDS));
    const progress = signal.aborted ? null : await progressOf(id, signal);
    if (progress && !signal.aborted) onProgress(progress);
  }
}

async function progressOf(id, signal) {
  try {
    const response = await fetch(`v1/requests/${id}`, { signal });
    return response.ok ? await response.json() : null;
  } catch {
    return null; // What went wrong, the answer to the request itself says.
  }
}
