// The page: open a photograph, paint over what should be filled, fill it, go on, and take it away.

import { Refused, complete, example as fetchExample } from "./client.js";
import { Compare } from "./compare.js";
import { showExamples } from "./examples.js";
import { listenToPointers } from "./gestures.js";
import { listenToKeys } from "./keys.js";
import { Mask, patchBytes } from "./mask.js";
import { readMaskFile } from "./mask_file.js";
import { Options } from "./options.js";
import { completedName, maskName, openPhotograph, openResult } from "./photograph.js";
import { maskToPng } from "./png.js";
import { Steps } from "./steps.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";

const NOTHING_WHITE = "Nothing in this mask is white: if black marks the hole, tick 'Black is the hole'.";

const NO_SUCH_WEIGHTS = /no such weights here/;
const DOUBLE_CLICK_MILLISECONDS = 600;

const byId = (id) => document.getElementById(id);
const stage = byId("stage");

/**
 * What is on the stage; replaced as a whole, so that steps can keep an earlier one.
 * @typedef {import("./photograph.js").Photograph} Photograph
 * @type {{original: Photograph, photograph: Photograph, mask: Mask, notes: string[]} | null}
 */
let work = null;
let opening = null; // The AbortController of a photograph that is being opened.
let filling = null; // The AbortController of a fill that runs.
let fillBegan = 0; // Milliseconds, as `performance.now` counts them.
let saved = null; // The photograph that was downloaded last.

const view = new View(stage, byId("pictures"), byId("layer"));
const steps = new Steps(() => refresh());
const options = new Options(byId("options"));
const compare = new Compare(view, byId("slider"), byId("divider"));
const tools = new Tools(view, byId("marks"), (name, patch) => addMaskStep(name, patch));

view.onMove = () => {
  byId("zoom").textContent = `${Math.round(100 * view.zoom)} %`;
  tools.draw();
  compare.draw();
};

// Opening

/** Begins to open a photograph: what was begun before is left off. */
function beginOpening() {
  opening?.abort();
  cancel();
  report("photograph", null);
  return (opening = new AbortController());
}

async function open(file, name, then = () => {}) {
  const controller = beginOpening();
  say(`Opening ${name} …`);
  try {
    const photograph = await openPhotograph(file, name, controller.signal);
    if (opening !== controller) return; // Another was opened meanwhile.
    start(photograph);
    then();
  } catch (error) {
    if (opening !== controller) return;
    say(work ? "The photograph before it is still here." : "");
    report("photograph", error, () => open(file, name, then));
  }
}

function start(photograph) {
  tools.abort();
  const before = work;
  const mask = new Mask(photograph.width, photograph.height);
  const after = { original: photograph, photograph, mask, notes: [] };
  const step = { name: "opening a photograph", undo: () => set(before), redo: () => set(after) };
  set(after);
  const longest = Math.max(photograph.width, photograph.height);
  resizeBrush(Math.max(4, Math.round(longest / 20)));
  ["fill", "mask", "options"].forEach((slot) => report(slot, null));
  if (before) steps.add({ ...step, bytes: before.mask.pixels.length + before.photograph.blob.size });
  refresh();
  say(`${photograph.width} x ${photograph.height} pixels. Paint over what should be filled.`);
}

/** Puts a state of the work on the stage. */
function set(next) {
  work = next;
  if (work.photograph === work.original) compare.set(false);
  view.show(work.photograph, work.original, work.mask);
  byId("notes").querySelector("ul").replaceChildren(
    ...work.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })),
  );
  refresh();
}

async function openExample(example) {
  const controller = beginOpening();
  try {
    const blob = await fetchExample(example.file);
    if (opening !== controller) return;
    await open(blob, example.file, () => {
      change("a brush stroke", (mask) => mask.line(example.from, example.to, example.size / 2, 1));
      fill();
    });
  } catch (error) {
    if (opening === controller) report("photograph", error, () => openExample(example));
  }
}

// Painting

function addMaskStep(name, patch) {
  const { mask } = work;
  const swap = () => (patch = mask.swap(patch));
  report("fill", null);
  steps.add({ name, bytes: patchBytes(patch), undo: swap, redo: swap });
}

/** Changes the mask in one step. */
function change(name, act) {
  if (!work || filling) return;
  tools.end();
  work.mask.begin();
  act(work.mask);
  const patch = work.mask.end();
  if (patch) addMaskStep(name, patch);
}

