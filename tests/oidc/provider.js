// A real OpenID provider (oidc-provider) on loopback. Whoever comes to its login page is, without a question, whom the
// parameter login_hint of the authorization request describes: the claims of the ID token, as JSON. Everything else is the
// provider's own: clients, codes, PKCE, keys, errors.
//
// Beside it, under /test/: what the tests cannot get from an honest provider.
//   POST /test/sign    {header, payload, foreign}: a JWT signed with the provider's key of that alg, or with another key
//   POST /test/rotate  new keys, under new names
//   POST /test/behave  {"/jwks" or "/token": {delay, status, text}}: how that path is answered from now on
//   GET  /test/asked   how often each path was asked for

import { createServer } from "node:http";
import { exportJWK, generateKeyPair, importJWK, SignJWT } from "jose";
import Provider from "oidc-provider";

const people = new Map();
let provider, keys, generation, asked, behaviour;
generation = 0;
asked = {};
behaviour = {};

async function makeKeys() {
  generation += 1;
  const made = [];
  for (const alg of ["RS256", "ES256"]) {
    const { privateKey } = await generateKeyPair(alg, { extractable: true });
    made.push({ ...(await exportJWK(privateKey)), alg, use: "sig", kid: `${alg}-${generation}` });
  }
  return made;
}

const client = (id, more) => ({
  client_id: id,
  client_secret: `the secret of ${id}`,
  redirect_uris: ["http://127.0.0.1:9/api/auth/oidc/callback"],
  grant_types: ["authorization_code"],
  response_types: ["code"],
  ...more,
});

function makeProvider(issuer) {
  const made = new Provider(issuer, {
    jwks: { keys },
    clients: [
      client("service"),
      client("public", { token_endpoint_auth_method: "none", client_secret: undefined }),
      client("another-app"),
    ],
    enabledJWA: { idTokenSigningAlgValues: ["RS256", "ES256"] },
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
    // Like Google's, its ID tokens say all that they know.
    conformIdTokenClaims: false,
    pkce: { methods: ["S256"], required: () => true },
    features: { devInteractions: { enabled: false } },
    interactions: { url: (_, interaction) => `/login/${interaction.uid}` },
    cookies: { keys: ["only for tests"] },
    ttl: { AccessToken: 60, AuthorizationCode: 60, Grant: 600, IdToken: 600, Interaction: 600, Session: 600 },
    findAccount: (_, id) => ({ accountId: id, claims: () => people.get(id) }),
    // Nobody is asked whether the service may know their address.
    async loadExistingGrant({ oidc }) {
      const grant = new oidc.provider.Grant({ clientId: oidc.client.clientId, accountId: oidc.session.accountId });
      grant.addOIDCScope("openid email profile");
      await grant.save();
      return grant;
    },
  });
  made.on("server_error", (_, error) => console.error(error));
  return made;
}

async function logIn(request, response) {
  const { params } = await provider.interactionDetails(request, response);
  if (params.login_hint === "nobody") {
    const refusal = { error: "access_denied", error_description: "they said no <script>" };
    return provider.interactionFinished(request, response, refusal);
  }
  const claims = JSON.parse(params.login_hint);
  people.set(claims.sub, claims);
  return provider.interactionFinished(request, response, { login: { accountId: claims.sub } });
}

async function sign({ header, payload, foreign }) {
  const known = keys.find((key) => key.alg === header.alg);
  const key = foreign ? (await generateKeyPair(header.alg)).privateKey : await importJWK(known, header.alg);
  return new SignJWT(payload).setProtectedHeader({ kid: known.kid, ...header }).sign(key);
}

async function body(request) {
  let text = "";
  for await (const chunk of request) text += chunk;
  return text === "" ? {} : JSON.parse(text);
}

async function test(path, request) {
  switch (path) {
    case "/test/sign":
      return { token: await sign(await body(request)) };
    case "/test/rotate":
      keys = await makeKeys();
      provider = makeProvider(issuer);
      return { kids: keys.map((key) => key.kid) };
    case "/test/behave":
      behaviour = await body(request);
      return {};
    case "/test/asked":
      return asked;
  }
}

async function answer(request, response) {
  const path = request.url.split("?")[0];
  asked[path] = (asked[path] ?? 0) + 1;
  if (path.startsWith("/test/")) {
    return response.setHeader("content-type", "application/json").end(JSON.stringify(await test(path, request)));
  }
  if (path === "/jwks" || path === "/token") {
    const { delay, status, text } = behaviour[path] ?? {};
    if (delay) await new Promise((resolve) => setTimeout(resolve, delay));
    if (status) return response.writeHead(status, { "content-type": "application/json" }).end(text);
  }
  if (path.startsWith("/login/")) return logIn(request, response);
  return provider.callback()(request, response);
}

const server = createServer((request, response) =>
  answer(request, response).catch((error) => {
    console.error(error);
    response.writeHead(500).end(String(error));
  }),
);
let issuer;
server.listen(0, "127.0.0.1", async () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  keys = await makeKeys();
  provider = makeProvider(issuer);
  console.log(`listening on ${issuer}`);
});
// However the test ends, this ends with it.
process.stdin.resume().on("end", () => process.exit());
