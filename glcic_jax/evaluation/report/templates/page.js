"use strict";

// Sorts a table by a column: numbers as numbers, cells without one last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = Array.from(body.rows, (row) => ({ row, order: row.cells[column].dataset.order }));
      const numeric = rows.every(({ row }) => row.cells[column].classList.contains("number"));
      const number = (order) => (order === "inf" ? Infinity : order === "-inf" ? -Infinity : Number(order));
      const compare = numeric
        ? (a, b) => { const x = number(a), y = number(b); return x < y ? -1 : x > y ? 1 : 0; }
        : (a, b) => a.localeCompare(b, "en", { numeric: true });
      rows.sort((a, b) => {
        if (a.order === "" || b.order === "") return (a.order === "") - (b.order === "");
        return down ? compare(b.order, a.order) : compare(a.order, b.order);
      });
      body.append(...rows.map(({ row }) => row));
    });
  });
}

for (const input of document.querySelectorAll("input[data-filters]")) {
  const label = input.closest("label");
  const rows = Array.from(document.getElementById(input.dataset.filters).tBodies[0].rows);
  label.hidden = false;
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = !row.querySelector("th").textContent.toLowerCase().includes(wanted);
      if (!row.hidden) count += 1;
    }
    label.querySelector("[role=status]").textContent = wanted ? `${count} of ${rows.length}` : "";
  });
}

for (const slider of document.querySelectorAll(".slider")) {
  const [row, left, right] = ["row", "left", "right"].map((name) => slider.querySelector(`select.${name}`));
  const stage = slider.querySelector(".stage");
  const under = slider.querySelector(".under");
  const over = slider.querySelector(".over");
  const range = slider.querySelector("input[type=range]");
  const named = (select) => select.selectedOptions[0].textContent;
  const show = (image, select) => {
    const found = document.querySelector(`img[data-row="${row.value}"][data-kind="${select.value}"]`);
    image.hidden = !found;
    if (!found) return;
    image.src = found.src;
    image.alt = found.alt;
    image.width = found.width;
    image.height = found.height;
  };
  const move = () => {
    over.style.clipPath = `inset(0 ${100 - range.value}% 0 0)`;
    stage.querySelector(".edge").style.left = `${range.value}%`;
    range.setAttribute("aria-valuetext", `${range.value} % ${named(left)}, then ${named(right)}`);
  };
  const update = () => { show(over, left); show(under, right); move(); };
  const drag = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = stage.getBoundingClientRect();
    range.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    move();
  };
  for (const select of [row, left, right]) select.addEventListener("change", update);
  range.addEventListener("input", move);
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
  stage.addEventListener("pointermove", drag);
  slider.hidden = false;
  update();
}

for (const button of document.querySelectorAll("button.copy")) {
  const source = document.getElementById(button.dataset.from);
  const status = button.parentElement.querySelector("[role=status]");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      status.textContent = "copied";
    } catch {
      // Some browsers deny the clipboard to file: pages.
      getSelection().selectAllChildren(source);
      status.textContent = document.execCommand("copy") ? "copied" : "selected: copy it with the keyboard";
    }
  });
}