function randomHole(mask) {
  const between = (least, most) => Math.floor(least + Math.random() * (most - least + 1));
  const [smallest, largest] = options.holeSides;
  const side = (length) =>
    Math.min(between(Math.max(smallest, length / 10), Math.max(largest, length / 4)), Math.ceil(length / 2));
  const [width, height] = [side(mask.width), side(mask.height)];
  const [left, top] = [between(0, mask.width - width), between(0, mask.height - height)];
  mask.clear();
  mask.rectangle([left, top], [left + width, top + height], 1);
}

async function takeMaskFile(file) {
  const into = work;
  report("mask", null);
  try {
    const chosen = { invert: byId("mask-invert").checked, stretch: byId("mask-stretch").checked };
    const pixels = await readMaskFile(file, into.mask, chosen);
    if (work !== into || filling) return;
    if (!pixels.includes(1)) throw new Error(NOTHING_WHITE);
    change("a mask file", (mask) => mask.replace(pixels));
  } catch (error) {
    report("mask", error);
    byId("mask-error").nextElementSibling.open = true;
  }
}

// Filling

async function fill() {
  if (!work || filling) return;
  tools.end();
  opening?.abort();
  opening = null;
  ["fill", "mask", "options", "photograph"].forEach((slot) => report(slot, null));
  if (!work.mask.area) {
    report("fill", new Error("Nothing is painted yet: paint over what should be filled."));
    return;
  }
  let chosen;
  try {
    chosen = options.read();
  } catch (error) {
    report("options", error);
    return;
  }
  const controller = (filling = new AbortController());
  const before = work;
  fillBegan = performance.now();
  compare.set(false);
  progress("Sending …");
  refresh();
  try {
    const mask = await maskToPng(before.mask);
    const follow = (at) => filling === controller && progress(...inWords(at));
    const result = await complete(before.photograph.blob, mask, chosen, controller.signal, follow);
    const name = completedName(before.original.name, result.blob.type);
    const photograph = await openResult(result.blob, name, before.photograph);
    if (filling !== controller) return;
    finish(before, { ...before, photograph, notes: result.notes.map(inWordsOfThePage) });
    const seconds = ((performance.now() - fillBegan) / 1000).toFixed(1);
    const next = photograph.unseen ? "The result is too large to be shown: download it." : "Paint on, compare, or download.";
    say(`Done in ${seconds} s. ${next}`);
  } catch (error) {
    if (filling !== controller) return; // Cancelled, which has been said.
    say("");
    report(slotOf(error), error, fill);
    if (NO_SUCH_WEIGHTS.test(error.message)) options.load();
  } finally {
    if (filling === controller) filling = null;
    refresh();
  }
}

function finish(before, after) {
  const { mask } = before;
  compare.beside(...mask.sides());
  mask.begin();
  mask.clear();
  let patch = mask.end();
  const step = (state) => () => {
    set(state);
    patch = mask.swap(patch);
  };
  filling = null;
  set(after);
  const bytes = patchBytes(patch) + after.photograph.blob.size;
  steps.add({ name: "the fill", bytes, undo: step(before), redo: step(after) });
}

function cancel() {
  if (!filling) return;
  filling.abort();
  filling = null;
  say("Cancelled. What is painted is still there.");
  refresh();
}

function inWords({ state, place, windows_done: done, windows, note }) {
  const after = note ? ` (${note})` : "";
  if (state === "queued") return [`Queued at place ${place}${after}`];
  if (state !== "working") return ["Sending …"];
  if (windows > 1) return [`Filling, window ${Math.min(done + 1, windows)} of ${windows}${after}`, done / windows];
  return [`Filling${after} …`];
}

/** The service names the parts of its form. */
const inWordsOfThePage = (text) =>
  text
    .replace("give invert_mask=true", "use 'Invert'")
    .replace(/: alpha_mask=true .*/, "")
    .replace(/use strategy=crop and max_side=\d+/, "choose 'Windows around the painted area' under Options")
    .replace(/use a smaller side, such as max_side=\d+/, "open a smaller photograph");

/** Beside which part of the page an error of a fill belongs. */
function slotOf(error) {
  if (/^(weights|grow|strategy|blend|format|quality|keep_exif)\b/.test(error.message)) return "options";
  if (NO_SUCH_WEIGHTS.test(error.message)) return "options";
  if (/^mask\b/.test(error.message)) return "mask";
  return error.status === 413 || error.status === 415 ? "photograph" : "fill";
}

