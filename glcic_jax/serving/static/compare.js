// Shows the original beside the result: a slider over the photograph, or the whole of it while something is held.

const GAP = 2; // Between the line and an area, in percent.

export class Compare {
  /**
   * @param {import("./view.js").View} view
   * @param {HTMLInputElement} slider Hidden while nothing is compared.
   * @param {HTMLElement} divider The line between before and after.
   */
  constructor(view, slider, divider) {
    this.view = view;
    this.slider = slider;
    this.divider = divider;
    this.active = false;
    this.held = false;
    slider.addEventListener("input", () => this.draw());
  }

  set(active) {
    this.active = active;
    this.draw();
  }

  /** Puts the line beside an area, which then shows the result alone; or the original, at the left edge. */
  beside(left, right) {
    const [from, to] = [left, right].map((x) => (100 * x) / this.view.mask.width);
    this.slider.value = from >= 2 * GAP ? from - GAP : to + GAP;
  }

  /** Moves the line, by percent. */
  slide(by) {
    this.slider.value = this.slider.valueAsNumber + by;
    this.draw();
  }

  /** Shows the original alone while it is held. */
  hold(held) {
    this.held = held;
    this.draw();
  }

  draw() {
    const { view, slider, divider } = this;
    const share = slider.valueAsNumber / 100;
    slider.closest(".compare").hidden = divider.hidden = !this.active;
    view.stage.classList.toggle("comparing", this.active);
    view.stage.classList.toggle("held", this.held);
    view.pictures.style.setProperty("--after", `${100 - 100 * share}%`);
    if (!view.mask) return;
    const [x, y] = view.toStage([share * view.mask.width, 0]);
    divider.style.transform = `translate(${x}px, ${y}px)`;
    divider.style.height = `${view.mask.height * view.scale}px`;
  }

  // A drag on the photograph moves the slider.
  start(point) {
    this.move(point, true);
  }

  #dragging = false;

  move([x], started = false) {
    this.#dragging ||= started;
    if (!this.#dragging) return;
    this.slider.value = (100 * x) / this.view.mask.width;
    this.draw();
  }

  end() {
    this.#dragging = false;
  }

  abort() {
    this.#dragging = false;
  }

  hide() {}
}
