// The libraries in the binary are those of the packages, byte for byte.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

for (const [file, path] of [["htmx.min.js", "htmx.org/dist/htmx.min.js"], ["htmx-ext-sse.min.js", "htmx-ext-sse/dist/sse.min.js"]]) {
  const [ours, theirs] = await Promise.all([`../../api/assets/vendor/${file}`, `node_modules/${path}`].map((path) => readFile(new URL(path, import.meta.url))));
  assert.ok(ours.equals(theirs), file);
}
