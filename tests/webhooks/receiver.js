// A receiver of webhooks on loopback: each is verified with the standard's own library (standardwebhooks), with every
// secret of the command line. Standard output is one JSON object a line: first {"port": …}, then one for each request,
// when its body is there and before it is answered. How it is answered, the path says:
//
//   /503/…   503, the first time for an id       /slow/…      not at all, the first time for an id
//   /500/…   500, always                         /redirect/…  307 to /landing
//   /410/…   410, always                         /lost/…      hangs up without an answer, the first time for an id
//   /never/… not at all, always                  else         204

import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const [port, ...secrets] = process.argv.slice(2);
const say = (said) => process.stdout.write(`${JSON.stringify(said)}\n`);
const seen = new Set();

function verifies(secret, body, headers) {
  try {
    new Webhook(secret).verify(body, headers);
    return true;
  } catch {
    return false;
  }
}

const server = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts).toString("utf8");
  const { headers, method, url } = request;
  const id = headers["webhook-id"];
  const isFirst = !seen.has(`${url} ${id}`);
  seen.add(`${url} ${id}`);
  say({ method, path: url, id, headers, body, verified: secrets.map((secret) => verifies(secret, body, headers)) });
  const answer = (status, more = {}) => response.writeHead(status, more).end();
  switch (url.split("/")[1]) {
    case "503": return answer(isFirst ? 503 : 204);
    case "500": return answer(500);
    case "410": return answer(410);
    case "redirect": return answer(307, { location: "/landing" });
    case "lost": return isFirst ? request.socket.destroy() : answer(204);
    case "slow": return isFirst ? undefined : answer(204);
    case "never": return undefined;
    default: return answer(204);
  }
});
server.listen(Number(port), "127.0.0.1", () => say({ port: server.address().port }));
process.stdin.resume().on("end", () => process.exit());
