// The dashboard, as owners, administrators and operators use it: each sees what is theirs, names that are scripts are names,
// a replay appears by itself and opens into its story, and a family is ended for a reason.
import assert from "node:assert/strict";
import { arrives, ask, isAccessible, lives, logIn, picture as take, shows, signIn, signUp, tabTo, test } from "./pages.mjs";

const [port] = process.argv.slice(2);
const origin = `http://localhost:${port}`;
const script = `<img src=x onerror=alert(1)><script>alert(2)</script>'"`;
const phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1";

/** For the README (SCREENSHOTS=1). */
const picture = async (...arguments_) => process.env.SCREENSHOTS && take(...arguments_);

const organization = (name, slug) => ({ organization: { name, slug } });
await signUp(origin, "ada@engines.example", "Ada Lovelace", organization("Analytical Engines", "engines"));
await signUp(origin, "bob@rivals.example", "Bob Rival", organization("Rivals & Sons", "rivals"));
const member = await signUp(origin, "mary@engines.example", "Mary Somerville", {}, { "user-agent": phone });
await signUp(origin, "olga@ops.example", "Olga Operator");
await ask("let mary join engines");
await ask("appoint olga");

async function refresh(refreshToken, headers = {}) {
  return fetch(`${origin}/api/auth/refresh`, {
    method: "POST",
    headers: { "content-type": "application/json", "user-agent": phone, ...headers },
    body: JSON.stringify({ refreshToken }),
  });
}

/** A session of which an old token is shown again. */
async function replay(email, headers = {}) {
  const first = await logIn(origin, email, { "user-agent": phone });
  let { refreshToken } = first;
  for (let n = 0; n < 3; n++) ({ refreshToken } = await (await refresh(refreshToken)).json());
  assert.equal((await refresh(first.refreshToken, headers)).status, 401);
  return first;
}

const body = (page) => page.evaluate(() => document.body.innerText);

