// Clients that behave badly and mean no harm: twenty tabs that refresh at once, a phone that loses every second answer, a
// client with two egress addresses. All with the client that openapi.json gives; nobody may be logged out.
import assert from "node:assert/strict";
import createClient, { type Client } from "openapi-fetch";
import type { paths } from "./build/schema.js";

const baseUrl = process.argv[2];
const password = "correct horse battery staple";

type Fetch = (request: Request) => Promise<Response>;
const api = (how: Fetch = fetch): Client<paths> => createClient<paths>({ baseUrl, fetch: how });

// From another network at each request: a house with two lines, a phone between two cells.
let requests = 0;
const fromTwoNetworks: Fetch = (request) => {
  request.headers.set("x-forwarded-for", requests++ % 2 ? "198.51.100.7" : "203.0.113.9");
  return fetch(request);
};

async function signUp(email: string): Promise<string> {
  const { data, error } = await api().POST("/api/auth/signup", { body: { email, password, name: "Ada" } });
  assert.ok(data?.refreshToken, JSON.stringify(error));
  return data.refreshToken;
}

const refresh = async (client: Client<paths>, refreshToken: string) => {
  const { data, error } = await client.POST("/api/auth/refresh", { body: { refreshToken } });
  assert.ok(data?.refreshToken, `logged out: ${JSON.stringify(error)}`);
  return data.refreshToken;
};

// Twenty tabs share a token in local storage. All wake up with the laptop.
async function tabs(email: string, how: Fetch): Promise<void> {
  let stored = await signUp(email);
  for (let round = 0; round < 5; round++) {
    const answers = await Promise.all(Array.from({ length: 20 }, () => refresh(api(how), stored)));
    assert.equal(new Set(answers).size, 1, "all tabs have the same successor");
    stored = answers[0] as string;
  }
  await refresh(api(), stored);
}

// Twenty tabs share cookies. Each begins when it likes, so that some show a cookie that has just been replaced.
async function tabsWithCookies(email: string, how: Fetch): Promise<void> {
  const jar = new Map<string, string>();
  let csrf = "";
  const browser: Fetch = async (request) => {
    request.headers.set("cookie", [...jar].map(([name, value]) => `${name}=${value}`).join("; "));
    request.headers.set("sec-fetch-site", "same-origin");
    if (csrf) request.headers.set("x-csrf-token", csrf);
    const response = await how(request);
    for (const cookie of response.headers.getSetCookie()) {
      const [name, value] = (cookie.split(";")[0] as string).split("=") as [string, string];
      jar.set(name, value);
    }
    return response;
  };
  const client = api(browser);
  const signup = await client.POST("/api/auth/signup", { body: { email, password, name: "Ada", delivery: "cookie" } });
  assert.ok(signup.data, JSON.stringify(signup.error));
  assert.equal(jar.size, 2);
  csrf = (await client.GET("/api/auth/csrf-token")).data?.csrfToken ?? "";
  const tab = async () => {
    for (let round = 0; round < 5; round++) {
      const { data, error } = await client.POST("/api/auth/refresh", { body: {} });
      assert.ok(data, `logged out: ${JSON.stringify(error)}`);
      const me = await client.GET("/api/auth/me");
      assert.ok(me.data, JSON.stringify(me.error));
    }
  };
  await Promise.all(Array.from({ length: 20 }, tab));
}

// Every second answer is lost on its way; the app shows the same token again until one arrives.
async function phone(email: string, how: Fetch): Promise<void> {
  let sent = 0;
  const client = api(async (request) => {
    for (;;) {
      const response = await how(request.clone());
      if (sent++ % 2) return response;
      await response.arrayBuffer(); // the service has sent it, and it never arrives
    }
  });
  let stored = await signUp(email);
  for (let round = 0; round < 20; round++) stored = await refresh(client, stored);
}

await Promise.all([
  tabs("tabs@example.org", fetch),
  tabs("two-networks@example.org", fromTwoNetworks),
  tabsWithCookies("cookies@example.org", fetch),
  tabsWithCookies("cookies-two-networks@example.org", fromTwoNetworks),
  phone("phone@example.org", fetch),
  phone("phone-two-networks@example.org", fromTwoNetworks),
]);
console.log("nobody was logged out");
