// Marks the row of a bar and the bar of a row; a click on a bar opens its row.
"use strict";
for (const bar of document.querySelectorAll("svg rect[data-row]")) {
  const row = document.getElementById(bar.dataset.row);
  const mark = (on) => () => {
    bar.classList.toggle("marked", on);
    row.classList.toggle("marked", on);
  };
  for (const part of [bar, row]) {
    part.addEventListener("mouseenter", mark(true));
    part.addEventListener("mouseleave", mark(false));
  }
  bar.addEventListener("click", () => {
    row.closest("details").open = true;
    row.scrollIntoView({ block: "center" });
  });
}
