#!/usr/bin/python3
"""A real SMTP server on loopback for the tests of the mailer (Debian's python3-aiosmtpd).

usage: server.py [--port N] [--user NAME --password WORD] [--cert FILE --key FILE]

Standard output is one JSON object a line: first {"port": …}, then one for each message that it has taken, or has
refused after reading it. What it does with a mail, the recipient's name says:

  refused-…     550 at RCPT                     greylisted-…   451 at RCPT, the first time
  spam-…        554 after DATA, quoting it      lost-…         takes it, hangs up without an answer, the first time
  slow-…        never answers after DATA        else           takes it
"""

import argparse
import asyncio
import collections
import email
import email.policy
import json
import logging
import re
import signal
import ssl
import warnings

from aiosmtpd.smtp import SMTP, AuthResult


def say(**fields):
    print(json.dumps(fields), flush=True)


class Handler:
    def __init__(self):
        self.seen = collections.Counter()

    def first_time(self, what, address):
        self.seen[what, address] += 1
        return self.seen[what, address] == 1

    async def handle_MAIL(self, server, session, envelope, address, options):
        if address.startswith("unwelcome"):
            return "550 5.7.1 you may not send from here"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        name = address.split("-")[0]
        if name == "refused":
            return "550 5.1.1 no such user"
        if name == "greylisted" and self.first_time("greylisted", address):
            return "451 4.7.1 come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        part = lambda kind: message.get_body(preferencelist=(kind,))
        text = part("plain").get_content()
        say(
            sender=envelope.mail_from,
            recipients=envelope.rcpt_tos,
            headers=[[name.lower(), str(value)] for name, value in message.items()],
            content_type=message.get_content_type(),
            defects=[str(defect) for defect in message.defects],
            text=text,
            html=part("html").get_content(),
            raw=envelope.content.decode("ascii"),
            tls=session.ssl is not None,
            login=getattr(session.auth_data, "login", b"").decode(),
        )
        name = envelope.rcpt_tos[0].split("-")[0]
        if name == "spam":
            return "554 5.7.1 we do not like " + " ".join(re.findall(r"\S*aso_\S*", text))
        if name == "lost" and self.first_time("lost", envelope.rcpt_tos[0]):
            server.transport.abort()
        if name == "slow":
            await asyncio.sleep(3600)
        return "250 OK"


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    options = parser.parse_args()
    # What it says of clients that hang up, and of logins on loopback, is expected here.
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    handler = Handler()
    settings = {"enable_SMTPUTF8": True}
    if options.cert:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.cert, options.key)
        settings.update(tls_context=context, require_starttls=True)
    if options.user:

        def authenticate(server, session, envelope, mechanism, shown):
            right = (shown.login.decode(), shown.password.decode()) == (options.user, options.password)
            return AuthResult(success=right, handled=right, auth_data=shown)

        settings.update(authenticator=authenticate, auth_required=True, auth_require_tls=False)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(handler, **settings), "127.0.0.1", options.port)
    say(port=server.sockets[0].getsockname()[1])
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


asyncio.run(main())
