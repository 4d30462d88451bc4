// What the page draws: the canvas of text with its steps, and a chunk of actions as curves and as a path.

/** Slots that are drawn: more would make the page slow, and nobody reads them. */
const CELLS_MAX = 4096;
/** Charts of longer chunks have lines, but no dots; their paths have small ones. */
const DOTS_MAX = 128;
/** How much of the image's smaller side a path takes, unless it is told otherwise. */
const PATH_PART = 0.35;

export const $ = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.flat());
  return node;
}
export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Four digits, and few characters. */
export function short(x) {
  const text = Number.isFinite(x) ? String(Number(x.toPrecision(4))) : String(x);
  return text.length > 8 ? Number(x.toPrecision(3)).toExponential() : text;
}

// ---- The canvas of text ---------------------------------------------------------------------------------------------

/** The canvas and what it was at each step. */
export function slotsOf() {
  const [list, when, bar] = [$("slots"), $("when"), $("bar")];
  // What each step changed; a canvas of each would be large.
  let frames = [];
  let latest = [];
  let follows = true;

  function draw(index) {
    const slots = Array(latest.length).fill(null);
    for (const { changes } of frames.slice(0, index + 1)) for (const [i, text] of changes) slots[i] = text;
    const { step, steps, changes } = frames[index];
    const changed = new Set(changes.filter(([, text]) => text !== null).map(([i]) => i));
    const hole = slots.indexOf(null);
    const settled = hole < 0 ? slots.length : hole;
    slots.slice(0, CELLS_MAX).forEach((text, i) => {
      const cell = list.children[i];
      const kinds =
        text === null ? ["mask"] : [i < settled && "settled", changed.has(i) && "new", text === "" && "special"];
      const kind = kinds.filter(Boolean).join(" ");
      const shown =
        text === null ? "" : text === "" ? "\u00b7" : text.replaceAll("\n", "\u21b5").replaceAll("\t", "\u2192");
      if (cell.className !== kind) cell.className = kind;
      if (cell.textContent !== shown) cell.textContent = shown;
      const said = `slot ${i}: ${text === null ? "masked" : JSON.stringify(text)}`;
      if (cell.title !== said) cell.title = said;
    });
    const written = slots.filter((text) => text !== null).length;
    $("when-said").textContent = `${step} of ${steps}, ${written}/${slots.length} written`;
    when.setAttribute("aria-valuetext", $("when-said").textContent);
  }

  when.addEventListener("input", () => {
    const index = Number(when.value);
    follows = index === frames.length - 1;
    draw(index);
  });

  return {
    clear() {
      [frames, latest, follows] = [[], [], true];
      list.replaceChildren();
      [when.disabled, when.max, when.value] = [true, 0, 0];
      // Without a value it says that something goes on.
      bar.removeAttribute("value");
      $("when-said").textContent = "-";
      $("slots-left").hidden = true;
    },
    add(step, steps, canvas) {
      if (frames.length === 0) {
        latest = Array(canvas.length).fill(null);
        list.replaceChildren(...canvas.slice(0, CELLS_MAX).map(() => el("li", { class: "mask" })));
        $("slots-left").hidden = canvas.length <= CELLS_MAX;
        $("slots-left").textContent = `The first ${CELLS_MAX} of ${canvas.length} slots are drawn.`;
      }
      const changes = canvas.map((text, i) => [i, text]).filter(([i, text]) => text !== latest[i]);
      latest = canvas;
      const same = frames.at(-1)?.step === step;
      if (same) frames.at(-1).changes.push(...changes);
      else frames.push({ step, steps, changes });
      [bar.max, bar.value] = [steps, step];
      [when.max, when.disabled] = [frames.length - 1, frames.length < 2];
      if (follows) {
        when.value = frames.length - 1;
        draw(frames.length - 1);
      }
    },
    /** What goes on no longer, with or without a step. */
    rest() {
      if (frames.length === 0) bar.value = 0;
    },
    said() {
      const [count, steps] = [latest.filter((text) => text !== null).length, frames.at(-1)?.step ?? 0];
      return `${count} slots written in ${steps} ${steps === 1 ? "step" : "steps"}`;
    },
  };
}

// ---- Actions --------------------------------------------------------------------------------------------------------

