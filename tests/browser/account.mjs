// The account page, as people use it: with a mouse, with keys alone, with a session that ended meanwhile; and with names that
// are scripts.
import assert from "node:assert/strict";
import { arrives, ask, isAccessible, lives, logIn, look, picture, shows, signIn, signUp, tabTo, test } from "./pages.mjs";

const [port] = process.argv.slice(2);
const origin = `http://localhost:${port}`;
const email = "ada@example.org";
const script = `<img src=x onerror=alert(1)><script>alert(2)</script>'"`;
const phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1";

/** For the README (SCREENSHOTS=1): an account with a past, from several networks. */
async function pictures(open) {
  const ada = "ada.lovelace@example.org";
  const from = (network, agent) => ({ "x-forwarded-for": network, "user-agent": agent });
  const desk = from("198.51.100.24", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36");
  const pocket = from("203.0.113.77", phone);
  const office = from("192.0.2.10", "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0");
  const { refreshToken } = await signUp(origin, ada, "Ada Lovelace", { organization: { name: "Analytical Engines", slug: "engines" } }, office);
  await ask("verify every e-mail");
  const post = (path, body, headers) => fetch(origin + path, { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) });
  await logIn(origin, ada, office);
  await logIn(origin, ada, pocket);
  await post("/api/auth/login", { email: ada, password: "wrong" }, from("203.0.113.200", office["user-agent"]));
  const { refreshToken: next } = await (await post("/api/auth/refresh", { refreshToken }, office)).json();
  await post("/api/auth/refresh", { refreshToken: next }, office);
  await post("/api/auth/refresh", { refreshToken }, from("203.0.113.200", "curl/8.5.0"));
  const page = await open();
  await page.setUserAgent(desk["user-agent"]);
  await page.setExtraHTTPHeaders({ "x-forwarded-for": desk["x-forwarded-for"] });
  await page.goto(`${origin}/sign-in`);
  await page.type("#email", ada);
  await picture(page, "sign-in", 560);
  await signIn(page, origin, ada);
  await picture(page, "account-devices", 830);
  await look(page, 390, "dark");
  await picture(page, "account-devices-phone", 844);
  await page.goto(`${origin}/account/activity`);
  await picture(page, "account-activity-phone", 844);
  await look(page, 1100, "dark");
  await picture(page, "account-activity");
  await page.goto(`${origin}/account/password`);
  await look(page, 1100, "light");
  await picture(page, "account-password", 620);
  await page.goto(`${origin}/account/tokens`);
  await page.type("#name", "nightly report");
  await page.click("input[value='sessions:read']");
  await page.click("input[value='security_events:read']");
  await page.click(".card.form .primary");
  await shows(page, "1 token");
  // Not even one that is good for this test's database only.
  await page.$eval("#new-token", (element) => { element.textContent = `asp_${"x".repeat(64)}`; });
  await picture(page, "account-tokens", 1290);
  await page.click("[data-forget]");
  await ask("let the authentication age");
  await page.type("#name", "backup");
  await page.click("input[value='profile:read']");
  await page.focus("#name");
  await page.keyboard.press("Enter");
  await shows(page, "Is it still you?");
  await picture(page, "account-step-up");
}

await signUp(origin, email, "Ada Lovelace");

