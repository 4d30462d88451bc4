// The page for people: what is served, and a form to ask it. The server's answers are data: they reach the document as text
// only, never as markup.

import { $, chunkOf, el, slotsOf } from "./draw.js";

/** The server refuses longer bodies. */
const BODY_BYTES_MAX = 32 * 2 ** 20;
/** Room for the rest of a request beside its images. */
const REST_BYTES = 2 ** 20;
/** Images are made smaller than this where the policy has no size of its own. */
const SIDE_MAX = 2048;
/** Files larger than this are no pictures of a camera. */
const FILE_BYTES_MAX = 256 * 2 ** 20;
/** Requests that the table of latencies looks back on. */
const TIMES_MAX = 1000;
const TOKEN_KEY = "dream-token";

const ms = (x) => (x === undefined ? "-" : x < 10 ? x.toFixed(2) : x < 100 ? x.toFixed(1) : x.toFixed(0));

// ---- Errors ---------------------------------------------------------------------------------------------------------

/** A request that was refused, by the server or before it was sent. */
class Refused extends Error {
  constructor(message, { param = null, expected = null, ...others } = {}) {
    super(message);
    Object.assign(this, { param, expected, others });
  }

  /** From the server's `error`, whatever fields it has. */
  static from(error, others = {}) {
    if (error === null || typeof error !== "object") return new Refused(String(error), others);
    const { message, ...rest } = error;
    return new Refused(message ?? JSON.stringify(error), { ...rest, ...others });
  }
}

/** Fields of requests, and the inputs that they come from. */
const INPUTS = {
  messages: "prompt",
  prompt: "prompt",
  temperature: "temperature",
  top_p: "top_p",
  raw: "raw",
  instruction: "task",
  state: "state-0",
  image: "view-0",
  images: "view-0",
  full_image: "view-0",
  wrist_image: "view-1",
};

function unmark() {
  for (const node of document.querySelectorAll("[aria-invalid]")) node.removeAttribute("aria-invalid");
  $("problem").hidden = true;
}

function show(problem, form) {
  const place = $("problem");
  const rows = [["field", problem.param], ["expected", problem.expected], ...Object.entries(problem.others ?? {})];
  const told = rows.filter(([, value]) => value !== null && value !== undefined);
  place.replaceChildren(
    el("strong", {}, problem.message || String(problem)),
    el(
      "dl",
      { class: "rows" },
      told.flatMap(([key, value]) => [
        el("dt", {}, key),
        el("dd", { "data-field": key }, typeof value === "string" ? value : JSON.stringify(value)),
      ]),
    ),
  );
  place.hidden = false;
  place.scrollIntoView({ block: "nearest" });
  // `messages[0].content` is of `messages`.
  const [field] = String(problem.param).split(/[.[]/);
  const seed = form?.id === "chat-form" ? "chat-seed" : "seed";
  const input = problem.input ?? $(field === "seed" ? seed : (INPUTS[field] ?? ""));
  if (input) {
    input.setAttribute("aria-invalid", "true");
    input.focus();
  }
}

/** A refusal of what stands in `input`, in the server's own form. */
function wrong(input, param, found, expected) {
  return Object.assign(new Refused(`\`${param}\`: ${found}; it must be ${expected}`, { param, expected }), { input });
}

/** The number in an input, or `undefined` where it is empty. */
function numberIn(input, param, expected, fits) {
  const text = input.value.trim();
  if (text === "") return undefined;
  const value = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text) ? Number(text) : NaN;
  if (!Number.isFinite(value) || !fits(value)) throw wrong(input, param, `it is \`${text}\``, expected);
  return value;
}

const seedIn = (input) =>
  numberIn(
    input,
    "seed",
    `a whole number from 0 to ${Number.MAX_SAFE_INTEGER}`,
    (x) => Number.isSafeInteger(x) && x >= 0,
  );

// ---- Requests -------------------------------------------------------------------------------------------------------

/** Storage may be forbidden; then the token lives as long as the page. */
let token = null;
try {
  token = sessionStorage.getItem(TOKEN_KEY);
} catch {}