await test(origin, {
  async "who oversees nothing is refused, and has no link to it"(open) {
    const page = await open();
    await signUp(origin, "eve@example.org", "Eve");
    await signIn(page, origin, "eve@example.org");
    assert.equal(await page.$("nav a[href='/dashboard']"), null);
    for (const path of ["/dashboard", "/dashboard/sessions?q=ada", "/dashboard/incidents", "/dashboard/families/00000000-0000-4000-8000-000000000000", "/dashboard/now"]) {
      const answer = await page.goto(origin + path);
      assert.equal(answer.status(), 403, path);
      assert.doesNotMatch(await body(page), /engines|rivals/i);
    }
    await isAccessible(page);
  },

  async "an owner sees their organization, and nothing of another"(open) {
    await replay("bob@rivals.example");
    const page = await open();
    await signIn(page, origin, "ada@engines.example", "/dashboard");
    await shows(page, "Analytical Engines");
    await shows(page, "No old token was shown again.");
    await shows(page, "Refreshes\n\nNot drawn for one organization");
    assert.doesNotMatch(await body(page), /rival|bob/i);
    await isAccessible(page);
    await Promise.all([page.waitForNavigation(), page.click(".tabs a[href='/dashboard/sessions']")]);
    await shows(page, "mary@engines.example");
    assert.doesNotMatch(await body(page), /rival|bob|olga/i);
    await isAccessible(page);
    // Neither by a search nor by an id.
    for (const search of ["bob", "rivals", "olga@ops.example"]) {
      await page.goto(`${origin}/dashboard/sessions?q=${search}`);
      await shows(page, "Nothing.");
    }
    const theirs = await (await fetch(`${origin}/api/auth/me`, { headers: { authorization: `Bearer ${(await logIn(origin, "bob@rivals.example")).accessToken}` } })).json();
    for (const path of [`/dashboard?organization=${theirs.organization.id}`, `/dashboard/now?organization=${theirs.organization.id}`, `/dashboard/sessions?organization=${theirs.organization.id}`]) {
      assert.equal((await page.goto(origin + path)).status(), 403, path);
    }
    const claims = JSON.parse(atob((await logIn(origin, "bob@rivals.example")).accessToken.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    assert.equal((await page.goto(`${origin}/dashboard/families/${claims.sid}`)).status(), 404);
    await page.goto(`${origin}/dashboard/sessions?q=${claims.jti}`);
    await shows(page, "Nothing.");
    assert.equal((await page.goto(`${origin}/dashboard?organization=x`)).status(), 400);
    assert.equal((await page.goto(`${origin}/dashboard/sessions?q=${"x".repeat(255)}`)).status(), 400);
  },

  async "a replay appears by itself, opens into its story, and a family is ended for a reason"(open) {
    const page = await open();
    const connected = page.waitForResponse((response) => response.url().endsWith("/dashboard/events"));
    await signIn(page, origin, "ada@engines.example", "/dashboard");
    assert.equal((await connected).status(), 200);
    const thief = process.env.SCREENSHOTS ? "curl/8.5.0" : script;
    await replay("mary@engines.example", { "user-agent": thief });
    await shows(page, "Mary Somerville <mary@engines.example>");
    await shows(page, "3 generations behind");
    await shows(page, thief);
    await page.waitForFunction(() => /Replays\s+1\s/.test(document.getElementById("figures").innerText));
    await page.waitForFunction(() => /Replays\s+1\s/.test(document.getElementById("charts").innerText));
    if (process.env.SCREENSHOTS) await page.reload();
    await picture(page, "dashboard-owner", 1320);
    await page.focus("[id^=incident-]");
    await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
    await shows(page, "Story of a session");
    const told = await body(page);
    for (const action of ["auth_session_created", "user_logged_in", "token_replay_detected", "session_family_revoked"]) {
      assert.ok(told.includes(action), `${action}: ${told}`);
    }
    assert.ok(told.indexOf("auth_session_created") < told.indexOf("token_replay_detected"), "in order");
    assert.ok(told.indexOf("token_replay_detected") < told.indexOf("session_family_revoked"), "in order");
    assert.match(told, /generation 0 was shown while the session was at 3 \(3 behind\)/);
    await isAccessible(page);
    await picture(page, "dashboard-story", 1100);

    // Another session of hers lives: found by e-mail, ended with keys alone, after the password was asked for.
    await page.goto(`${origin}/dashboard/sessions`);
    await page.focus("#q");
    await page.keyboard.type("mary@");
    await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
    await shows(page, "Found for “mary@”");
    const story = await page.$$eval("tbody tr", (rows) => rows.find((row) => row.innerText.includes("live")).querySelector("a").pathname);
    await page.goto(origin + story);
    await ask("let the authentication age");
    await tabTo(page, "Reason");
    await page.keyboard.type(`Phone stolen ${script}`);
    await tabTo(page, "End the session");
    await page.keyboard.press("Enter");
    await shows(page, "End this session? Its device is signed out at once.");
    await tabTo(page, "End the session");
    await page.keyboard.press("Enter");
    await shows(page, "Is it still you?");
    await page.keyboard.type("correct horse battery staple");
    await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
    await shows(page, "revoked");
    await shows(page, `Phone stolen ${script}`);
    assert.ok(!(await lives(origin, member)), "it is over");
    assert.equal(await page.$$eval("main img, main script", (found) => found.length), 0);
  },

  async "an operator sees everybody, and one organization when asked"(open) {
    await replay("bob@rivals.example");
    await replay("mary@engines.example");
    await ask("take samples");
    const page = await open();
    await signIn(page, origin, "olga@ops.example", "/dashboard");
    await shows(page, "All organizations");
    await shows(page, "Mary Somerville <mary@engines.example>");
    await shows(page, "Bob Rival <bob@rivals.example>");
    await shows(page, "Upkeep");
    assert.match(await body(page), /Live sessions\s+[\d,]+\s+of [\d,]+ families; [\d,]+ used in the last hour/);
    assert.doesNotMatch(await body(page), /Not drawn/);
    await page.click("details summary");
    await shows(page, "Live families");
    await isAccessible(page);
    await page.click("details summary");
    await page.evaluate(() => scrollTo(0, 0));
    await picture(page, "dashboard-operator", 1600);
    await page.goto(`${origin}/dashboard/sessions?q=ada%40`);
    await Promise.all([page.waitForNavigation(), page.click("td a[href^='/dashboard?organization=']")]);
    await shows(page, "You are an operator, and look at one organization.");
    assert.doesNotMatch(await body(page), /rival|bob/i);
    await Promise.all([page.waitForNavigation(), page.click(".tabs a[href^='/dashboard/sessions?organization=']")]);
    await shows(page, "ada@engines.example");
    assert.doesNotMatch(await body(page), /rival|bob/i);
    await page.goto(`${origin}/dashboard/incidents`);
    await shows(page, "bob@rivals.example");
    await isAccessible(page);
    await picture(page, "dashboard-replays", 760);
    await page.goto(`${origin}/dashboard/sessions`);
    await isAccessible(page);
    if (process.env.SCREENSHOTS) await page.goto(`${origin}/dashboard/sessions?q=mary%40`);
    await picture(page, "dashboard-sessions", 760);
    await page.setViewport({ width: 390, height: 844, deviceScaleFactor: 1 });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
    await page.goto(`${origin}/dashboard?range=month`);
    await picture(page, "dashboard-phone-dark", 1700);
    // Dismissed while the page is open.
    await ask("dismiss olga");
    assert.equal((await page.goto(`${origin}/dashboard`)).status(), 403);
  },

  async "a session that ended elsewhere signs in again, also where the page renews itself"(open, context) {
    const page = await open();
    await signIn(page, origin, "ada@engines.example", "/dashboard");
    const cookies = await context.cookies();
    await context.deleteCookie(...cookies.filter((cookie) => cookie.name === "__Host-auth_access"));
    // The refresh cookie mends it.
    await page.goto(`${origin}/dashboard?range=week`);
    await arrives(page, "/dashboard?range=week");
    await shows(page, "The last 7 days");
    await ask("end every session");
    // The stream ends, and the next part that is asked for is refused.
    await page.evaluate(() => window.htmx.trigger("#now", "sse:changed"));
    await arrives(page, "/sign-in?returnTo=%2Fdashboard%3Frange%3Dweek");
  },

  async "names that are scripts are names"(open) {
    await signUp(origin, "mallory@example.org", script, organization(script, "script-org"), { "user-agent": script });
    await ask("name every device a script");
    await replay("mallory@example.org", { "user-agent": script });
    const page = await open();
    await signIn(page, origin, "mallory@example.org", "/dashboard");
    await shows(page, `${script} <mallory@example.org>`);
    for (const path of ["/dashboard/sessions", `/dashboard/sessions?q=${encodeURIComponent(script)}`, "/dashboard/incidents"]) {
      await page.goto(origin + path);
      await shows(page, script);
      assert.equal(await page.$$eval("body img, body script, title img", (found) => found.length), 0, path);
    }
    await page.goto(`${origin}/dashboard/sessions?q=mallory`);
    await Promise.all([page.waitForNavigation(), page.click("tbody a")]);
    await shows(page, script);
    assert.equal(await page.$$eval("body img, body script", (found) => found.length), 0);
  },
});
