// What the pages do beyond showing: they change things by calling the API, as any page of an application would.
//
// A form says what it does, and no page has a script of its own:
//   data-api="DELETE /api/auth/sessions/ID"   the operation; its named fields are the body, as JSON
//   data-confirm="Sign out?" data-yes="Sign out"   asked before
//   data-go="/path"                           where to go when it is done, or
//   data-changes="devices"                    the event `devices-changed` on body, at which htmx fetches that part anew, and
//   data-say="Done."                          what is said in the status line
//   data-show="id"                            the answer's `token` becomes the text of that element, whose section is shown
// and a field, how it is written: data-as="boolean | number | list | words"; an empty optional one is left out.
// A button: data-copy="id" copies that element's text, data-forget="id" empties it and hides its section, data-close closes
// its dialog; a checkbox with data-reveals shows the passwords of its form.
//
// Nothing here makes HTML of a text.

const csrf = () => document.querySelector("meta[name=csrf-token]")?.content;
const find = (id) => document.getElementById(id);

/** A refusal of the API. */
class Refusal extends Error {
  constructor(problem, response) {
    super(problem.detail ?? "Something went wrong. Try again.");
    this.code = problem.code;
    this.status = response?.status;
    const seconds = Number(response?.headers.get("retry-after"));
    if (seconds > 1) this.message += ` (${seconds < 120 ? `${seconds} seconds` : `${Math.ceil(seconds / 60)} minutes`})`;
  }
}

async function send(method, path, body, token = csrf()) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (token) headers["x-csrf-token"] = token;
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refusal({ code: "unreachable", detail: "The service cannot be reached. Try again." });
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(answer, response);
  return answer;
}

/** A new access cookie for the refresh cookie, which only goes to the API. False: there is none that is good any more. */
async function refresh() {
  try {
    const { csrfToken } = await send("GET", "/api/auth/csrf-token");
    await send("POST", "/api/auth/refresh", undefined, csrfToken);
    return true;
  } catch (refusal) {
    // Another tab was quicker: its cookie is this one's too.
    if (refusal.code === "refresh_overtaken") return true;
    if (refusal.status === 401) return false;
    throw refusal;
  }
}

const signIn = () => location.assign(`/sign-in?returnTo=${encodeURIComponent(location.pathname + location.search)}`);
const never = () => new Promise(() => {});

/** Calls an operation; what stands in the way and can be mended is, once each: an expired cookie, an old authentication. */
async function call(method, path, body) {
  const tried = new Set();
  for (;;) {
    try {
      return await send(method, path, body);
    } catch (refusal) {
      if (tried.has(refusal.code) || !csrf()) throw refusal;
      tried.add(refusal.code);
      if (refusal.code === "step_up_required") {
        // Whoever has just typed the password is not asked for it again.
        if (body?.currentPassword) await send("POST", "/api/auth/step-up", { password: body.currentPassword });
        else if (!(await stepUp())) return undefined;
      } else if (refusal.code === "authentication_required" || refusal.code === "invalid_access_token") {
        if (await refresh()) continue;
        signIn();
        return never();
      } else if (refusal.code === "csrf_token_invalid") {
        // Somebody else has signed in meanwhile, in another tab: what is shown here is not theirs.
        location.reload();
        return never();
      } else {
        throw refusal;
      }
    }
  }
}

/** Asks for the password once more. False: it was not given. */
function stepUp() {
  const dialog = find("step-up");
  const form = dialog.querySelector("form");
  form.reset();
  complain(form, "");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const submit = async (event) => {
      event.preventDefault();
      await busily(form, async () => {
        const answer = await call("POST", "/api/auth/step-up", { password: form.elements.password.value });
        if (answer) dialog.close("done");
      });
      if (dialog.open) form.elements.password.select();
    };
    form.addEventListener("submit", submit);
    dialog.addEventListener("close", () => {
      form.removeEventListener("submit", submit);
      form.reset();
      resolve(dialog.returnValue === "done");
    }, { once: true });
  });
}

function confirmed(question, yes) {
  const dialog = find("confirm");
  find("confirm-question").textContent = question;
  find("confirm-yes").textContent = yes ?? "Yes";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "confirm"), { once: true });
  });
}

function complain(form, text) {
  let line = form.querySelector("[role=alert]");
  if (!line && !text) return;
  if (!line) {
    line = document.createElement("p");
    line.className = "problem";
    line.setAttribute("role", "alert");
    form.append(line);
  }
  line.textContent = text;
}

let said;

function say(text) {
  const status = find("status");
  // Emptied first, so that the same sentence is read out again; and after a while, so that it is in nobody's way.
  status.textContent = "";
  requestAnimationFrame(() => { status.textContent = text; });
  clearTimeout(said);
  said = setTimeout(() => { status.textContent = ""; }, 10_000);
}