// Telling

function say(text) {
  const status = byId("status");
  if (status.textContent !== text) status.textContent = text; // Or it would be spoken again.
  byId("progress").hidden = true;
}

function progress(text, share) {
  say(text);
  const bar = byId("progress");
  bar.hidden = false;
  if (share === undefined) bar.removeAttribute("value");
  else bar.value = share;
}

/** Shows an error beside what caused it, with a way to try again if that may help; null removes it. */
function report(slot, error, retry) {
  const place = byId(`${slot}-error`);
  place.replaceChildren(error ? inWordsOfThePage(error.message) : "");
  if (!error) return;
  if (retry && error instanceof Refused && error.retryable) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again" });
    button.addEventListener("click", retry);
    place.append(" ", button);
  }
  if (slot === "photograph") {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Dismiss" });
    button.addEventListener("click", () => report(slot, null));
    place.append(" ", button);
  }
  place.scrollIntoView({ block: "nearest" });
}

/** Shows what can be done now. */
function refresh() {
  const painted = Boolean(work?.mask.area);
  const changed = Boolean(work) && work.photograph !== work.original;
  const free = Boolean(work) && !filling;
  const enabled = {
    undo: free && steps.last,
    redo: free && steps.next,
    clear: free && painted,
    invert: free,
    random: free,
    fill: free,
    "mask-open": free,
    "mask-save": painted,
    download: changed,
    compare: changed && !filling,
    original: changed,
  };
  for (const [id, able] of Object.entries(enabled)) {
    // A disabled button loses the focus, and the next Enter would go to the page.
    byId(id).disabled = !able && byId(id) !== document.activeElement;
  }
  byId("undo").title = `Undo ${steps.last?.name ?? ""} (Ctrl+Z)`;
  byId("redo").title = `Redo ${steps.next?.name ?? ""} (Ctrl+Y)`;
  const welcomed = byId("welcome").contains(document.activeElement);
  byId("welcome").hidden = Boolean(work);
  byId("looking").hidden = byId("zooming").hidden = !work;
  swapButtons(filling ? "fill" : "cancel", filling ? "cancel" : "fill");
  byId("notes").hidden = !work?.notes.length;
  byId("compare").setAttribute("aria-pressed", compare.active);
  byId("erase").setAttribute("aria-pressed", tools.erase);
  byId("fill").classList.toggle("primary", painted);
  byId("download").classList.toggle("primary", changed && !painted && saved !== work.photograph);
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", button.dataset.tool === tools.tool);
  }
  tools.locked = Boolean(filling);
  stage.tabIndex = work ? 0 : -1;
  if (work && welcomed) stage.focus();
  stage.classList.toggle("empty", !work);
  stage.classList.toggle("filling", Boolean(filling));
  stage.dataset.cursor = tools.tool;
  tools.draw();
}

/** Shows one button in place of another, with the keyboard's focus. */
function swapButtons(from, to) {
  const focused = document.activeElement === byId(from);
  byId(to).hidden = false;
  byId(from).hidden = true;
  if (focused) byId(to).focus();
}

// Taking away

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function download() {
  if (!work || work.photograph === work.original) return;
  save(work.photograph.blob, work.photograph.name);
  saved = work.photograph;
  refresh();
}

// Tools

function choose(tool) {
  tools.abort();
  compare.set(false); // Where a drag would not paint.
  tools.tool = tool;
  refresh();
}

function setErase(erase) {
  compare.set(false);
  tools.erase = erase;
  refresh();
}

const largestBrush = () => Math.max(8, Math.max(work?.mask.width ?? 800, work?.mask.height ?? 0) / 3);

function resizeBrush(pixels) {
  tools.size = Math.max(1, Math.min(Math.round(largestBrush()), Math.round(pixels)));
  // Equal steps of the slider make equal ratios.
  byId("size").value = (100 * Math.log(tools.size)) / Math.log(largestBrush());
  showBrush();
}

function showBrush() {
  byId("size-pixels").textContent = `${tools.size} px`;
  byId("size").setAttribute("aria-valuetext", `${tools.size} pixels`);
  tools.draw();
}

function undo() {
  if (filling) return;
  tools.end();
  const { last } = steps;
  steps.undo();
  if (last) say(`Undone: ${last.name}.`);
}

