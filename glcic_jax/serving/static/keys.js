// The keyboard: shortcuts for the whole page, and the cursor on the photograph.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * @param {HTMLElement} stage
 * @param {import("./tools.js").Tools} tools
 * @param {Object<string, () => void>} actions What single keys do, by their lower-case name.
 * @param {Object<string, () => void>} commands What keys do with Ctrl or Command, and perhaps "shift+".
 * @param {{fill: () => void, held: (held: boolean) => void, works: () => boolean, say: (text: string) => void,
 *   slide: (by: number) => boolean}} page `works` tells whether single keys work outside the photograph, `slide` whether
 *   before and after are compared.
 * @returns {{space: boolean}} Whether the space bar is down.
 */
export function listenToKeys(stage, tools, actions, commands, page) {
  const keys = { space: false };
  let dragged = false; // With the space bar down.

  addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    const onStage = document.activeElement === stage;
    if (event.ctrlKey || event.metaKey) {
      const command = commands[(event.shiftKey ? "shift+" : "") + key];
      if (command && !(isText(event.target) && key !== "s" && key !== "o")) {
        event.preventDefault();
        command();
      }
      return;
    }
    if (event.altKey || isText(event.target)) return;
    if (onStage && event.key in ARROWS && page.slide(2 * ARROWS[event.key][0])) {
      // Moved what is compared.
    } else if (onStage && event.key in ARROWS) {
      tools.step(...ARROWS[event.key], event.shiftKey);
    } else if (event.key === " " && (onStage || document.activeElement === document.body)) {
      if (!event.repeat) dragged = false;
      keys.space = true;
      stage.classList.add("movable");
    } else if (event.key === "Enter" && (onStage || document.activeElement === document.body)) {
      page.fill();
    } else if (actions[key] && (onStage || key === "escape" || page.works())) {
      actions[key]();
    } else if (key === "o" && (onStage || page.works())) {
      page.held(true);
    } else {
      return;
    }
    event.preventDefault();
  });

  addEventListener("keyup", (event) => {
    if (event.key === " " && keys.space) {
      keys.space = false;
      stage.classList.remove("movable");
      // A held space bar pans with the pointer; pressed alone, it is the keyboard's brush.
      if (tools.pen && !dragged && !page.slide(0) && tools.tool !== "move") {
        tools.toggle();
        page.say(tools.busy ? `The ${tools.tool} is down: arrow keys draw.` : `The ${tools.tool} is lifted.`);
      }
    }
    if (event.key.toLowerCase() === "o") page.held(false);
  });

  stage.addEventListener("pointerdown", () => (dragged = true), { capture: true });
  for (const type of ["pointerdown", "pointermove"]) {
    stage.addEventListener(type, () => (tools.pen = false), { capture: true });
  }
  stage.addEventListener("focus", () => {
    if (stage.matches(":focus-visible") && tools.view.mask) tools.step(0, 0, true);
  });
  stage.addEventListener("blur", () => {
    tools.end();
    tools.hide();
  });
  addEventListener("blur", () => {
    keys.space = false;
    stage.classList.remove("movable");
    page.held(false);
  });
  return keys;
}

const isText = (element) => element.matches?.("input:not([type=range], [type=checkbox]), select, textarea");
