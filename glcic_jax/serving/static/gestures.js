// Pointers on the stage: one paints, two fingers zoom and pan, the wheel zooms, the middle button pans.

/**
 * What a drag of one pointer does.
 * @typedef {object} Drag
 * @property {(point: number[], opposite: boolean) => void} start
 * @property {(point: number[]) => void} move
 * @property {() => void} end
 * @property {() => void} abort
 * @property {() => void} hide The pointer has left.
 */

/**
 * @param {HTMLElement} stage
 * @param {import("./view.js").View} view
 * @param {() => Drag} dragged What a drag does now.
 * @param {() => boolean} isPanning Whether a drag moves the photograph now.
 */
export function listenToPointers(stage, view, dragged, isPanning) {
  const down = new Map(); // Pointers that are down: id to [x, y].
  let action = null; // "drag", "pan" or "pinch".
  let drag = null;
  let pen = false; // While a pen is down, the hand that holds it does nothing.

  stage.addEventListener("pointerdown", (event) => {
    if (!view.mask || event.target.closest("button, input")) return;
    const { pointerType, button } = event;
    if ((pointerType === "mouse" && button > 1) || (pointerType === "touch" && pen)) return;
    pen ||= pointerType === "pen";
    event.preventDefault(); // Or the browser would scroll with the middle button.
    stage.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    down.set(event.pointerId, [event.clientX, event.clientY]);
    if (down.size === 2) {
      if (action === "drag") drag.abort();
      action = "pinch";
    } else if (down.size === 1) {
      drag = dragged();
      action = button === 1 || isPanning() ? "pan" : "drag";
      const opposite = event.altKey || button === 5; // A pen's other end.
      if (action === "drag") drag.start(view.toPhotograph(event.clientX, event.clientY), opposite);
    }
    stage.classList.toggle("panning", action === "pan");
  });

  stage.addEventListener("pointermove", (event) => {
    if (!view.mask) return;
    const before = down.get(event.pointerId);
    if (!before) {
      const hovers = event.pointerType !== "touch" && down.size === 0;
      if (hovers) dragged().move(view.toPhotograph(event.clientX, event.clientY));
      return;
    }
    const pinched = action === "pinch" ? spread(down) : null;
    down.set(event.pointerId, [event.clientX, event.clientY]);
    if (action === "drag") {
      const between = event.getCoalescedEvents?.() ?? [];
      for (const one of between.length ? between : [event]) drag.move(view.toPhotograph(one.clientX, one.clientY));
    } else if (action === "pan") {
      view.panBy(event.clientX - before[0], event.clientY - before[1]);
    } else if (pinched && down.size >= 2) {
      const now = spread(down);
      view.panBy(now.x - pinched.x, now.y - pinched.y);
      if (pinched.length > 0) view.zoomBy(now.length / pinched.length, now.x, now.y);
    }
  });

  const lift = (event) => {
    if (!down.delete(event.pointerId)) return;
    if (event.pointerType === "pen") pen = false;
    if (action === "drag") {
      if (event.type === "pointerup") drag.end();
      else drag.abort();
      if (event.pointerType === "touch") drag.hide();
    }
    // The finger that stays after a pinch does not paint.
    action = down.size ? "none" : null;
    stage.classList.remove("panning");
  };
  stage.addEventListener("pointerup", lift);
  stage.addEventListener("pointercancel", lift);
  stage.addEventListener("pointerleave", () => down.size || dragged().hide());

  stage.addEventListener(
    "wheel",
    (event) => {
      if (!view.mask) return;
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      if (event.shiftKey) view.panBy(-(event.deltaX || event.deltaY) * lines, 0);
      else {
        // Trackpads send a pinch as small steps with Ctrl.
        const factor = Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015));
        view.zoomBy(factor, event.clientX, event.clientY);
      }
    },
    { passive: false },
  );
}

/** The middle of the first two pointers, and how far they are apart. */
function spread(down) {
  const [[x0, y0], [x1, y1]] = down.values();
  return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, length: Math.hypot(x1 - x0, y1 - y0) };
}