function keep(value) {
  token = value;
  try {
    sessionStorage.setItem(TOKEN_KEY, value);
  } catch {}
}

/** Asks the server; paths are relative, so that a proxy may put the page elsewhere. */
async function ask(path, body, signal) {
  const headers = {};
  if (token !== null) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body,
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(`the server cannot be reached (${error.message})`, { path });
  }
  if (response.ok) return response;
  const text = await response.text();
  const others = { status: `${response.status} ${response.statusText}`.trim() };
  const after = response.headers.get("retry-after");
  if (after !== null) others["ask again after"] = `${after} s`;
  let refused = new Refused(text || "the server gave no reason", others);
  try {
    const { error } = JSON.parse(text);
    if (error) refused = Refused.from(error, others);
  } catch {}
  refused.unauthorized = response.status === 401;
  throw refused;
}

async function json(response) {
  const text = await response.text();
  try {
    return JSON.parse(text);
  } catch {
    throw new Refused(`the answer is no JSON: ${text.slice(0, 200)}`);
  }
}

/** The data of server-sent events. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      rest += value;
      // A carriage return at the end may be the first half of a line's end.
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "" && data.length > 0) {
          yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    // Whoever reads no further has the server stop. What was stopped already says so a second time.
    reader.cancel().catch(() => {});
  }
}

/** `Server-Timing: model;dur=1.5, total;dur=2` as an object. */
function timingOf(response) {
  const times = {};
  for (const part of (response.headers.get("server-timing") ?? "").split(",")) {
    const found = /^\s*(\w+)\s*;\s*dur=([\d.]+)/.exec(part);
    if (found) times[found[1]] = Number(found[2]);
  }
  return times;
}

/** A form with one request at a time, that can be stopped. */
function runs({ form, start, stop, state, run }) {
  let abort = null;
  stop.addEventListener("click", () => abort?.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (abort) return;
    unmark();
    abort = new AbortController();
    const held = document.activeElement === start;
    [start.disabled, stop.disabled] = [true, false];
    if (held) stop.focus();
    try {
      await run(abort.signal);
    } catch (error) {
      if (error.name === "AbortError") {
        state.textContent = `Stopped. ${state.textContent}`;
      } else {
        if (!(error instanceof Refused)) console.error(error);
        state.textContent = "Failed; the reason stands above.";
        show(error, form);
        if (error.unauthorized) wantToken(error.message);
      }
    } finally {
      const back = document.activeElement === stop;
      abort = null;
      [start.disabled, stop.disabled] = [false, true];
      if (back) start.focus();
    }
  });
}

// ---- Latencies ------------------------------------------------------------------------------------------------------

/** A table of what requests of this page took. */
function latencies(table, names) {
  const all = new Map(names.map(([key]) => [key, []]));
  const draw = () => {
    const row = (tag, cells) =>
      el(
        "tr",
        {},
        cells.map((cell, i) => el(i === 0 ? "th" : tag, i === 0 ? { scope: "row" } : {}, cell)),
      );
    const rows = names.map(([key, name]) => {
      const list = all.get(key);
      const sorted = [...list].sort((a, b) => a - b);
      const rank = (part) => sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)];
      const cells = [list.at(-1), rank(0.5), rank(0.99), sorted.at(-1)].map(ms);
      return row("td", [name, ...cells, String(list.length)]);
    });
    const head = el(
      "thead",
      {},
      el(
        "tr",
        {},
        ["ms", "last", "median", "p99", "max", "requests"].map((x) => el("th", { scope: "col" }, x)),
      ),
    );
    const said = `Of this page's requests that were answered in full, the last ${TIMES_MAX} at most.`;
    table.replaceChildren(el("caption", {}, said), head, el("tbody", {}, rows));
  };
  draw();
  return (times) => {
    for (const [key, list] of all) {
      if (times[key] !== undefined) list.push(times[key]);
      if (list.length > TIMES_MAX) list.shift();
    }
    draw();
  };
}

// ---- Images ---------------------------------------------------------------------------------------------------------

