// The page in a headless Chromium, against servers that run. Environment:
//   CHROMIUM                       path of the browser
//   DREAM_TEXT_URL                 serves the 4x4 sudokus, 16 steps
//   DREAM_POLICY_URL, DREAM_IMAGE  serves the tabletop policy with a state; a frame of it, 112x112 (PNG)
//   DREAM_TOKEN_URL, DREAM_TOKEN   serves anything, to whoever has the token
//   SCREENSHOT_DIR                 where text.png and policy.png go (optional)
// A test whose server is not given is skipped by name.

import assert from "node:assert/strict";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const { CHROMIUM, DREAM_TEXT_URL, DREAM_POLICY_URL, DREAM_IMAGE, DREAM_TOKEN_URL, DREAM_TOKEN, SCREENSHOT_DIR } =
  process.env;
const PUZZLE = "3014010200002001\n";
const SOLVED = "3214413214232341";
const TASK = "pick up the red block";
const TEST_MS = 120_000;
const WAIT_MS = 60_000;
const SCREENSHOT_BYTES_MAX = 150_000;

let browser;
before(
  async () => {
    assert.ok(CHROMIUM, "CHROMIUM must be the path of a browser");
    assert.ok(DREAM_TEXT_URL || DREAM_POLICY_URL || DREAM_TOKEN_URL, "no server is given");
    browser = await chromium.launch({
      executablePath: CHROMIUM,
      headless: true,
      args: ["--no-sandbox"],
      timeout: WAIT_MS,
    });
  },
  { timeout: TEST_MS },
);
after(() => browser?.close(), { timeout: WAIT_MS });

/** Opens the page and gives it to `body`; afterwards nothing may have been complained of, and nobody else asked. */
function visits(name, url, options, body) {
  const missing = url ? undefined : "its server is not given";
  test(name, { timeout: TEST_MS, skip: missing }, async () => {
    const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, ...options });
    try {
      const page = await context.newPage();
      page.setDefaultTimeout(WAIT_MS);
      const { origin } = new URL(url);
      const complaints = [];
      const strangers = [];
      const refusals = [];
      page.on("console", (said) => {
        // The browser itself reports each status from 400 on.
        const refused = /^Failed to load resource: .* status of (\d+)/.exec(said.text());
        if (refused) refusals.push(Number(refused[1]));
        else if (["error", "warning"].includes(said.type())) complaints.push(said.text());
      });
      page.on("pageerror", (error) => complaints.push(String(error)));
      page.on("request", (request) => {
        const asked = request.url();
        if (!/^(data|blob):/.test(asked) && new URL(asked).origin !== origin) strangers.push(asked);
      });
      const answer = await page.goto(url);
      const policy = answer.headers()["content-security-policy"] ?? "";
      assert.match(policy, /default-src 'none'/, "the page has a policy for its contents");
      const expected = (await body(page)) ?? [];
      assert.deepEqual(complaints, [], "the console is silent");
      assert.deepEqual(strangers, [], "nothing is asked beyond the server");
      assert.deepEqual(refusals, expected, "nothing else was refused");
    } finally {
      await context.close();
    }
  });
}

const textOf = (page, id) => page.locator(`#${id}`).innerText();

/** Until an element says so. */
async function says(page, id, pattern) {
  await page.locator(`#${id}`).filter({ hasText: pattern }).waitFor();
}

async function screenshot(page, name) {
  if (!SCREENSHOT_DIR) return;
  const path = join(SCREENSHOT_DIR, name);
  await page.evaluate(() => {
    document.activeElement?.blur();
    scrollTo(0, 0);
  });
  await page.mouse.move(1199, 799);
  await page.screenshot({ path, animations: "disabled" });
  const { size } = await stat(path);
  assert.ok(size < SCREENSHOT_BYTES_MAX, `${name} has ${size} bytes`);
}

