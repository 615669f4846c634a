"use strict";
// Paints holes on a photograph. What is kept is what the brush did, in the photograph's own pixels: the service
// draws the mask from it (painted_holes.py), and the screen shows a reduced one.
window.glcicPainter = (() => {
  const SHORTEST_SIDE = 240; // Or what is smaller could hardly be hit.
  const TINT = "#ff1f7a";
  const OPACITY = 0.6;
  const HELP =
    "Photograph to paint on. Arrow keys move the brush, with Shift by one pixel; Space puts it down and lifts it; " +
    "[ and ] change its size; E changes between brush and eraser; Ctrl+Z and Ctrl+Y undo and redo.";

  let root, canvas, ring, size, note;
  let picture = null; // {image, width, height}
  let layer = null; // What is painted, opaque, at the size of the screen's copy.
  let done = [];
  let undone = [];
  let stroke = null;
  let opened = 0; // How many photographs were.
  let erase = false;
  let pen = null; // Where the keyboard holds the brush: {x, y, down}.
  let shown = {}; // The mask's operation that was drawn last, and its tinted canvas: each is large.

  const scale = () => canvas.width / picture.width;
  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    made.append(...children);
    return made;
  };

  function start() {
    const place = document.getElementById("glcic-painter");
    if (!place || place.firstChild) return;
    root = place;
    const button = (name, label, act) => {
      const made = element("button", { type: "button", "data-act": name, title: label }, label);
      made.addEventListener("click", act);
      return made;
    };
    size = element("input", { type: "range", min: 2, max: 200, value: 40, "aria-label": "Brush size in pixels" });
    const shown = element("output", {}, "");
    const showSize = () => {
      shown.textContent = `${size.value} px`;
      moveRing();
    };
    size.addEventListener("input", showSize);
    canvas = element("canvas", { tabindex: 0, role: "application", "aria-label": HELP, hidden: "" });
    ring = element("div", { class: "ring", hidden: "" });
    note = element("p", { role: "status" }, "Open a photograph, or choose an example.");
    root.append(
      element(
        "div",
        { class: "tools", role: "toolbar", "aria-label": "Painting" },
        button("brush", "Brush", () => choose(false)),
        button("eraser", "Eraser", () => choose(true)),
        element("label", {}, "Size ", size, " ", shown),
        button("undo", "Undo", undo),
        button("redo", "Redo", redo),
        button("clear", "Clear all", () => add({ kind: "clear" })),
      ),
      element("div", { class: "stage" }, canvas, ring),
      note,
    );
    root.showSize = showSize;
    canvas.addEventListener("pointerdown", press);
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", (event) => event.isPrimary && release());
    canvas.addEventListener("pointercancel", (event) => event.isPrimary && release());
    canvas.addEventListener("pointerleave", () => (ring.hidden = !pen));
    canvas.addEventListener("keydown", key);
    canvas.addEventListener("blur", () => {
      release();
      pen = null;
      ring.hidden = true;
    });
    choose(false);
    update();
  }

  // Shows a photograph, JSON: {preview, width, height, operations}; an empty text shows none.
  function open(text) {
    start();
    opened += text ? 0 : 1;
    done = [];
    undone = [];
    stroke = pen = picture = null;
    canvas.hidden = true;
    ring.hidden = true;
    update();
    if (!text) {
      note.textContent = "Open a photograph, or choose an example.";
      return;
    }
    const { preview, width, height, operations } = JSON.parse(text);
    const image = new Image();
    const opening = ++opened;
    image.onload = () => {
      if (opening !== opened) return; // Another was opened meanwhile.
      const factor = Math.max(image.naturalWidth / width, SHORTEST_SIDE / Math.max(width, height));
      canvas.width = Math.max(1, Math.round(width * factor));
      canvas.height = Math.max(1, Math.round(height * factor));
      layer = document.createElement("canvas");
      layer.width = canvas.width;
      layer.height = canvas.height;
      picture = { image, width, height };
      size.max = Math.max(8, Math.round(Math.max(width, height) / 4));
      size.value = Math.max(4, Math.round(Math.max(width, height) / 20));
      root.showSize();
      done = operations;
      canvas.hidden = false;
      note.textContent = `${width} x ${height} pixels. Paint over what is to vanish.`;
      redraw();
    };
    image.onerror = () => (note.textContent = "This photograph cannot be shown.");
    image.src = `gradio_api/file=${preview}`;
  }

  // Adds an operation, JSON; an empty text none.
  function apply(text) {
    if (text && picture) add(JSON.parse(text));
  }

  function add(operation) {
    if (!picture) return;
    release();
    done.push(operation);
    undone = [];
    redraw();
  }

  function undo() {
    release();
    if (done.length) undone.push(done.pop());
    redraw();
  }

  function redo() {
    release();
    if (undone.length) done.push(undone.pop());
    redraw();
  }

  function choose(eraser) {
    erase = eraser;
    root.querySelector("[data-act=brush]").setAttribute("aria-pressed", !erase);
    root.querySelector("[data-act=eraser]").setAttribute("aria-pressed", erase);
  }

  // Where what shows begins: with the last mask or clearing.
  const lastWhole = () => Math.max(0, done.findLastIndex(({ kind }) => kind === "mask" || kind === "clear"));

  // What the service needs of what was done: nothing before the last mask or clearing shows any more.
  function operations() {
    return JSON.stringify(done.slice(lastWhole()).filter(({ kind }) => kind !== "clear"));
  }

  function update() {
    const act = (name) => root.querySelector(`[data-act=${name}]`);
    act("undo").disabled = !done.length;
    act("redo").disabled = !undone.length;
    act("clear").disabled = !done.length;
  }

  function redraw() {
    update();
    if (!picture) return;
    layer.getContext("2d").clearRect(0, 0, layer.width, layer.height);
    done.slice(lastWhole()).forEach(draw);
    show();
  }

  function show() {
    const context = canvas.getContext("2d");
    context.globalAlpha = 1;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = scale() <= 1;
    context.drawImage(picture.image, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = OPACITY;
    context.drawImage(layer, 0, 0);
  }

  function draw(operation) {
    const context = layer.getContext("2d");
    const factor = scale();
    context.fillStyle = context.strokeStyle = TINT;
    if (operation.kind === "clear") {
      context.clearRect(0, 0, layer.width, layer.height);
    } else if (operation.kind === "mask") {
      drawMask(context, operation);
    } else if (operation.kind === "rectangle") {
      const { left, top, width, height } = operation;
      context.fillRect(left * factor, top * factor, width * factor, height * factor);
    } else {
      context.save();
      context.globalCompositeOperation = operation.erase ? "destination-out" : "source-over";
      context.lineWidth = operation.size * factor;
      context.lineCap = context.lineJoin = "round";
      context.beginPath();
      const [first, ...rest] = operation.points;
      context.moveTo(first[0] * factor, first[1] * factor);
      (rest.length ? rest : [first]).forEach(([x, y]) => context.lineTo(x * factor, y * factor));
      context.stroke();
      context.restore();
    }
  }

  function drawMask(context, operation) {
    context.clearRect(0, 0, layer.width, layer.height);
    if (shown.operation === operation) {
      context.drawImage(shown.mask, 0, 0);
      return;
    }
    const image = new Image();
    image.onload = () => {
      if (!done.slice(lastWhole()).includes(operation)) return;
      shown = { operation, mask: tinted(image) };
      redraw();
    };
    image.src = operation.png;
  }

  // A black and white picture with its white in the tint and its black transparent.
  function tinted(image) {
    const made = document.createElement("canvas");
    made.width = layer.width;
    made.height = layer.height;
    const context = made.getContext("2d");
    context.drawImage(image, 0, 0, made.width, made.height);
    const pixels = context.getImageData(0, 0, made.width, made.height);
    for (let index = 0; index < pixels.data.length; index += 4) pixels.data[index + 3] = pixels.data[index];
    context.putImageData(pixels, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = TINT;
    context.fillRect(0, 0, made.width, made.height);
    return made;
  }

  function place(event) {
    const bounds = canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - bounds.left) / bounds.width) * picture.width,
      y: ((event.clientY - bounds.top) / bounds.height) * picture.height,
    };
  }

  const rounded = ({ x, y }) => [Math.round(x * 100) / 100, Math.round(y * 100) / 100];

  function begin(at) {
    const begun = { kind: "stroke", size: Number(size.value), erase, points: [rounded(at)] };
    add(begun);
    stroke = begun;
  }

  function lengthen(at) {
    const [x, y] = stroke.points[stroke.points.length - 1];
    // Closer points change nothing that is seen, and there would be thousands.
    if (Math.hypot(at.x - x, at.y - y) < Math.max(0.5, stroke.size / 16)) return;
    stroke.points.push(rounded(at));
    draw({ ...stroke, points: stroke.points.slice(-2) });
    show();
  }

  function press(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    canvas.setPointerCapture(event.pointerId);
    begin(place(event));
  }

  function move(event) {
    const at = place(event);
    moveRing(at);
    if (!stroke || pen?.down || !event.isPrimary) return;
    const between = event.getCoalescedEvents?.() ?? [];
    (between.length ? between : [event]).forEach((one) => lengthen(place(one)));
  }

  function release() {
    if (stroke) redraw();
    stroke = null;
    if (pen) pen.down = false;
  }

  let ringAt = null;
  function moveRing(at = ringAt) {
    if (!at || !picture) return;
    ringAt = at;
    const bounds = canvas.getBoundingClientRect();
    const factor = bounds.width / picture.width;
    const across = Number(size.value) * factor;
    ring.hidden = false;
    ring.style.width = ring.style.height = `${across}px`;
    ring.style.left = `${canvas.offsetLeft + at.x * factor - across / 2}px`;
    ring.style.top = `${canvas.offsetTop + at.y * factor - across / 2}px`;
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function key(event) {
    if (!picture) return;
    const command = event.ctrlKey || event.metaKey;
    const pressed = event.key.toLowerCase();
    if (event.key in ARROWS && !command && !event.altKey) {
      step(...ARROWS[event.key], event.shiftKey ? 1 : Math.max(1, Number(size.value) / 4));
    } else if (event.key === " ") {
      if (!event.repeat) toggle();
    } else if (event.key === "[" || event.key === "]") {
      size.value = Number(size.value) * (event.key === "[" ? 0.8 : 1.25) + (event.key === "[" ? -1 : 1);
      root.showSize();
    } else if (pressed === "e" && !command) {
      choose(!erase);
    } else if (command && pressed === "z") {
      event.shiftKey ? redo() : undo();
    } else if (command && pressed === "y") {
      redo();
    } else {
      return;
    }
    event.preventDefault();
  }

  function step(across, down, pixels) {
    pen ??= { x: picture.width / 2, y: picture.height / 2, down: false };
    pen.x = Math.min(picture.width, Math.max(0, pen.x + across * pixels));
    pen.y = Math.min(picture.height, Math.max(0, pen.y + down * pixels));
    moveRing(pen);
    if (pen.down) lengthen(pen);
  }

  function toggle() {
    pen ??= { x: picture.width / 2, y: picture.height / 2, down: false };
    moveRing(pen);
    if (pen.down) {
      release();
    } else {
      begin(pen);
      pen.down = true;
    }
    note.textContent = pen.down ? "The brush is down: arrow keys paint." : "The brush is lifted.";
  }

  // Saves a file, JSON: {name, uri}; an empty text none.
  function save(text) {
    if (!text) return;
    const { name, uri } = JSON.parse(text);
    element("a", { href: uri, download: name }).click();
  }

  return { start, open, apply, operations, save };
})();
