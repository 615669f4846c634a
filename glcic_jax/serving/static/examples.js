// Example photographs, each with a stroke over what can vanish from it.

const SVG = "http://www.w3.org/2000/svg";

/**
 * In pixels of the photograph.
 * @typedef {{label: string, file: string, width: number, height: number, size: number, from: number[], to: number[]}}
 *   Example
 * @type {Example[]}
 */
const EXAMPLES = [
  { label: "sleeve", file: "astronaut.png", width: 512, height: 512, size: 34, from: [36, 345], to: [40, 378] },
  { label: "saucer", file: "coffee.png", width: 600, height: 400, size: 24, from: [118, 168], to: [112, 192] },
  { label: "cat", file: "chelsea.png", width: 451, height: 300, size: 16, from: [222, 186], to: [230, 192] },
];

/**
 * Shows the examples as buttons.
 * @param {HTMLElement} place
 * @param {(example: Example) => void} onChoose
 */
export function showExamples(place, onChoose) {
  for (const example of EXAMPLES) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Example: ${example.label}`);
    const image = Object.assign(new Image(), { src: `examples/${example.file}`, alt: "" });
    button.append(image, painted(example));
    button.addEventListener("click", () => onChoose(example));
    place.append(button);
  }
}

/** The stroke, drawn as the photograph is: it covers its button. */
function painted({ width, height, size, from, to }) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  drawing.setAttribute("preserveAspectRatio", "xMidYMid slice");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", `M${from}L${to}`);
  line.setAttribute("stroke-width", size);
  drawing.append(line);
  return drawing;
}
