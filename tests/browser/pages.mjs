// What the tests of the pages share: a browser that notes whatever a page must never do, people, and keys.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { withBrowser } from "./browser.mjs";

export const password = "correct horse battery staple";
const axe = await readFile(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");

const lines = createInterface({ input: process.stdin });
const answers = lines[Symbol.asyncIterator]();

/** Asks the test that runs this one to do something in the database: its `match` has a line for each. */
export async function ask(what) {
  process.stdout.write(`@${what}\n`);
  const { value } = await answers.next();
  assert.equal(value, "done", `${what}: ${value}`);
}

/** A session by API, as a program has one, under any user agent. */
export async function signUp(origin, email, name, more = {}, headers = {}) {
  const response = await fetch(`${origin}/api/auth/signup`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ email, password, name, ...more }),
  });
  assert.equal(response.status, 201, await response.clone().text());
  return response.json();
}

export async function logIn(origin, email, headers = {}) {
  const response = await fetch(`${origin}/api/auth/login`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ email, password }),
  });
  assert.equal(response.status, 200, await response.clone().text());
  return response.json();
}

/** Whether a program's session lives. */
export async function lives(origin, { accessToken }) {
  const response = await fetch(`${origin}/api/auth/me`, { headers: { authorization: `Bearer ${accessToken}` } });
  return response.status === 200;
}

/**
 * Runs tests one after the other, each without the tabs and the cookies of those before (a profile of its own for each would
 * cost a fifth more), and says which failed. A tab notes each request to another host, violation of the policy, dialog (no page
 * of ours opens one: it would be an injected script), and error.
 */
export async function test(origin, tests) {
  const only = new RegExp(process.env.BROWSER_TEST ?? "");
  await withBrowser(async (browser) => {
    const context = await browser.createBrowserContext();
    for (const [name, body] of Object.entries(tests)) {
      if (!only.test(name)) continue;
      const offences = [];
      try {
        await body((options) => open(context, origin, offences, options), context);
        assert.deepEqual(offences, []);
        console.log(`ok  ${name}`);
      } catch (error) {
        const shown = await Promise.all((await context.pages()).map(async (page) => `${page.url()}\n${await page.evaluate(() => document.body?.innerText).catch(String)}`));
        throw new Error(`${name}: ${error.stack}\n${offences.join("\n")}\n--- shown:\n${shown.join("\n---\n")}`);
      }
      await Promise.all((await context.pages()).map((page) => page.close()));
      await context.deleteCookie(...(await context.cookies()));
    }
  }).finally(() => lines.close());
}

async function open(context, origin, offences, { width = 1100, scheme = "light" } = {}) {
  const page = await context.newPage();
  await look(page, width, scheme);
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== origin) offences.push(`a request to ${request.url()}`);
  });
  page.on("dialog", (dialog) => {
    offences.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("pageerror", (error) => offences.push(`an error: ${error.message}`));
  page.on("console", (message) => {
    // Chromium itself says so of each 4xx that a script fetches, and htmx of a part that is refused from now on; and htmx,
    // with the event alone, when a live stream ends because the session did or the page is left.
    const expected = /^Failed to load resource|^Response Status Error Code 40[13] from |^\[object Event\]$/.test(message.text());
    if (message.type() === "error" && !expected) offences.push(message.text());
  });
  await page.exposeFunction("violated", (what) => offences.push(`the policy: ${what}`));
  await page.evaluateOnNewDocument(() => {
    addEventListener("securitypolicyviolation", (event) => window.violated(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
  });
  return page;
}

/** Signs a tab in, by the page. */
export async function signIn(page, origin, email, to = "/account") {
  await page.goto(`${origin}/sign-in?returnTo=${encodeURIComponent(to)}`);
  // Not typed: a tenth of all that these tests cost is keystrokes. (Typing is a test of its own.)
  await page.$eval("#email", (field, email) => { field.value = email; }, email);
  await page.$eval("#password", (field, password) => { field.value = password; field.focus(); }, password);
  await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
  assert.equal(page.url(), origin + to);
}

/** Waits until the page shows a text; its parts may stand in several elements. */
export const shows = (page, text) =>
  page.waitForFunction((text) => document.body.innerText.includes(text), { timeout: 10_000, polling: "mutation" }, text);

/** Waits until a tab is somewhere. */
export const arrives = (page, path) =>
  page.waitForFunction((path) => location.pathname + location.search === path && document.readyState === "complete", { timeout: 10_000 }, path);

/** Tab, until the element of that accessible text has the focus: so it can be reached, and is seen to be. */
export async function tabTo(page, text, limit = 60) {
  for (let n = 0; n < limit; n++) {
    await page.keyboard.press("Tab");
    const found = await page.evaluate(() => {
      const element = document.activeElement;
      const label = element.labels?.[0]?.innerText ?? element.textContent;
      return { label: label.trim().replace(/\s+/g, " "), visible: getComputedStyle(element).outlineStyle !== "none" };
    });
    if (found.label.startsWith(text)) {
      assert.ok(found.visible, `the focus on ${text} is not visible`);
      return;
    }
  }
  assert.fail(`Tab does not reach ${text}`);
}

/** No finding of axe, and nothing wider than the screen: light on a desk, dark on a phone. */
export async function isAccessible(page) {
  const url = page.url();
  await page.evaluate(axe);
  for (const [width, scheme] of [[1100, "light"], [360, "dark"]]) {
      await look(page, width, scheme);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wide <= 0, `${url}: ${wide} pixels wider than ${width}`);
    const found = await page.evaluate(async () => (await window.axe.run(document, { resultTypes: ["violations"] })).violations
      .map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} (${node.failureSummary})`).join("\n")}`));
    assert.deepEqual(found, [], `${url}, ${scheme}, ${width}`);
  }
  await look(page, 1100, "light");
}

/** As it is on a screen of that width, in that colour scheme. */
export async function look(page, width, scheme) {
  await page.setViewport({ width, height: 800, deviceScaleFactor: 1 });
  await page.emulateMediaFeatures([
    { name: "prefers-color-scheme", value: scheme },
    { name: "prefers-reduced-motion", value: "reduce" },
  ]);
}

/** A picture for the README. */
export async function picture(page, name, height = 800) {
  await page.setViewport({ ...page.viewport(), height });
  await page.$eval("#status", (line) => { line.textContent = ""; });
  await page.screenshot({ path: new URL(`../../api/screenshots/${name}.png`, import.meta.url).pathname });
}