const zones = [];

/** Where an image is dropped, chosen or pasted: `zone.canvas` has what will be sent. */
function imageZone(place, { title, size, pixelsMax, removable }) {
  const id = `view-${zones.length}`;
  const input = el("input", { type: "file", accept: "image/*", id });
  const hint = el("span", {}, "Drop an image, click, or paste");
  const drop = el("label", { class: "drop", for: id }, input, hint);
  const said = el("p", { class: "hint", role: "status" });
  const remove = el("button", { type: "button", class: "quiet" }, "Remove");
  remove.hidden = true;
  const zone = { canvas: null, input, take };
  place.append(
    el("div", { class: "view" }, el("label", { for: id }, title), drop, el("div", { class: "line" }, said, remove)),
  );

  async function take(files) {
    unmark();
    const images = [...files].filter((file) => file.type.startsWith("image/"));
    try {
      if (images.length === 0) throw new Refused(`${files[0]?.name ?? "what was dropped"} is no image`);
      const [file] = images;
      if (file.size > FILE_BYTES_MAX)
        throw new Refused(`${file.name} has ${file.size} bytes`, { expected: `at most ${FILE_BYTES_MAX}` });
      const { canvas, from, isStretched } = await scaled(file, size, pixelsMax);
      zone.canvas = canvas;
      hint.hidden = true;
      drop.querySelector("canvas")?.remove();
      drop.append(canvas);
      remove.hidden = !removable;
      const to = `${canvas.width}x${canvas.height}`;
      const left = files.length > 1 ? `; ${files.length - 1} more files were not taken` : "";
      said.textContent = (from === to ? to : `${from}, sent as ${to}${isStretched ? " (stretched)" : ""}`) + left;
    } catch (error) {
      show(Object.assign(error, { input }));
    }
  }

  remove.addEventListener("click", () => {
    zone.canvas.remove();
    zone.canvas = null;
    [hint.hidden, remove.hidden, said.textContent] = [false, true, ""];
    input.focus();
  });
  input.addEventListener("change", async () => {
    if (input.files.length === 0) return;
    await take(input.files);
    // The same file may be chosen again.
    input.value = "";
  });
  for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, () => drop.classList.add("over"));
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    if (event.dataTransfer.files.length > 0) take(event.dataTransfer.files);
    else show(new Refused("what was dropped is no file; save the image and drop that"));
  });
  zones.push(zone);
  return zone;
}

// A file that misses its place must not replace the page.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
document.addEventListener("paste", (event) => {
  const files = event.clipboardData?.files ?? [];
  if (files.length === 0 || zones.length === 0) return;
  event.preventDefault();
  const zone =
    zones.find((zone) => zone.input === document.activeElement) ?? zones.find((zone) => !zone.canvas) ?? zones[0];
  zone.take(files);
});

/** The image as it will be sent. Its numbers are taken as they lie in the file, as Python's readers do. */
async function scaled(file, size, pixelsMax) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Refused(`${file.name} is no image that this browser reads`, { expected: "PNG, JPEG or the like" });
  }
  const { width, height } = bitmap;
  const factor = Math.min(1, SIDE_MAX / Math.max(width, height), Math.sqrt(pixelsMax / (width * height)));
  const fitted = [width, height].map((side) => Math.max(1, Math.floor(side * factor)));
  const [w, h] = size ?? fitted;
  const canvas = el("canvas", { width: w, height: h });
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, w, h);
  context.imageSmoothingEnabled = w !== width || h !== height;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, w, h);
  bitmap.close();
  return { canvas, from: `${width}x${height}`, isStretched: size !== null && w * height !== h * width };
}

/** `data:..;base64,..` of some bytes. */
const dataUrl = (blob) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Refused("the image cannot be encoded"));
    reader.readAsDataURL(blob);
  });

const base64 = async (bytes) => (await dataUrl(new Blob([bytes]))).split(",")[1];

const png = (canvas) =>
  new Promise((resolve, reject) =>
    canvas.toBlob(
      (blob) => (blob ? resolve(dataUrl(blob)) : reject(new Refused("the image cannot be encoded"))),
      "image/png",
    ),
  );

