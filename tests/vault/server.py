#!/usr/bin/python3
"""A stand-in for Vault on loopback: the HTTP API of a KV store, version 2, as its documentation has it, in memory.

usage: server.py [--cert FILE --key FILE]

Neither Vault nor OpenBao is in a registry that the tests may use. Statuses, fields and error texts follow
https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2 and …/auth/token: what the service asks of it, and what an
operator does to it.

  GET, POST, DELETE /v1/secret/data/PATH      read the newest version, write one (options.cas), delete the newest
  POST /v1/auth/token/renew-self              prolongs the token
  PUT /v1/sys/seal, /v1/sys/unseal            503 to everything in between

Tokens: hvs.root may do everything, hvs.reader may read, hvs.lasting cannot be prolonged. Two things that Vault has no
switch for: POST /test/meddle lets somebody else write the secret right after it was read the next time, and POST
/test/elsewhere {"location": …} answers everything with a redirect, as a standby does; {} ends that.

Standard output is one JSON object a line: first {"port": …, "tls_port": …} (the second with a certificate only), then one for each request but those of /test.
"""

import argparse
import datetime
import http.server
import json
import signal
import ssl
import threading
import uuid

TOKENS = {
    "hvs.root": {"read", "write", "renew", "sudo"},
    "hvs.reader": {"read", "renew"},
    "hvs.lasting": {"read", "write"},
}

lock = threading.Lock()
# Each a list of versions: (metadata, data), the data None when it was deleted.
secrets = {}
state = {"sealed": False, "meddle": False, "elsewhere": None}


def say(**fields):
    print(json.dumps(fields), flush=True)


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def add(path, data):
    versions = secrets.setdefault(path, [])
    metadata = {
        "created_time": now(),
        "custom_metadata": None,
        "deletion_time": "",
        "destroyed": False,
        "version": len(versions) + 1,
    }
    versions.append((metadata, data))
    return metadata


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=None, **headers):
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def wrap(self, data=None, auth=None):
        self.answer(200, {
            "request_id": str(uuid.uuid4()),
            "lease_id": "",
            "renewable": False,
            "lease_duration": 0,
            "data": data,
            "wrap_info": None,
            "warnings": None,
            "auth": auth,
        })

    def refuse(self, status, *errors):
        self.answer(status, {"errors": list(errors)})

    def handle_any(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        with lock:
            self.route(body)

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def route(self, body):
        path = self.path.split("?")[0]
        if path == "/test/meddle":
            state["meddle"] = True
            return self.answer(204)
        if path == "/test/elsewhere":
            state["elsewhere"] = body.get("location")
            return self.answer(204)
        say(method=self.command, path=path, token=self.headers.get("X-Vault-Token"),
            namespace=self.headers.get("X-Vault-Namespace"))
        if state["elsewhere"]:
            return self.answer(307, None, Location=state["elsewhere"] + self.path)
        if path == "/v1/sys/unseal":
            state["sealed"] = False
            return self.answer(200, {"sealed": False})
        if state["sealed"]:
            return self.refuse(503, "Vault is sealed")
        may = TOKENS.get(self.headers.get("X-Vault-Token"), set())
        if path == "/v1/sys/seal":
            if "sudo" not in may:
                return self.refuse(403, "permission denied")
            state["sealed"] = True
            return self.answer(204)
        if path == "/v1/auth/token/renew-self":
            if not may:
                return self.refuse(403, "permission denied")
            if "renew" not in may:
                return self.refuse(400, "lease is not renewable")
            return self.wrap(auth={
                "client_token": self.headers["X-Vault-Token"],
                "accessor": "accessor",
                "policies": ["default"],
                "token_policies": ["default"],
                "metadata": None,
                "lease_duration": 2764800,
                "renewable": True,
                "entity_id": "",
                "token_type": "service",
                "orphan": True,
            })
        prefix = "/v1/secret/data/"
        if not path.startswith(prefix):
            return self.refuse(404, f'no handler for route "{path[4:]}". route entry not found.')
        if ("read" if self.command == "GET" else "write") not in may:
            return self.refuse(403, "1 error occurred:\n\t* permission denied\n\n")
        return self.secret(path[len(prefix):], body)

    def secret(self, path, body):
        versions = secrets.get(path, [])
        if self.command == "GET":
            if not versions:
                return self.refuse(404)
            metadata, data = versions[-1]
            if state["meddle"]:
                state["meddle"] = False
                add(path, data)
            if data is None:
                # As Vault does: not found, and yet with metadata.
                return self.answer(404, {"data": {"data": None, "metadata": metadata}, "errors": None})
            return self.wrap(data={"data": data, "metadata": metadata})
        if self.command == "DELETE":
            if versions:
                metadata, _ = versions[-1]
                versions[-1] = (metadata | {"deletion_time": now()}, None)
            return self.answer(204)
        if not isinstance(body.get("data"), dict):
            return self.refuse(400, "no data provided")
        cas = body.get("options", {}).get("cas")
        if cas is not None and cas != len(versions):
            return self.refuse(400, "check-and-set parameter did not match the current version")
        return self.wrap(data=add(path, body["data"]))


parser = argparse.ArgumentParser()
parser.add_argument("--cert")
parser.add_argument("--key")
options = parser.parse_args()
signal.signal(signal.SIGTERM, lambda *_: exit(0))


def listen():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server


server, tls_port = listen(), None
if options.cert:
    over_tls = listen()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.cert, options.key)
    # Shaken hands with in the thread of the connection: a client that hangs up disturbs no other.
    over_tls.socket = context.wrap_socket(over_tls.socket, server_side=True, do_handshake_on_connect=False)
    tls_port = over_tls.server_address[1]
    threading.Thread(target=over_tls.serve_forever, daemon=True).start()
say(port=server.server_address[1], tls_port=tls_port)
server.serve_forever()
