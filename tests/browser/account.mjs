// The account page, as people use it: with a mouse, with keys alone, with a session that ended meanwhile; and with names that
// are scripts.
import assert from "node:assert/strict";
import { arrives, ask, isAccessible, lives, logIn, picture, shows, signIn, signUp, tabTo, test } from "./pages.mjs";

const [port] = process.argv.slice(2);
const origin = `http://localhost:${port}`;
const email = "ada@example.org";
const script = `<img src=x onerror=alert(1)><script>alert(2)</script>'"`;
const phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1";

await signUp(origin, email, "Ada Lovelace");

await test(origin, {
  async "who is not signed in is asked to, and comes back to what they wanted"(open) {
    const page = await open();
    await page.goto(`${origin}/account?from=mail`);
    await arrives(page, "/sign-in?returnTo=%2Faccount%3Ffrom%3Dmail");
    await isAccessible(page);
    await picture(page, "sign-in");
    // With keys alone.
    await page.reload();
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
    for (const path of ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "/\t/evil.example"]) {
      const page = await open();
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
    assert.equal(await page.evaluate(() => document.activeElement.id), "devices-title", "the focus is not lost");
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

  async "what is not there, and what is refused, are pages too"(open) {
    const page = await open();
    const answer = await page.goto(`${origin}/account/nowhere`);
    assert.equal(answer.status(), 404);
    await shows(page, "There is nothing here.");
    await isAccessible(page);
  },
});