/** A canvas as json-numpy: uint8 [height, width, 3]. */
async function numpyOf(canvas) {
  const { width, height } = canvas;
  const rgba = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return { __numpy__: await base64(rgb), dtype: "|u1", shape: [height, width, 3] };
}

/** One action of the answer, json-numpy. */
function floatsOf(array, columns) {
  const known = array?.dtype === "<f8" && array.shape?.length === 1 && array.shape[0] === columns;
  if (!known || typeof array.__numpy__ !== "string") {
    throw new Refused(`an action of the answer is ${JSON.stringify(array).slice(0, 200)}`, {
      expected: `float64 [${columns}] as json-numpy`,
    });
  }
  const bytes = Uint8Array.from(atob(array.__numpy__), (c) => c.charCodeAt(0));
  if (bytes.length !== 8 * columns)
    throw new Refused(`an action of the answer has ${bytes.length} bytes`, { expected: `${8 * columns}` });
  const view = new DataView(bytes.buffer);
  return Array.from({ length: columns }, (_, i) => view.getFloat64(8 * i, true));
}

function bodyOf(request) {
  const body = JSON.stringify(request);
  const bytes = new TextEncoder().encode(body).length;
  if (bytes > BODY_BYTES_MAX)
    throw new Refused(`the request has ${bytes} bytes`, { expected: `at most ${BODY_BYTES_MAX}` });
  return body;
}

// ---- The card -------------------------------------------------------------------------------------------------------

function describe(card) {
  const { chat, policy, steps } = card;
  const passes = `${steps} ${steps === 1 ? "step" : "steps"}`;
  const parts = [];
  if (policy) {
    const views = `${policy.views} ${policy.views === 1 ? "camera view" : "camera views"}`;
    const state = policy.proprio_dim ? `, a state of ${policy.proprio_dim} numbers` : "";
    parts.push(
      `robot actions: ${views}${state} and a task give ${policy.chunk} actions of ${policy.action_dim} numbers (mode ${policy.mode})`,
    );
  }
  if (chat)
    parts.push(
      `${chat.sees ? "text and images to text" : "text to text"}: ${chat.new_tokens} slots are denoised in ${passes}`,
    );
  return parts.join("; ") || "nothing that this page can ask for";
}

function drawCard(card) {
  const { options = {} } = card;
  $("name").textContent = document.title = card.name;
  $("does").textContent = describe(card);
  const hash = el(
    "span",
    {},
    el("code", { title: card.artifact_blake3, id: "hash" }, `${card.artifact_blake3.slice(0, 12)}..`),
  );
  const copy = el("button", { type: "button", class: "quiet copy", "aria-label": "Copy the whole hash" }, "Copy");
  hash.append(copy);
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(card.artifact_blake3);
      copy.textContent = "Copied";
    } catch {
      // Pages of other machines without TLS have no clipboard: the hash is selected, to be copied by hand.
      $("hash").textContent = card.artifact_blake3;
      getSelection().selectAllChildren($("hash"));
    }
  });
  const facts = [
    ["device", card.device],
    ["target", card.target],
    ["steps", String(card.steps)],
    ["dtype", options.dtype ?? "not told"],
    ["quantization", options.quant ?? options.quantization ?? "none"],
    ["hash (BLAKE3)", hash],
    ["compiler", card.version],
  ];
  $("facts").replaceChildren(
    ...facts.map(([key, value]) => el("div", {}, el("dt", {}, key), el("dd", {}, value ?? "not told"))),
  );
  const known = { variant: card.variant, entries: card.entries, artifact_blake3: card.artifact_blake3 };
  const all = {
    ...known,
    ...prefixed("policy", card.policy),
    ...prefixed("chat", card.chat),
    ...prefixed("option", options),
  };
  $("options").replaceChildren(
    ...Object.entries(all).flatMap(([key, value]) => [
      el("dt", {}, key),
      el("dd", {}, typeof value === "string" ? value : JSON.stringify(value)),
    ]),
  );
  $("card").hidden = false;
}

