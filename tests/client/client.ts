// What an app developer does: a client whose types come from openapi.json alone signs up, refreshes and logs out.
// A field that the document promises and the service does not send, or the reverse, does not compile or fails here.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./build/schema.js";

const client = createClient<paths>({ baseUrl: process.argv[2] });
const bearer = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });

const signup = await client.POST("/api/auth/signup", {
  body: { email: "ada@example.org", password: "correct horse battery staple", name: "Ada Lovelace" },
});
assert.ok(signup.data, JSON.stringify(signup.error));
assert.equal(signup.data.user.email, "ada@example.org");
assert.equal(signup.data.tokenType, "Bearer");

// Absent when tokens are delivered by cookie, which nobody asked for here.
assert.ok(signup.data.refreshToken);

const refreshed = await client.POST("/api/auth/refresh", { body: { refreshToken: signup.data.refreshToken } });
assert.ok(refreshed.data, JSON.stringify(refreshed.error));
assert.ok(refreshed.data.refreshToken && refreshed.data.accessToken);
assert.notEqual(refreshed.data.refreshToken, signup.data.refreshToken);
assert.equal(refreshed.data.user.id, signup.data.user.id);

const sessions = await client.GET("/api/auth/sessions", bearer(refreshed.data.accessToken));
assert.ok(sessions.data, JSON.stringify(sessions.error));
assert.deepEqual(sessions.data.sessions.map((session) => session.isCurrent), [true]);

const logout = await client.POST("/api/auth/logout", { body: { refreshToken: refreshed.data.refreshToken } });
assert.ok(logout.data, JSON.stringify(logout.error));
assert.equal(logout.data.revokedSessions, 1);

// An error has the documented type too: `code` is what a client decides by.
const refused = await client.POST("/api/auth/refresh", { body: { refreshToken: refreshed.data.refreshToken } });
assert.equal(refused.response.status, 401);
assert.equal(refused.error?.code, "invalid_refresh_token");

console.log("signed up, refreshed, listed, logged out, refused");
