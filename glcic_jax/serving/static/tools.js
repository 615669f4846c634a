// Brush, rectangle and lasso: turn a drag of the pointer, or of the keyboard's cursor, into changes of the mask.

const SVG = "http://www.w3.org/2000/svg";

export class Tools {
  #gesture = null; // {tool, value, points, moved}

  /**
   * @param {import("./view.js").View} view
   * @param {SVGElement} marks Drawn over the photograph: the brush, and the outline of an area.
   * @param {(name: string, patch: import("./mask.js").Patch) => void} onChange Called when something was painted.
   */
  constructor(view, marks, onChange) {
    this.view = view;
    this.onChange = onChange;
    this.tool = "brush"; // Or rectangle, lasso, move.
    this.erase = false;
    this.size = 40; // Of the brush, in the photograph's pixels.
    this.locked = false; // While the photograph is filled.
    this.at = null; // Where the pointer is, in the photograph's pixels.
    this.pen = false; // Whether `at` is the keyboard's cursor.
    const shapes = { ring: "circle", "ring inner": "circle", outline: "polygon", "outline inner": "polygon" };
    this.#marks = Object.entries({ ...shapes, cross: "path" }).map(([name, shape]) => {
      const made = document.createElementNS(SVG, shape);
      made.setAttribute("class", name);
      marks.append(made);
      return made;
    });
  }

  #marks;

  /** Whether something is being painted. */
  get busy() {
    return this.#gesture !== null;
  }

  start(point, opposite = false) {
    if (this.locked || !this.view.mask || this.tool === "move") return;
    this.at = point;
    this.#gesture = { tool: this.tool, value: this.erase !== opposite ? 0 : 1, points: [point] };
    if (this.tool === "brush") {
      this.view.mask.begin();
      this.#dab(point, point);
    }
    this.draw();
  }

  move(point) {
    this.at = point;
    const gesture = this.#gesture;
    if (gesture) {
      const last = gesture.points.at(-1);
      // Closer points change nothing that is seen, and there would be thousands.
      const least = gesture.tool === "brush" ? Math.max(0.25, this.size / 40) : 0.5 / this.view.scale;
      if (Math.hypot(point[0] - last[0], point[1] - last[1]) >= least) {
        if (gesture.tool === "brush") this.#dab(last, point);
        if (gesture.tool === "rectangle") gesture.points = [gesture.points[0], point];
        else gesture.points.push(point);
      }
    }
    this.draw();
  }

  end() {
    const gesture = this.#gesture;
    this.#gesture = null;
    if (!gesture) return;
    const { mask } = this.view;
    const { points, value } = gesture;
    if (gesture.tool !== "brush") {
      mask.begin();
      if (gesture.tool === "rectangle" && points.length > 1) mask.rectangle(points[0], points[1], value);
      if (gesture.tool === "lasso" && points.length > 2) mask.polygon(points, value);
    }
    const patch = mask.end();
    const names = { brush: value ? "a brush stroke" : "erasing", rectangle: "a rectangle", lasso: "a lasso" };
    if (patch) this.onChange(names[gesture.tool], patch);
    this.draw();
  }

  /** Leaves off what is being painted, and takes it back. */
  abort() {
    if (this.#gesture?.tool === "brush") this.view.mask.abort();
    this.#gesture = null;
    this.draw();
  }

  /** Moves the keyboard's cursor, by parts of the brush or by single pixels. */
  step(across, down, fine) {
    const { mask } = this.view;
    const by = fine ? 1 : Math.max(1, Math.round(this.size / 4));
    const [x, y] = this.at ?? [mask.width / 2, mask.height / 2];
    this.pen = true;
    this.move([clamp(x + across * by, mask.width), clamp(y + down * by, mask.height)]);
    this.view.reveal(this.at);
  }

  /** Puts the keyboard's brush down, or lifts it. */
  toggle() {
    if (this.busy) this.end();
    else this.start(this.at);
  }

  hide() {
    if (!this.busy) this.at = null;
    this.pen = false;
    this.draw();
  }

  /** Draws the brush in its true size, and the outline of an area. */
  draw() {
    const { view } = this;
    const [ring, inner, outline, innerOutline, cross] = this.#marks;
    const [x, y] = this.at && view.mask ? view.toStage(this.at) : [0, 0];
    const radius = Math.max(1.5, (this.size * view.scale) / 2);
    const brush = this.at && this.tool === "brush" && !this.locked;
    place(ring, brush, { cx: x, cy: y, r: radius + 0.5 });
    place(inner, brush, { cx: x, cy: y, r: Math.max(0.5, radius - 0.5) });
    const crossed = this.at && !this.locked && (this.pen || (brush && radius < 4));
    place(cross, crossed, { d: `M${x - 9} ${y}h6m6 0h6M${x} ${y - 9}v6m0 6v6` });
    const points = this.#gesture && this.#gesture.tool !== "brush" ? this.#gesture.points : null;
    const corners = points && this.#gesture.tool === "rectangle" ? rectangleOf(points) : points;
    for (const one of [outline, innerOutline]) {
      place(one, corners, { points: corners?.map((point) => view.toStage(point).join(",")).join(" ") });
    }
  }

  #dab(from, to) {
    this.view.mask.line(from, to, this.size / 2, this.#gesture.value);
  }
}

function rectangleOf(points) {
  const [[x0, y0], [x1, y1]] = [points[0], points.at(-1)].map((point) => point.map(Math.round));
  return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
}

function place(mark, shown, attributes) {
  mark.classList.toggle("shown", Boolean(shown));
  if (shown) Object.entries(attributes).forEach(([name, value]) => mark.setAttribute(name, value));
}

const clamp = (value, most) => Math.min(most, Math.max(0, value));