const prefixed = (name, object) =>
  Object.fromEntries(Object.entries(object ?? {}).map(([key, value]) => [`${name} ${key}`, value]));

// ---- Text and images to text ----------------------------------------------------------------------------------------

function startChat(card) {
  const { chat } = card;
  $("prompt-hint").textContent = `At most ${chat.max_prompt} tokens, the template's among them. Ctrl+Enter generates.`;
  const zone = chat.sees
    ? imageZone($("chat-views"), {
        title: "Image (may be left out)",
        size: chat.image_size ?? null,
        pixelsMax: SIDE_MAX ** 2,
        removable: true,
      })
    : null;
  const took = latencies($("chat-times"), [
    ["first", "to the first step"],
    ["step", "per step after it"],
    ["total", "total"],
  ]);
  const frames = slotsOf();
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("chat-form").requestSubmit();
  });

  async function request() {
    const text = $("prompt").value;
    if (text === "") throw wrong($("prompt"), "messages", "the prompt is empty", "a text");
    const image = zone?.canvas ? { type: "image_url", image_url: { url: await png(zone.canvas) } } : null;
    const content = image ? [image, { type: "text", text }] : text;
    const given = {
      temperature: numberIn($("temperature"), "temperature", "a number from 0 up", (x) => x >= 0),
      top_p: numberIn($("top_p"), "top_p", "a number above 0, at most 1", (x) => x > 0 && x <= 1),
      seed: seedIn($("chat-seed")),
    };
    if ($("raw").checked) given.raw = true;
    return bodyOf({
      model: card.name,
      messages: [{ role: "user", content }],
      stream: true,
      diffusing: true,
      stream_options: { include_usage: true },
      ...given,
    });
  }

  async function run(signal) {
    const state = $("chat-state");
    const body = await request();
    frames.clear();
    $("answer").textContent = $("usage").textContent = "";
    state.textContent = "Waiting for the first step ..";
    const start = performance.now();
    let [answer, count, usage, finish, done] = ["", 0, null, null, false];
    let first, last, slots;
    const response = await ask("v1/chat/completions", body, signal);
    for await (const data of eventsOf(response)) {
      if (data === "[DONE]") {
        done = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw Refused.from(chunk.error);
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) $("answer").textContent = answer += choice.delta.content;
      finish = choice?.finish_reason ?? finish;
      usage = chunk.usage ?? usage;
      if (chunk.dream) {
        const { step, steps, canvas } = chunk.dream;
        slots ??= canvas.length;
        if (canvas.length !== slots) {
          throw new Refused(`a canvas of the stream has ${canvas.length} slots`, { expected: `${slots}, as before` });
        }
        // A step that says "nothing is written yet" is not one that the model took.
        if (step > 0) {
          last = performance.now();
          first ??= last;
          count += 1;
        }
        frames.add(step, steps, canvas);
        state.textContent = `Step ${step} of ${steps}`;
      }
      // Whoever watches the page sees each step, even if many came at once.
      await null;
    }
    if (!done) throw new Refused("the stream ended before its end was said", { expected: "data: [DONE]" });
    const total = performance.now() - start;
    took({ first: first && first - start, step: count > 1 ? (last - first) / (count - 1) : undefined, total });
    const ends = { stop: "an end token was written", length: "all slots are used" };
    state.textContent = `Done: ${frames.said()} in ${ms(total)} ms`;
    const tokens = usage
      ? `${usage.prompt_tokens} tokens in the prompt, ${usage.completion_tokens} in the answer`
      : "tokens were not told";
    $("usage").textContent = `${tokens}; ${ends[finish] ?? `finish_reason ${finish}`}`;
  }

  const watched = (signal) => run(signal).finally(frames.rest);
  runs({ form: $("chat-form"), start: $("generate"), stop: $("chat-stop"), state: $("chat-state"), run: watched });
  $("chat").hidden = false;
}

// ---- Policies -------------------------------------------------------------------------------------------------------