async function cardIsShown(page, url, headers = {}) {
  const card = await (await fetch(new URL("card", url), { headers })).json();
  await page.locator("#card").waitFor();
  assert.equal(await textOf(page, "name"), card.name);
  const facts = (await textOf(page, "facts")).replace(/\s+/g, " ");
  for (const value of [card.device, card.target, String(card.steps), card.artifact_blake3.slice(0, 12)]) {
    assert.ok(facts.includes(value), `the card says ${value}`);
  }
  assert.equal(await page.locator("#hash").getAttribute("title"), card.artifact_blake3);
  await page.getByText("How it was built").click();
  const options = await textOf(page, "options");
  for (const [key, value] of Object.entries(card.options)) {
    assert.ok(options.includes(key) && options.includes(value), `the card says ${key} ${value}`);
  }
  await page.getByText("How it was built").click();
  return card;
}

/** Cells of the canvas, `_` where masked. */
const cells = (page) =>
  page
    .locator("#slots li")
    .evaluateAll((list) => list.map((cell) => (cell.classList.contains("mask") ? "_" : cell.textContent)).join(""));

const last = (page, table, row) => page.locator(`#${table} tbody tr`).nth(row).locator("td").first().innerText();

visits("text is denoised step by step", DREAM_TEXT_URL, {}, async (page) => {
  const card = await cardIsShown(page, DREAM_TEXT_URL);
  assert.equal(card.chat.new_tokens, SOLVED.length);
  await page.evaluate(() => {
    const slots = document.getElementById("slots");
    window.seen = new Set();
    new MutationObserver(() => {
      window.seen.add(
        [...slots.children].map((cell) => (cell.classList.contains("mask") ? "_" : cell.textContent)).join(""),
      );
    }).observe(slots, { childList: true, subtree: true, characterData: true, attributes: true });
  });
  await page.getByLabel("Prompt", { exact: true }).fill(PUZZLE);
  await page.getByLabel("raw").check();
  await page.getByRole("button", { name: "Generate" }).click();
  await says(page, "chat-state", /^Done/);
  assert.equal(await page.locator("#answer").textContent(), SOLVED);
  assert.equal(await cells(page), SOLVED);
  const seen = await page.evaluate(() => [...window.seen]);
  const between = seen.filter((text) => text.includes("_") && /\d/.test(text));
  assert.ok(between.length >= 3, `${between.length} canvases between the first and the last were seen`);
  for (const text of between) {
    assert.ok(
      [...text].every((c, i) => c === "_" || c === SOLVED[i]),
      `${text} leads to the answer`,
    );
  }
  assert.match(await textOf(page, "usage"), /\d+ tokens in the prompt, \d+ in the answer/);
  for (const row of [0, 1, 2]) assert.match(await last(page, "chat-times", row), /^\d/);

  // Back over the steps: by keys, since a range has them.
  const slider = page.locator("#when");
  await slider.focus();
  await slider.press("Home");
  const first = await cells(page);
  assert.ok(first.includes("_"), `${first} is an early canvas`);
  for (let i = 0; i < 8; i++) await slider.press("ArrowRight");
  const middle = await cells(page);
  assert.ok(middle.includes("_") && middle !== first, `${middle} is a later one`);
  assert.ok((await page.locator("#slots li.new").count()) > 0, "what a step wrote is marked");
  await screenshot(page, "text.png");
  await slider.press("End");
  assert.equal(await cells(page), SOLVED);
});

visits("a setting that is wrong is named", DREAM_TEXT_URL, {}, async (page) => {
  await page.getByLabel("Prompt", { exact: true }).fill(PUZZLE);
  await page.getByLabel("raw").check();
  await page.getByLabel("temperature").fill("warm");
  await page.getByRole("button", { name: "Generate" }).click();
  await says(page, "problem", /temperature.*warm/s);
  assert.equal(await page.locator("#problem [data-field=field]").innerText(), "temperature");
  assert.equal(await page.getByLabel("temperature").getAttribute("aria-invalid"), "true");

  // The same from the server: the page would not send it, so it is put in on the way.
  await page.getByLabel("temperature").fill("");
  await page.route("**/v1/chat/completions", (route) =>
    route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), temperature: "warm" }) }),
  );
  await page.getByRole("button", { name: "Generate" }).click();
  await says(page, "problem", /status/);
  assert.equal(await page.locator("#problem [data-field=field]").innerText(), "temperature");
  assert.match(await page.locator("#problem [data-field=status]").innerText(), /^4\d\d/);
  return [400];
});

