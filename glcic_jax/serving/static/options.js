// The form beside the photograph: which weights, and how the area is filled.

import { listWeights } from "./client.js";

const RETRY_MILLISECONDS = 3000;

export class Options {
  #weights = [];

  /** @param {HTMLFormElement} form Its fields have the endpoint's names. */
  constructor(form) {
    this.form = form;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.elements.weights.addEventListener("change", () => this.#describe());
  }

  /** Smallest and largest side of the holes that the chosen weights know, in pixels. */
  get holeSides() {
    return this.#chosen?.hole_sides ?? [16, 64];
  }

  /**
   * What is to be sent.
   * @returns {Object<string, string>} As the endpoint names them.
   */
  read() {
    const invalid = this.form.querySelector(":invalid");
    if (invalid) {
      invalid.closest("details").open = true;
      throw new Error(`${invalid.closest("label").firstChild.textContent.trim()}: ${invalid.validationMessage}`);
    }
    return Object.fromEntries([...new FormData(this.form)].filter(([, value]) => value !== ""));
  }

  /** Asks for the weights until the service tells them. */
  async load() {
    const about = document.getElementById("about");
    for (;;) {
      try {
        this.#weights = await listWeights();
        break;
      } catch (error) {
        about.textContent = error.status ? `No weights yet: ${error.message}` : "The service cannot be reached yet.";
        await new Promise((resolve) => setTimeout(resolve, RETRY_MILLISECONDS));
      }
    }
    const { weights } = this.form.elements;
    weights.replaceChildren(...this.#weights.map(({ name }) => new Option(name, name)));
    weights.disabled = false;
    this.#describe();
  }

  get #chosen() {
    return this.#weights.find(({ name }) => name === this.form.elements.weights.value);
  }

  #describe() {
    const { origin, limits, licence } = this.#chosen;
    const lines = [origin, limits, licence && `Licence: ${licence}`].filter(Boolean);
    document.getElementById("about").replaceChildren(
      ...lines.map((line) => Object.assign(document.createElement("p"), { textContent: line })),
    );
  }
}