/** A chunk of actions: curves, numbers, and a path over the image. */
export function chunkOf(policy) {
  const columns = policy.action_dim;
  const hasGripper = columns > 2;
  const at = $("at");
  let curves = [];
  let path = null;

  function point(index) {
    at.value = index;
    at.setAttribute("aria-valuetext", ($("at-said").textContent = `${index} of ${at.max}`));
    for (const curve of curves) curve.point(index);
    path?.point(index);
  }
  at.addEventListener("input", () => point(Number(at.value)));

  if (columns < 2) {
    $("path-panel").hidden = true;
    $("drawn").classList.add("alone");
    $("curves-said").textContent = "A path needs two dimensions; this policy has one.";
  }
  $("path-said").textContent = "The path appears here once there are actions.";

  function draw(actions, image) {
    curves = Array.from({ length: columns }, (_, i) => {
      const name = hasGripper && i === columns - 1 ? `dim ${i} (gripper?)` : `dim ${i}`;
      return curveOf(
        name,
        actions.map((row) => row[i]),
        point,
      );
    });
    $("curves").replaceChildren(...curves.map((curve) => curve.node));
    const bad = actions.flat().filter((x) => !Number.isFinite(x)).length;
    if (columns > 1)
      $("curves-said").textContent =
        bad > 0 ? `${bad} numbers are not finite and are not drawn; the table has them.` : "";
    const head = el(
      "tr",
      {},
      el("th", { scope: "col" }, "step"),
      actions[0].map((_, i) => el("th", { scope: "col" }, `dim ${i}`)),
    );
    const rows = actions.map((row, i) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, String(i)),
        row.map((x) => el("td", { title: String(x) }, short(x))),
      ),
    );
    $("numbers").replaceChildren(el("thead", {}, head), el("tbody", {}, rows));
    $("numbers-all").hidden = $("path-settings").hidden = false;
    [at.max, at.disabled] = [actions.length - 1, actions.length < 2];
    path = columns > 1 ? pathOf(actions, image, hasGripper) : null;
    point(0);
  }
  return { draw };
}