visits("a generation is stopped", DREAM_TEXT_URL, {}, async (page) => {
  await page.getByLabel("Prompt", { exact: true }).fill(PUZZLE);
  await page.getByLabel("raw").check();
  // Stopped before the server is asked: how fast it is does not matter.
  await page.route("**/v1/chat/completions", () => {});
  await page.getByRole("button", { name: "Generate" }).click();
  await page.getByRole("button", { name: "Stop" }).click();
  await says(page, "chat-state", /^Stopped/);
  await page.unroute("**/v1/chat/completions");
  await page.getByRole("button", { name: "Generate" }).click();
  await says(page, "chat-state", /^Done/);
  assert.equal(await page.locator("#answer").textContent(), SOLVED);
});

async function giveObservation(page, card) {
  assert.ok(DREAM_IMAGE, "DREAM_IMAGE is not set");
  for (let view = 0; view < card.policy.views; view++) await page.locator(`#view-${view}`).setInputFiles(DREAM_IMAGE);
  await page
    .locator(".drop canvas")
    .nth(card.policy.views - 1)
    .waitFor();
  await page.getByLabel("Task").fill(TASK);
  for (const [i, value] of ["44", "55"].entries()) await page.getByLabel(`state ${i}`).fill(value);
}

visits("actions are drawn", DREAM_POLICY_URL, {}, async (page) => {
  const card = await cardIsShown(page, DREAM_POLICY_URL);
  assert.equal(card.policy.proprio_dim, 2, "the fixture has a state");
  await giveObservation(page, card);
  await page.getByRole("button", { name: "Act" }).click();
  await says(page, "policy-state", /^Done: 5 actions/);
  const curves = page.locator("#curves .curve");
  assert.equal(await curves.count(), 7);
  for (let i = 0; i < 7; i++) assert.equal(await curves.nth(i).locator(".point").count(), 5, `points of dim ${i}`);
  assert.equal(await page.locator("#path .segment").count(), 5);
  assert.equal(await page.locator("#path .dot").count(), 5);
  assert.match(await textOf(page, "path-said"), /not a projection by the camera/);
  for (const row of [0, 1, 2]) assert.match(await last(page, "act-times", row), /^\d/);

  // The page shows what the server says of the same request.
  const bytes = await page.evaluate(() => {
    const canvas = document.querySelector(".drop canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return [...data].filter((_, i) => i % 4 < 3);
  });
  assert.equal(bytes.length, 112 * 112 * 3, "the image is sent as it is");
  const image = { __numpy__: Buffer.from(bytes).toString("base64"), dtype: "|u1", shape: [112, 112, 3] };
  const views = Object.fromEntries(
    Array.from({ length: card.policy.views }, (_, i) => [
      ["full_image", "wrist_image"][i] ?? `wrist_image_${i}`,
      image,
    ]),
  );
  const asked = { ...views, instruction: TASK, state: [44, 55], seed: 0 };
  const answer = await fetch(new URL("act", DREAM_POLICY_URL), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(asked),
    signal: AbortSignal.timeout(WAIT_MS),
  });
  const rows = (await answer.json()).map(({ __numpy__ }) => {
    const raw = Uint8Array.from(Buffer.from(__numpy__, "base64"));
    return [...new Float64Array(raw.buffer)].map(String);
  });
  const shown = await page
    .locator("#numbers tbody tr")
    .evaluateAll((list) => list.map((row) => [...row.querySelectorAll("td")].map((td) => td.title)));
  assert.deepEqual(shown, rows);

  // The path starts where the image is clicked.
  const before = await page.locator("#path .segment").first().getAttribute("x1");
  const box = await page.locator("#path").boundingBox();
  await page.locator("#path").click({ position: { x: box.width * 0.4, y: box.height * 0.5 }, force: true });
  const moved = Number(await page.locator("#path .segment").first().getAttribute("x1"));
  assert.notEqual(String(moved), before);
  assert.ok(Math.abs(moved - 0.4 * 112) <= 1, `the path starts at ${moved}`);
  await page.locator("#at").press("ArrowRight");
  assert.equal(await page.locator("#path .dot.at").count(), 1);
  await screenshot(page, "policy.png");
});

