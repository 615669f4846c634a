// What was done, so that it can be undone and redone.

const MOST_BYTES = 256 << 20;

/**
 * @typedef {object} Step
 * @property {string} name What was done, for people.
 * @property {number} bytes Memory that the step takes, about.
 * @property {() => void} undo
 * @property {() => void} redo
 */

export class Steps {
  #done = [];
  #undone = [];

  constructor(onChange) {
    this.onChange = onChange;
  }

  /** @returns {Step | undefined} What `undo` would take back. */
  get last() {
    return this.#done.at(-1);
  }

  /** @returns {Step | undefined} What `redo` would do again. */
  get next() {
    return this.#undone.at(-1);
  }

  /** Adds a step that has been done; the oldest are forgotten when they take too much memory. */
  add(step) {
    this.#done.push(step);
    this.#undone = [];
    let bytes = this.#done.reduce((sum, one) => sum + one.bytes, 0);
    while (bytes > MOST_BYTES && this.#done.length > 1) bytes -= this.#done.shift().bytes;
    this.onChange();
  }

  undo() {
    const step = this.#done.pop();
    if (!step) return;
    step.undo();
    this.#undone.push(step);
    this.onChange();
  }

  redo() {
    const step = this.#undone.pop();
    if (!step) return;
    step.redo();
    this.#done.push(step);
    this.onChange();
  }
}
