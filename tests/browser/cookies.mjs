// What only a browser can show: that the cookies of a session stay out of scripts' reach, go along with the requests of
// the app's own page on another origin, and do not go along with those of a stranger's page on another site.
//
// localhost and 127.0.0.1 are two sites; localhost with two ports is one site and two origins.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { withBrowser } from "./browser.mjs";

const [apiPort, appPort] = process.argv.slice(2);
const api = `http://localhost:${apiPort}`;
const app = `http://localhost:${appPort}`;
const evil = `http://127.0.0.1:${appPort}`;
const password = "correct horse battery staple";

// One server shows both: which site a page is on is the name that it was asked for by.
const pages = createServer((request, response) => {
  response.setHeader("content-type", "text/html");
  response.end("<!doctype html><title>page</title>");
});
await new Promise((resolve, reject) => pages.once("error", reject).listen(Number(appPort), "127.0.0.1", resolve));

/** fetch() in the page, with cookies. */
function send(page, method, path, { body, csrf, mode } = {}) {
  const call = async ({ url, method, body, csrf, mode }) => {
    const headers = {};
    if (body !== undefined && mode !== "no-cors") headers["content-type"] = "application/json";
    if (csrf) headers["x-csrf-token"] = csrf;
    try {
      const response = await fetch(url, {
        method, headers, mode, credentials: "include", body: body === undefined ? undefined : JSON.stringify(body),
      });
      const text = response.type === "opaque" ? "" : await response.text();
      return { type: response.type, status: response.status, json: text && JSON.parse(text) };
    } catch (error) {
      return { failed: String(error) };
    }
  };
  return page.evaluate(call, { url: api + path, method, body, csrf, mode });
}

const login = { email: "ada@example.org", password, delivery: "cookie" };

try {
  await withBrowser(async (browser) => {
    const page = await browser.newPage();
    await page.goto(app);
    const cookies = async () =>
      (await browser.cookies()).filter((cookie) => /auth_(access|refresh)$/.test(cookie.name)).sort((a, b) => (a.name < b.name ? -1 : 1));

    const signup = await send(page, "POST", "/api/auth/signup", { body: { ...login, name: "Ada" } });
    assert.equal(signup.status, 201, JSON.stringify(signup));
    assert.equal(signup.json.refreshToken, undefined);
    const { csrfToken: csrf } = signup.json;
    const kept = await cookies();
    assert.deepEqual(kept.map(({ name, path, httpOnly, secure, sameSite }) => ({ name, path, httpOnly, secure, sameSite })), [
      { name: "__Host-auth_access", path: "/", httpOnly: true, secure: true, sameSite: "Lax" },
      { name: "__Secure-auth_refresh", path: "/api/auth", httpOnly: true, secure: true, sameSite: "Lax" },
    ]);
    // The host is the same, so a script would see a cookie that is not HttpOnly.
    assert.equal(await page.evaluate(() => document.cookie), "");

    // The app's own page, on another origin.
    const me = await send(page, "GET", "/api/auth/me");
    assert.equal(me.json?.user?.email, "ada@example.org", JSON.stringify(me));
    const asked = await send(page, "GET", "/api/auth/csrf-token");
    assert.equal(asked.json.csrfToken, csrf);
    const without = await send(page, "POST", "/api/auth/logout");
    assert.equal(without.json.code, "csrf_token_missing");
    const refreshed = await send(page, "POST", "/api/auth/refresh", { csrf });
    assert.equal(refreshed.status, 200, JSON.stringify(refreshed));
    assert.notEqual((await cookies())[1].value, kept[1].value, "the new refresh token took the old one's place");

    // Tabs that wake up together: some are still waiting for a connection when the first has its answer, and go out with
    // the cookie that it brought. Each is answered, and nobody is logged out.
    const tabs = await Promise.all(Array.from({ length: 20 }, async () => {
      const tab = await browser.newPage();
      await tab.goto(app);
      return tab;
    }));
    const answers = await Promise.all(tabs.map((tab) => send(tab, "POST", "/api/auth/refresh", { csrf })));
    assert.deepEqual(answers.map((answer) => answer.status), answers.map(() => 200));
    assert.equal((await send(page, "GET", "/api/auth/me")).status, 200);

    // A stranger's page, on another site, in the same browser.
    const stranger = await browser.newPage();
    await stranger.goto(evil);
    assert.match((await send(stranger, "GET", "/api/auth/me")).failed, /Failed to fetch/, "CORS keeps the answer");
    assert.match((await send(stranger, "POST", "/api/auth/logout-all", { csrf })).failed, /Failed to fetch/);
    // Not even an opaque answer: cross-origin-resource-policy.
    assert.match((await send(stranger, "POST", "/api/auth/logout", { mode: "no-cors" })).failed, /Failed to fetch/);
    const before = await cookies();
    // Nor by a form, which asks nobody before it is sent: logging out, or logging in as somebody else.
    for (const path of ["/api/auth/logout", "/api/auth/login"]) {
      const form = await browser.newPage();
      await form.goto(evil);
      const [answer] = await Promise.all([
        form.waitForNavigation(),
        form.evaluate((url) => {
          document.body.innerHTML = `<form method="post" enctype="text/plain" action="${url}"><input name='{"a":"' value='"}'></form>`;
          document.forms[0].submit();
        }, api + path),
      ]);
      assert.ok([401, 403, 415].includes(answer.status()), `${path}: ${answer.status()}`);
    }
    assert.deepEqual(await cookies(), before);
    assert.equal((await send(page, "GET", "/api/auth/me")).status, 200, "the session lives");

    const out = await send(page, "POST", "/api/auth/logout", { csrf });
    assert.deepEqual(out.json, { revokedSessions: 1 });
    assert.deepEqual(await cookies(), []);
    assert.equal((await send(page, "GET", "/api/auth/me")).status, 401);
  });
  console.log("kept, sent, refreshed by twenty tabs, withheld from a stranger's page, taken back");
} finally {
  pages.close();
}