visits("what an observation lacks is named", DREAM_POLICY_URL, {}, async (page) => {
  const card = await cardIsShown(page, DREAM_POLICY_URL);
  const act = page.getByRole("button", { name: "Act" });
  const field = page.locator("#problem [data-field=field]");
  await act.click();
  await says(page, "problem", /full_image/);
  await giveObservation(page, card);
  await page.getByLabel("Task").fill("");
  await act.click();
  await says(page, "problem", /the task is empty/);
  assert.equal(await field.innerText(), "instruction");
  assert.equal(await page.getByLabel("Task").getAttribute("aria-invalid"), "true");
  await page.getByLabel("Task").fill(TASK);
  await page.getByLabel("state 1").fill("near");
  await act.click();
  await says(page, "problem", /near/);
  assert.equal(await field.innerText(), "state");

  // The same from the server: the page would not send it, so it is taken out on the way.
  await page.getByLabel("state 1").fill("55");
  await page.route("**/act", (route) => {
    const { instruction, ...rest } = route.request().postDataJSON();
    return route.continue({ postData: JSON.stringify(rest) });
  });
  await act.click();
  await says(page, "problem", /status/);
  assert.equal(await field.innerText(), "instruction");
  assert.match(await page.locator("#problem [data-field=expected]").innerText(), /text/);
  return [400];
});

visits(
  "a narrow screen in the dark has no sideways scrolling",
  DREAM_POLICY_URL,
  { viewport: { width: 380, height: 800 }, colorScheme: "dark" },
  async (page) => {
    const card = await cardIsShown(page, DREAM_POLICY_URL);
    await giveObservation(page, card);
    await page.getByLabel("Task").press("Enter");
    await says(page, "policy-state", /^Done/);
    const [needed, there] = await page.evaluate(() => [
      document.documentElement.scrollWidth,
      document.documentElement.clientWidth,
    ]);
    assert.ok(needed <= there, `${needed} px are needed, ${there} are there`);
  },
);

visits("a token is asked for, kept for the tab and can be wrong", DREAM_TOKEN_URL, {}, async (page) => {
  assert.ok(DREAM_TOKEN, "DREAM_TOKEN is not set");
  const field = page.getByLabel("Token", { exact: true });
  await field.waitFor();
  assert.ok(await page.locator("#card").isHidden());
  await field.fill("not-the-token");
  await page.getByRole("button", { name: "Use" }).click();
  await says(page, "token-state", /was not taken/);
  await field.fill(DREAM_TOKEN);
  await field.press("Enter");
  await cardIsShown(page, DREAM_TOKEN_URL, { authorization: `Bearer ${DREAM_TOKEN}` });
  assert.ok(await page.locator("#token-form").isHidden());
  await page.reload();
  await page.locator("#card").waitFor();
  return [401, 401];
});

test("the files name no other place", async () => {
  for (const name of ["index.html", "page.css", "page.js", "draw.js"]) {
    const text = await readFile(new URL(`../${name}`, import.meta.url), "utf8");
    const named = text.match(/\b(https?|wss?):\/\/[^\s"'`)]+/g) ?? [];
    assert.deepEqual(
      named.filter((url) => url !== "http://www.w3.org/2000/svg"),
      [],
      name,
    );
    assert.doesNotMatch(text, /innerHTML|outerHTML|insertAdjacentHTML|\beval\(|style="/, name);
  }
});