/** Does it once, however often the button is pressed; what is refused is said in the form. */
async function busily(form, work) {
  if (form.ariaBusy === "true") return;
  form.ariaBusy = "true";
  complain(form, "");
  try {
    await work();
  } catch (refusal) {
    if (!(refusal instanceof Refusal)) console.error(refusal);
    complain(form, refusal instanceof Refusal ? refusal.message : "Something went wrong. Try again.");
  } finally {
    form.ariaBusy = "false";
  }
}

function bodyOf(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled) continue;
    const list = () => (body[field.name] ??= []);
    switch (field.dataset.as) {
      case "boolean": body[field.name] = field.checked; break;
      case "number": body[field.name] = Number(field.value); break;
      case "list": list(); if (field.checked) body[field.name].push(field.value); break;
      case "words": list().push(...field.value.split(/[\s,]+/).filter(Boolean)); break;
      default: if (field.value !== "" || field.required) body[field.name] = field.value;
    }
  }
  return Object.keys(body).length ? body : undefined;
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  const { api, confirm, yes, go, changes, say: sentence, show } = form.dataset;
  if (!api) return;
  event.preventDefault();
  if (confirm && !(await confirmed(confirm, yes))) return;
  await busily(form, async () => {
    const [method, path] = api.split(" ");
    const answer = await call(method, path, bodyOf(form));
    if (!answer) return;
    if (go) {
      location.assign(go);
      return never();
    }
    form.reset();
    if (show) {
      const section = find(show).closest("section");
      find(show).textContent = answer.token;
      section.hidden = false;
      section.querySelector("[tabindex='-1']").focus();
    }
    if (changes) window.htmx.trigger(document.body, `${changes}-changed`);
    if (sentence) say(sentence);
  });
});

document.addEventListener("click", async (event) => {
  const { close, copy, forget } = event.target.closest("button")?.dataset ?? {};
  if (close !== undefined) event.target.closest("dialog").close();
  if (copy) {
    try {
      await navigator.clipboard.writeText(find(copy).textContent);
      say("Copied.");
    } catch {
      // Not allowed, or no clipboard: then it is marked, for who copies by hand.
      getSelection().selectAllChildren(find(copy));
      say("Marked: copy it with your keyboard.");
    }
  }
  if (forget) {
    find(forget).textContent = "";
    find(forget).closest("section").hidden = true;
    find("main").focus();
  }
});

document.addEventListener("change", (event) => {
  if (!("reveals" in event.target.dataset)) return;
  for (const field of event.target.form.querySelectorAll("input[autocomplete$=-password]")) field.type = event.target.checked ? "text" : "password";
});

// Whoever comes back to a page by the browser's button must not see what another user left there.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

// A part that htmx fetches meets an expired cookie like any other request.
document.addEventListener("htmx:beforeOnLoad", (event) => {
  if (event.detail.xhr.status !== 401) return;
  event.preventDefault();
  refresh().then((isGood) => (isGood ? window.htmx.trigger(event.detail.elt, event.detail.requestConfig.triggeringEvent?.type ?? "click") : signIn()), signIn);
});

for (const event of ["htmx:responseError", "htmx:sendError"]) {
  document.addEventListener(event, () => say("This page could not be brought up to date. Reload it."));
}

// What was focused may be gone: then the part that took its place is, not the top of the page. (A part is filled anew and
// never replaced itself, or what changes while it is being fetched would be lost.)
document.addEventListener("htmx:afterSettle", (event) => {
  const part = event.detail.elt;
  write(part);
  if (document.activeElement !== document.body) return;
  (part.matches("[tabindex='-1']") ? part : part.closest("section")?.querySelector("[tabindex='-1']"))?.focus();
});

const absolute = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const units = [["day", 86_400], ["hour", 3_600], ["minute", 60]];

/** Times, in the reader's time zone, and how long ago. */
function write(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const time = new Date(element.dateTime);
    element.title = element.title || element.textContent;
    const seconds = (time - Date.now()) / 1000;
    const unit = units.find(([, length]) => Math.abs(seconds) >= length);
    const isRelative = "relative" in element.dataset && Math.abs(seconds) < 30 * 86_400;
    element.textContent = !isRelative ? absolute.format(time)
      : unit ? relative.format(Math.trunc(seconds / unit[1]), unit[0]) : "just now";
  }
}

/** The page for whoever seems not to be signed in: back to what was asked for, or to sign in. */
async function resume(main) {
  const key = "resumed";
  // It was just tried, and the page was refused all the same.
  const again = sessionStorage.getItem(key) === location.pathname;
  sessionStorage.setItem(key, location.pathname);
  try {
    if (!again && (await refresh())) return location.reload();
  } catch (refusal) {
    say(refusal.message);
    sessionStorage.removeItem(key);
    return undefined;
  }
  sessionStorage.removeItem(key);
  return location.replace(main.dataset.resume);
}

write(document);
const main = find("main");
if (main.dataset.resume) await resume(main);
else sessionStorage.removeItem("resumed");