/** One dimension over the chunk's steps. */
function curveOf(name, values, point) {
  const [width, height, left, right, top, bottom] = [200, 122, 54, 8, 8, 24];
  const finite = values.filter(Number.isFinite);
  let [low, high] = [Math.min(0, ...finite), Math.max(0, ...finite)];
  if (low === high) [low, high] = [-1, 1];
  const room = 0.06 * (high - low);
  const x = (i) => left + (width - left - right) * (values.length > 1 ? i / (values.length - 1) : 0.5);
  const y = (v) => top + (height - top - bottom) * ((high + room - v) / (high - low + 2 * room));
  const points = values.map((v, i) => (Number.isFinite(v) ? `${x(i).toFixed(2)},${y(v).toFixed(2)}` : null));
  // A number that is not finite is a gap, not a line across it.
  const traces = points.reduce(
    (runs, p) => (p === null ? [...runs, []] : [...runs.slice(0, -1), [...runs.at(-1), p]]),
    [[]],
  );
  const base = height - bottom;
  const cursor = svg("line", { class: "cursor", y1: top, y2: base });
  const mark = svg("circle", { class: "mark", r: 3.4 });
  const label = (text, px, py, anchor) => svg("text", { x: px, y: py, "text-anchor": anchor }, text);
  // Zero is left out where it would stand on another label.
  const ticks = [low, high].filter((v) => v !== 0);
  if (ticks.every((v) => Math.abs(y(v) - y(0)) > 9)) ticks.push(0);
  const chart = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name}: ${values.map(short).join(", ")}` },
    svg("rect", { class: "frame", x: left, y: top, width: width - left - right, height: base - top }),
    svg("line", { class: "zero", x1: left, x2: width - right, y1: y(0), y2: y(0) }),
    ticks.map((v) => label(short(Number(v.toPrecision(3))), left - 4, y(v) + 3.5, "end")),
    label("0", x(0), base + 12, "middle"),
    label(String(values.length - 1), x(values.length - 1), base + 12, values.length > 10 ? "end" : "middle"),
    label("step", (left + width - right) / 2, base + 12, "middle"),
    svg("text", { transform: `translate(8 ${(top + base) / 2}) rotate(-90)`, "text-anchor": "middle" }, "robot units"),
    cursor,
    traces.filter((run) => run.length > 0).map((run) => svg("polyline", { class: "trace", points: run.join(" ") })),
    values.length > DOTS_MAX
      ? []
      : points.flatMap((p) => {
          if (p === null) return [];
          const [cx, cy] = p.split(",");
          return svg("circle", { class: "point", r: 2.3, cx, cy });
        }),
    mark,
  );
  const said = el("output", {});
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const along = (((event.clientX - box.left) / box.width) * width - left) / (width - left - right);
    point(Math.min(values.length - 1, Math.max(0, Math.round(along * (values.length - 1)))));
  });
  return {
    node: el("div", { class: "curve" }, el("div", { class: "line" }, el("span", {}, name), said), chart),
    point(index) {
      const value = values[index];
      said.textContent = short(value);
      fill(cursor, { x1: x(index), x2: x(index) }, []);
      const drawn = Number.isFinite(value);
      fill(mark, { cx: x(index), cy: drawn ? y(value) : 0, visibility: drawn ? "visible" : "hidden" }, []);
    },
  };
}

/** Where the first two dimensions lead, summed up, over a copy of the image that was sent. */
function pathOf(actions, image, hasGripper) {
  const { width, height } = image;
  const [scene, lines] = [$("scene-image"), $("path")];
  [scene.width, scene.height] = [width, height];
  scene.getContext("2d").drawImage(image, 0, 0);
  lines.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const sums = [[0, 0]];
  for (const row of actions) {
    const [a, b] = [0, 1].map((i) => (Number.isFinite(row[i]) ? row[i] : 0));
    sums.push([sums.at(-1)[0] + a, sums.at(-1)[1] + b]);
  }
  const reach = Math.max(...sums.flat().map(Math.abs));
  const auto = reach > 0 ? (PATH_PART * Math.min(width, height)) / reach : 1;
  let dots = [];
  let now = 0;

  const [startX, startY] = [$("start-x"), $("start-y")];
  const kept = startX.max === String(width) && startY.max === String(height);
  [startX.max, startY.max] = [width, height];
  // The start stays where it was put as long as the images are alike.
  if (!kept) [startX.value, startY.value] = [width / 2, height / 2];

  function draw() {
    const perUnit = auto * 2 ** Number($("scale").value);
    const [xa, xb, ya, yb] = $("axes").value.split(" ").map(Number);
    const start = [
      [startX, width],
      [startY, height],
    ].map(([input, max]) => {
      const value = Number(input.value);
      const fits = input.value !== "" && value >= 0 && value <= max;
      input.toggleAttribute("aria-invalid", false);
      if (!fits) input.setAttribute("aria-invalid", "true");
      return fits ? value : max / 2;
    });
    const places = sums.map(([a, b]) => [
      start[0] + perUnit * (xa * a + xb * b),
      start[1] + perUnit * (ya * a + yb * b),
    ]);
    const unit = Math.max(width, height) / 100;
    const ends = (i) => ({ x1: places[i][0], y1: places[i][1], x2: places[i + 1][0], y2: places[i + 1][1] });
    const isLong = actions.length > DOTS_MAX;
    const closed = (row) => hasGripper && row.at(-1) > 0.5;
    dots = actions.map((row, i) =>
      svg(
        "circle",
        {
          class: `dot${closed(row) ? " filled" : ""}${isLong ? " small" : ""}`,
          r: (isLong ? 0.8 : 1.6) * unit,
          cx: places[i + 1][0],
          cy: places[i + 1][1],
        },
        svg(
          "title",
          {},
          `after step ${i}: ${sums[i + 1].map(short).join(", ")}${hasGripper ? `; last ${short(row.at(-1))}` : ""}`,
        ),
      ),
    );
    const [x, y, arm] = [...start, 3 * unit];
    lines.replaceChildren(
      ...actions.map((_, i) => svg("line", { class: "halo", ...ends(i) })),
      svg("line", { class: "halo", x1: x - arm, x2: x + arm, y1: y, y2: y }),
      svg("line", { class: "halo", x1: x, x2: x, y1: y - arm, y2: y + arm }),
      svg("line", { class: "start", x1: x - arm, x2: x + arm, y1: y, y2: y }),
      svg("line", { class: "start", x1: x, x2: x, y1: y - arm, y2: y + arm }),
      ...actions.map((_, i) => svg("line", { class: "segment", ...ends(i) })),
      ...actions.flatMap((_, i) => arrow(places[i], places[i + 1], unit)),
      ...dots,
    );
    const out = places.filter(([px, py]) => px < 0 || py < 0 || px > width || py > height).length;
    const filled = hasGripper ? " A filled dot: the last dimension is above 0.5." : "";
    const isOdd = actions.some((row) => !row.slice(0, 2).every(Number.isFinite));
    const bad = isOdd ? " Numbers that are not finite count as 0 here." : "";
    const outside = out > 0 ? ` ${out} of ${places.length} points lie outside the image.` : "";
    $("path-said").textContent =
      `The first two dimensions, summed over the chunk, from the cross on (click to move it). It is not a projection by the camera: directions and scale are chosen here.${filled}${bad}${outside}`;
    $("scale-said").textContent = `${short(perUnit)} px per unit`;
    $("scale").setAttribute("aria-valuetext", $("scale-said").textContent);
    lines.setAttribute("aria-label", `Path of ${actions.length} segments`);
    point(now);
  }

  function point(index) {
    now = index;
    dots.forEach((dot, i) => dot.classList.toggle("at", i === index));
  }

  // Assigned, not added: a new chunk takes the place of the one before.
  $("scale").oninput = $("axes").onchange = startX.oninput = startY.oninput = draw;
  lines.onclick = (event) => {
    const box = lines.getBoundingClientRect();
    startX.value = Math.round(((event.clientX - box.left) / box.width) * width);
    startY.value = Math.round(((event.clientY - box.top) / box.height) * height);
    draw();
  };
  draw();
  return { point };
}

/** A head in the middle of a segment, unless the segment is shorter than its head. */
function arrow([ax, ay], [bx, by], unit) {
  const length = Math.hypot(bx - ax, by - ay);
  if (length < 5 * unit) return [];
  const [ux, uy] = [(bx - ax) / length, (by - ay) / length];
  const [mx, my, size] = [(ax + bx) / 2 + ux * unit, (ay + by) / 2 + uy * unit, 1.6 * unit];
  const corner = (side) => `${mx - ux * 2 * size + side * uy * size},${my - uy * 2 * size - side * ux * size}`;
  return [svg("polyline", { class: "arrow", points: `${corner(1)} ${mx},${my} ${corner(-1)}` })];
}