if (process.env.SCREENSHOTS) await test(origin, { pictures });
else await test(origin, {
  async "who is not signed in is asked to, and comes back to what they wanted"(open) {
    const page = await open();
    await page.goto(`${origin}/account?from=mail`);
    await arrives(page, "/sign-in?returnTo=%2Faccount%3Ffrom%3Dmail");
    await isAccessible(page);
    // With keys alone. The browser puts the focus there when it first draws the page, which may be after its load.
    await page.reload();
    await page.waitForFunction(() => document.activeElement.id === "email");
    await page.keyboard.type(email);
    await tabTo(page, "Password");
    await page.keyboard.type("not the password");
    await page.keyboard.press("Enter");
    await shows(page, "The e-mail or the password is wrong.");
    await page.$eval("#password", (field) => { field.value = ""; });
    await page.focus("#email");
    await tabTo(page, "Password");
    await page.keyboard.type("correct horse battery staple");
    await tabTo(page, "Sign in");
    await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
    assert.equal(page.url(), `${origin}/account?from=mail`);
    // Who is signed in is not asked again.
    await page.goto(`${origin}/sign-in`);
    assert.equal(page.url(), `${origin}/account`);
  },

  async "nobody is brought to another site"(open) {
    const page = await open();
    for (const path of ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "/\t/evil.example"]) {
      await page.goto(`${origin}/sign-in?returnTo=${encodeURIComponent(path)}`);
      assert.equal(await page.$eval("form[data-api]", (form) => form.dataset.go), "/account", path);
    }
  },

  async "one device is signed out, with keys alone"(open) {
    const other = await logIn(origin, email, { "user-agent": phone });
    const page = await open();
    await signIn(page, origin, email);
    await shows(page, "This device");
    await isAccessible(page);
    await tabTo(page, "Skip to the content", 1);
    await page.keyboard.press("Enter");
    await tabTo(page, "Sign out Safari");
    await page.keyboard.press("Enter");
    await shows(page, "Sign out Safari 17 on iPhone?");
    await page.keyboard.press("Escape");
    assert.ok(await lives(origin, other), "asked first");
    assert.match(await page.evaluate(() => document.activeElement.textContent), /Sign out Safari/);
    await page.keyboard.press("Enter");
    await tabTo(page, "Sign out");
    await page.keyboard.press("Enter");
    await shows(page, "Safari 17 on iPhone was signed out.");
    await page.waitForFunction(() => !document.querySelector("#devices").innerText.includes("Safari 17"));
    await page.waitForFunction(() => document.activeElement.id === "devices-title"); // the focus is not lost
    assert.ok(!(await lives(origin, other)));
  },

  async "an expired session goes on, an ended one signs in again"(open, context) {
    const other = await logIn(origin, email, { "user-agent": phone });
    const page = await open();
    await signIn(page, origin, email);
    const expire = async () => {
      const cookies = await context.cookies();
      await context.deleteCookie(...cookies.filter((cookie) => cookie.name === "__Host-auth_access"));
    };
    // A page that is asked for, and one that is open.
    await expire();
    await page.goto(`${origin}/account?again`);
    await arrives(page, "/account?again");
    await shows(page, "This device");
    await expire();
    await page.$eval("form[data-api^=DELETE] button", (button) => button.click());
    await shows(page, "Sign out Safari 17 on iPhone?");
    await Promise.all([shows(page, "was signed out."), page.click("#confirm-yes")]);
    assert.ok(!(await lives(origin, other)));
    // A part that htmx fetches.
    await expire();
    await logIn(origin, email, { "user-agent": phone });
    await page.evaluate(() => window.htmx.trigger(document.body, "devices-changed"));
    await page.waitForFunction(() => document.querySelector("#devices").innerText.includes("Safari 17"));
    // Ended elsewhere: neither cookie is any good.
    await ask("end every session");
    await page.reload();
    await arrives(page, "/sign-in?returnTo=%2Faccount%3Fagain");
  },

  async "signing out, here and everywhere"(open) {
    const page = await open();
    await signIn(page, origin, email);
    await Promise.all([page.waitForNavigation(), page.click(".who button")]);
    assert.equal(page.url(), `${origin}/sign-in`);
    await page.goto(`${origin}/account`);
    await arrives(page, "/sign-in?returnTo=%2Faccount");
    const other = await logIn(origin, email);
    await signIn(page, origin, email);
    await page.click("form[data-api$=logout-all] button");
    await shows(page, "Sign out on all devices, this one included?");
    await Promise.all([page.waitForNavigation(), page.click("#confirm-yes")]);
    assert.equal(page.url(), `${origin}/sign-in`);
    assert.ok(!(await lives(origin, other)));
  },

  async "names that are scripts are names"(open) {
    await signUp(origin, "eve@example.org", script, {}, { "user-agent": script });
    await ask("name every device a script");
    const page = await open();
    await signIn(page, origin, "eve@example.org");
    await shows(page, script);
    assert.equal(await page.$$eval("main img, main script, header img, header script", (found) => found.length), 0);
    await page.click("form[data-api^=DELETE] button");
    await shows(page, `Sign out ${script}?`);
    await Promise.all([shows(page, `${script} was signed out.`), page.click("#confirm-yes")]);
    assert.equal(await page.$$eval("body img, body script", (found) => found.length), 0);
  },

  async "a password is changed by who knows it"(open) {
    await signUp(origin, "grace@example.org", "Grace Hopper");
    const other = await logIn(origin, "grace@example.org");
    const page = await open();
    await signIn(page, origin, "grace@example.org", "/account/password");
    await isAccessible(page);
    await ask("let the authentication age");
    await page.type("#current", "not the password");
    await page.type("#new", "short");
    await page.keyboard.press("Enter");
    assert.ok(await page.$eval("#new", (field) => field.matches(":invalid") && field === document.activeElement));
    await page.type("#new", " purple monkey dishwasher");
    await page.click("[data-reveals]");
    assert.equal(await page.$eval("#new", (field) => `${field.type} ${field.value}`), "text short purple monkey dishwasher");
    await page.focus("#new");
    await page.keyboard.press("Enter");
    await shows(page, "The e-mail or the password is wrong.");
    assert.ok(await lives(origin, other));
    // Whoever has just typed the password is not asked for it in a dialog besides.
    await page.$eval("#current", (field) => { field.value = ""; });
    await page.type("#current", "correct horse battery staple");
    await page.keyboard.press("Enter");
    await shows(page, "Your password is changed.");
    assert.ok(!(await lives(origin, other)));
    assert.equal(await page.$eval("#new", (field) => field.value), "", "it is not left in the page");
    await page.reload();
    await shows(page, "Change your password");
  },

  async "a token is made after proving who one is once more, shown once, used, and revoked"(open) {
    await signUp(origin, "kay@example.org", script);
    const page = await open();
    await signIn(page, origin, "kay@example.org", "/account/tokens");
    await shows(page, "That needs a verified e-mail address");
    await isAccessible(page);
    await ask("verify every e-mail");
    await page.reload();
    await shows(page, "0 tokens");
    await page.click(".card.form .primary");
    assert.ok(await page.$eval("#name", (field) => field.matches(":invalid")));
    await page.type("#name", script);
    await page.click("input[value='sessions:read']");
    await page.type("#words", "orders:read  orders:write");
    await page.select("#days", "7");
    await ask("let the authentication age");
    const make = async () => {
      await page.focus("#name");
      await page.keyboard.press("Enter");
      await shows(page, "Is it still you?");
    };
    // Not given: nothing happens. Wrong: it is said. Right: what was asked for is done.
    await make();
    await isAccessible(page);
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => document.activeElement.id === "name" && document.activeElement.form.ariaBusy !== "true");
    await make();
    await page.keyboard.type("not the password");
    await page.keyboard.press("Enter");
    await shows(page, "The e-mail or the password is wrong.");
    assert.equal(await page.$eval("#tokens-title", (title) => title.textContent.trim()), "0 tokens");
    await page.keyboard.type("correct horse battery staple");
    await page.keyboard.press("Enter");
    await shows(page, "it is not shown again");
    await shows(page, "1 token");
    await isAccessible(page);
    assert.equal(await page.evaluate(() => document.activeElement.id), "made-title");
    const token = await page.$eval("#new-token", (element) => element.textContent);
    assert.match(token, /^asp_[A-Za-z0-9_-]{64}$/);
    const use = (path) => fetch(origin + path, { headers: { authorization: `Bearer ${token}` } }).then((response) => response.status);
    assert.deepEqual([await use("/api/auth/sessions"), await use("/api/auth/me"), await use("/account")], [200, 403, 401]);
    assert.deepEqual(await page.$$eval("#tokens .badge", (badges) => badges.map((badge) => badge.textContent)), ["orders:read", "orders:write", "sessions:read"]);
    await page.click("[data-forget]");
    assert.ok(!(await page.content()).includes(token));
    await page.reload();
    assert.ok(!(await page.content()).includes(token), "shown once");
    await page.click("#tokens button");
    await shows(page, `Revoke ${script}?`);
    await Promise.all([shows(page, `${script} was revoked.`), page.click("#confirm-yes")]);
    await shows(page, "0 tokens");
    assert.equal(await use("/api/auth/sessions"), 401);
    assert.equal(await page.$$eval("body img, body script", (found) => found.length), 0);
  },

  async "the timeline tells what happened, page by page"(open) {
    const mallory = { "user-agent": script };
    await signUp(origin, "mary@example.org", "Mary", {}, mallory);
    const wrong = { email: "mary@example.org", password: "wrong" };
    for (let n = 0; n < 3; n++) {
      const answer = await fetch(`${origin}/api/auth/login`, { method: "POST", headers: { "content-type": "application/json", ...mallory }, body: JSON.stringify(wrong) });
      assert.equal(answer.status, 401);
    }
    for (let n = 0; n < 15; n++) await logIn(origin, "mary@example.org", { "user-agent": phone });
    const page = await open();
    await signIn(page, origin, "mary@example.org", "/account/activity");
    await isAccessible(page);
    const events = () => page.$$eval("#events > li.event", (found) => found.length);
    assert.equal(await events(), 25);
    await shows(page, "This session");
    // With the script, and as a link.
    const next = await page.$eval("#more a", (link) => link.href);
    await page.click("#more a");
    await page.waitForFunction(() => document.querySelectorAll("#events > li.event").length > 25);
    await page.waitForFunction(() => document.activeElement === document.querySelectorAll("#events > li.event")[25]);
    while (await page.$("#more")) {
      const before = await events();
      await page.click("#more a");
      await page.waitForFunction((before) => document.querySelectorAll("#events > li.event").length > before, {}, before);
    }
    const all = await page.evaluate(async () => (await (await fetch("/api/auth/security-events?limit=100")).json()).events.length);
    assert.equal(await events(), all, "each once");
    await page.goto(next);
    assert.ok((await events()) > 0);
    await page.goto(`${origin}/account/activity`);
    await page.select("#show", "refused");
    await Promise.all([page.waitForNavigation(), page.click(".filter button")]);
    assert.equal(await events(), 3);
    await shows(page, "Somebody tried to sign in");
    assert.equal(await page.$$eval("main img, main script", (found) => found.length), 0);
    const answer = await page.goto(`${origin}/account/activity?cursor=nonsense`);
    assert.equal(answer.status(), 400);
    await shows(page, "cursor must be a nextCursor of this list.");
  },

  async "a replay is told to whom it happened"(open) {
    const { refreshToken } = await logIn(origin, email, { "user-agent": phone });
    const refresh = async (token) => {
      const response = await fetch(`${origin}/api/auth/refresh`, { method: "POST", headers: { "content-type": "application/json", "user-agent": phone }, body: JSON.stringify({ refreshToken: token }) });
      return response.json();
    };
    const successor = await refresh(refreshToken);
    await refresh(successor.refreshToken);
    assert.equal((await refresh(refreshToken)).code, "invalid_refresh_token");
    const page = await open();
    await signIn(page, origin, email, "/account/activity?show=critical");
    await shows(page, "An old session token was used again");
    await isAccessible(page);
    await page.goto(`${origin}/account/activity`);
  },

  async "a page of one user is not used by another one's session"(open) {
    const page = await open();
    await signIn(page, origin, email);
    const other = await logIn(origin, email, { "user-agent": phone });
    await page.reload();
    // Another tab of the same browser.
    const tab = await open();
    await tab.goto(`${origin}/account`);
    await Promise.all([tab.waitForNavigation(), tab.click(".who button")]);
    await signIn(tab, origin, "mary@example.org");
    await page.bringToFront();
    await page.click("form[data-api^=DELETE] button");
    await page.waitForSelector("#confirm[open]");
    await Promise.all([page.waitForNavigation(), page.click("#confirm-yes")]);
    await shows(page, "Mary");
    assert.ok(await lives(origin, other), "nothing was ended");
  },

  async "what is not there, and what is refused, are pages too"(open) {
    const page = await open();
    const answer = await page.goto(`${origin}/account/nowhere`);
    assert.equal(answer.status(), 404);
    await shows(page, "There is nothing here.");
    await isAccessible(page);
  },
});