function startPolicy(card) {
  const { policy } = card;
  const keys = Array.from({ length: policy.views }, (_, i) => ["full_image", "wrist_image"][i] ?? `wrist_image_${i}`);
  const pixelsMax = Math.floor((BODY_BYTES_MAX - REST_BYTES) / 4 / policy.views);
  const views = keys.map((key, i) =>
    imageZone($("policy-views"), {
      title: i === 0 ? "View 0, third person" : `View ${i}, wrist`,
      size: policy.image_size ?? null,
      pixelsMax,
    }),
  );
  const states = Array.from({ length: policy.proprio_dim ?? 0 }, (_, i) =>
    el("input", { id: `state-${i}`, inputmode: "decimal", autocomplete: "off" }),
  );
  $("states").replaceChildren(
    ...states.map((input, i) => el("div", {}, el("label", { for: input.id }, `state ${i}`), input)),
  );
  $("state-fields").hidden = states.length === 0;
  const took = latencies($("act-times"), [
    ["model", "model (the server's clock)"],
    ["total", "total (the server's clock)"],
    ["page", "there and back (this page's clock)"],
  ]);
  const chart = chunkOf(policy);

  async function request() {
    views.forEach((view, i) => {
      if (!view.canvas) throw wrong(view.input, keys[i], "there is no image", "an image, dropped, chosen or pasted");
    });
    const instruction = $("task").value;
    if (instruction.trim() === "") throw wrong($("task"), "instruction", "the task is empty", "a text");
    const rest = { instruction };
    if (states.length > 0) {
      const expected = `${states.length} numbers, in the robot's own units`;
      rest.state = states.map((input) => {
        const value = numberIn(input, "state", expected, () => true);
        if (value === undefined) throw wrong(input, "state", `number ${input.id.slice(6)} is empty`, expected);
        return value;
      });
    }
    rest.seed = seedIn($("seed")) ?? 0;
    // Views are told apart by their order in the request.
    const images = {};
    for (const [i, view] of views.entries()) images[keys[i]] = await numpyOf(view.canvas);
    return bodyOf({ ...images, ...rest });
  }

  async function run(signal) {
    const state = $("policy-state");
    const body = await request();
    const image = views[0].canvas;
    state.textContent = "Waiting for the actions ..";
    const start = performance.now();
    const response = await ask("act", body, signal);
    const list = await json(response);
    const page = performance.now() - start;
    if (!Array.isArray(list) || list.length === 0) throw new Refused("the answer is no list of actions");
    const actions = list.map((action) => floatsOf(action, policy.action_dim));
    took({ ...timingOf(response), page });
    chart.draw(actions, image);
    const ignored = response.headers.get("dream-ignored");
    state.textContent = `Done: ${actions.length} ${actions.length === 1 ? "action" : "actions"} in ${ms(page)} ms.${ignored ? ` The server passed over ${ignored}.` : ""}`;
  }

  runs({ form: $("policy-form"), start: $("act"), stop: $("act-stop"), state: $("policy-state"), run });
  $("policy").hidden = false;
}

// ---- Start ----------------------------------------------------------------------------------------------------------

function wantToken(message) {
  $("token-form").hidden = false;
  $("token-state").textContent = token === null ? "" : `The token was not taken: ${message}`;
  $("token").focus();
}

let card = null;

async function open() {
  unmark();
  try {
    card = await json(await ask("card"));
  } catch (error) {
    $("loading").hidden = true;
    if (error.unauthorized) return wantToken(error.message);
    return show(error);
  }
  $("loading").hidden = true;
  $("token-form").hidden = true;
  drawCard(card);
  if (card.chat) startChat(card);
  if (card.policy) startPolicy(card);
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("token").value.trim();
  // What is no header would fail in the browser, with words that help nobody.
  if (!/^[\x21-\x7e]+$/.test(given)) {
    $("token-state").textContent = "A token has letters, digits and signs, and no spaces.";
    return;
  }
  keep(given);
  $("token").value = "";
  if (card === null) open();
  else {
    $("token-form").hidden = true;
    unmark();
  }
});

open();