function redo() {
  if (filling) return;
  tools.end();
  const { next } = steps;
  steps.redo();
  if (next) say(`Done again: ${next.name}.`);
}

function zoomBy(factor) {
  if (work) view.zoomBy(factor, ...view.middle);
}

function toggleCompare() {
  if (byId("compare").disabled) return;
  compare.set(!compare.active);
  refresh();
}

/** Moves the line between before and after; whether there is one. */
function slide(by) {
  if (compare.active) compare.slide(by);
  return compare.active;
}

function hold(held) {
  compare.hold(held && !byId("original").disabled);
  byId("original").setAttribute("aria-pressed", compare.held);
}

// Wiring

const on = (id, act, type = "click") => byId(id).addEventListener(type, act);
const chooseFile = () => byId("open-file").click();
const clear = () => change("clearing", (mask) => mask.clear());
const invert = () => change("inverting", (mask) => mask.invert());

on("open", chooseFile);
on("welcome-open", chooseFile);
on("download", download);
on("undo", undo);
on("redo", redo);
on("clear", clear);
on("invert", invert);
on("random", () => change("a random hole", randomHole));
on("fill", fill);
// Cancel takes the place of Fill: the second click of two is not meant for it.
on("cancel", () => performance.now() - fillBegan > DOUBLE_CLICK_MILLISECONDS && cancel());
on("compare", toggleCompare);
on("erase", () => setErase(!tools.erase));
on("zoom-in", () => zoomBy(1.4));
on("zoom-out", () => zoomBy(1 / 1.4));
on("zoom-actual", () => zoomBy(1 / view.zoom));
on("zoom-fit", () => view.fit());
on("original", () => hold(true), "pointerdown");
for (const type of ["pointerup", "pointercancel", "pointerleave", "blur"]) on("original", () => hold(false), type);
// A screen reader clicks, and cannot hold.
on("original", (event) => event.detail === 0 && hold(!compare.held));
on("mask-open", () => byId("mask-file").click());
on("mask-save", async () => save(await maskToPng(work.mask), maskName(work.original.name)));
on("size", ({ target }) => {
  tools.size = Math.max(1, Math.round(largestBrush() ** (target.valueAsNumber / 100)));
  showBrush();
}, "input");
for (const button of document.querySelectorAll("[data-tool]")) {
  button.addEventListener("click", (event) => {
    choose(button.dataset.tool);
    if (work && event.detail) stage.focus(); // Where the space bar moves the photograph.
  });
}
for (const [id, take] of [["open-file", (file) => open(file, file.name)], ["mask-file", takeMaskFile]]) {
  on(id, ({ target }) => {
    const [file] = target.files;
    if (file) take(file);
    target.value = ""; // The same file may be chosen again.
  }, "change");
}

const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  byId("drop").hidden = false;
});
addEventListener("dragleave", (event) => event.relatedTarget || (byId("drop").hidden = true));
addEventListener("drop", (event) => {
  byId("drop").hidden = true;
  if (!holdsFiles(event)) return;
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) open(file, file.name);
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) open(file, file.name);
});
addEventListener("beforeunload", (event) => {
  if (work && work.photograph !== work.original && saved !== work.photograph) event.preventDefault();
});

const keys = listenToKeys(
  stage,
  tools,
  {
    b: () => choose("brush"),
    r: () => choose("rectangle"),
    l: () => choose("lasso"),
    h: () => choose("move"),
    e: () => setErase(!tools.erase),
    f: fill,
    c: toggleCompare,
    i: invert,
    0: () => work && view.fit(),
    1: () => zoomBy(1 / view.zoom),
    "+": () => zoomBy(1.25),
    "=": () => zoomBy(1.25),
    "-": () => zoomBy(0.8),
    "[": () => resizeBrush(Math.min(tools.size - 1, tools.size * 0.8)),
    "]": () => resizeBrush(Math.max(tools.size + 1, tools.size * 1.25)),
    delete: clear,
    escape: () => (tools.busy ? tools.abort() : cancel()),
  },
  { z: undo, y: redo, "shift+z": redo, o: chooseFile, s: download },
  { fill, held: hold, works: () => byId("single-keys").checked, say, slide },
);
listenToPointers(stage, view, () => (compare.active ? compare : tools), () => keys.space || tools.tool === "move");
showExamples(byId("examples"), openExample);
resizeBrush(40);
refresh();
options.load();
