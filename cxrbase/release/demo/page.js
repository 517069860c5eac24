"use strict";
const at = (id) => document.getElementById(id);

function say(text, error) {
  at("said").textContent = text;
  at("said").classList.toggle("error", Boolean(error));
}

function fill(id, rows) {
  at(id).replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((text) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      return cell;
    }));
    return row;
  }));
  at(id).closest("section").hidden = rows.length === 0;
}

// A finding that the model never learnt has no probability.
const percent = (value) => (value === null ? "not learnt" : `${(100 * value).toFixed(1)} %`);

async function analyse(file) {
  at("result").hidden = true;
  say(`Reading ${file.name} ...`);
  try {
    const answer = await fetch("/analyse", { method: "POST", body: file });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.detail);
    for (const id of ["input", "map"]) at(id).src = found[id];
    at("explained").textContent = found.explained;
    fill("probabilities", found.probabilities.map((row) => [row.finding, percent(row.value)]));
    fill("neighbours", found.neighbours.map((row) => [row.name, row.similarity.toFixed(3)]));
    at("result").hidden = false;
    say(found.warnings.length ? `Look at the image: ${found.warnings.join(", ")}.` : `${file.name} is read.`);
  } catch (error) {
    say(`${file.name} was not read: ${error.message}`, true);
  }
}

at("file").addEventListener("change", (event) => event.target.files.length && analyse(event.target.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) analyse(event.dataTransfer.files[0]);
  });
}
