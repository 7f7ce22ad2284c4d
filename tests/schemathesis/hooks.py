"""What schemathesis cannot know of us: who asks, what exists, and which refusals a JSON schema cannot foretell.

Everything is made through the API itself, at SCHEMATHESIS_URL. People are `eve-…@example.org`: in the test's database
their addresses count as verified.
"""

import itertools
import os

import requests
import schemathesis

URL = os.environ["SCHEMATHESIS_URL"]
CLIENT = os.environ["SCHEMATHESIS_CLIENT"]
PASSWORD = "correct horse battery staple"
SCOPES = ["profile:read", "sessions:read", "sessions:write", "organization:read", "organization:write", "security_events:read"]

numbers = itertools.count()
http = requests.Session()
# Nobody's cookies are to travel with somebody else's request.
http.cookies.set_policy(requests.cookies.cookielib.DefaultCookiePolicy(allowed_domains=[]))


def post(path, body, bearer=None):
    headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
    answer = http.post(URL + path, json=body, headers=headers, timeout=30)
    answer.raise_for_status()
    return answer.json()


class Person:
    """Somebody who is logged in, owns an organization, has a personal access token, and has invited somebody."""

    def __init__(self):
        number = f"{os.getpid()}-{next(numbers)}"
        self.email = f"eve-{number}@example.org"
        body = {
            "email": self.email,
            "password": PASSWORD,
            "name": "Eve",
            "organization": {"name": "Engines", "slug": f"engines-{number}"},
        }
        signup = post("/api/auth/signup", body)
        self.bearer = signup["accessToken"]
        self.user = signup["user"]["id"]
        body = {"name": "laptop", "scopes": SCOPES, "expiresInDays": 1}
        personal = post("/api/auth/personal-access-tokens", body, self.bearer)
        self.personal, self.personal_id = personal["token"], personal["personalAccessToken"]["id"]
        self.organization = self.get("/api/auth/organizations")["organizations"][0]["id"]
        invited = {"email": f"guest-{number}@example.org", "role": "ORGANIZATION_MEMBER"}
        path = f"/api/auth/organizations/{self.organization}/invitations"
        self.invitation = post(path, invited, self.bearer)["id"]
        # Logged in twice: the other session may be ended without ending this one.
        other = post("/api/auth/login", {"email": self.email, "password": PASSWORD})
        self.refresh = other["refreshToken"]
        self.session = next(s["id"] for s in self.get("/api/auth/sessions")["sessions"] if not s["isCurrent"])
        answer = http.get(URL + "/api/auth/csrf-token", headers={"cookie": f"__Host-auth_access={self.bearer}"}, timeout=30)
        self.csrf = answer.json()["csrfToken"]

    def get(self, path):
        return http.get(URL + path, headers={"authorization": f"Bearer {self.bearer}"}, timeout=30).json()

    def lives(self):
        return "user" in self.get("/api/auth/me")


class Turns:
    """Who is next, and by which credential. A person whose session was ended is replaced."""

    def __init__(self):
        self.person = None
        self.number = 0

    def next(self):
        if self.person is None or not self.person.lives():
            self.person = Person()
        self.number += 1
        return self.person


turns = Turns()


@schemathesis.auth(refresh_interval=None)
class Credential:
    """Bearer, cookie, personal access token, client secret, or none at all, in turn."""

    def get(self, case, context):
        schemes = {name for scheme in context.operation.definition.raw.get("security", []) for name in scheme}
        if "client" in schemes:
            return {"authorization": CLIENT} if next(numbers) % 4 else None
        if "bearer" not in schemes:
            return None
        person = turns.next()
        cookie = {"cookie": f"__Host-auth_access={person.bearer}", "x-csrf-token": person.csrf}
        bearer = {"authorization": f"Bearer {person.bearer}"}
        personal = {"authorization": f"Bearer {person.personal}"}
        return [bearer, cookie, bearer, personal, None][turns.number % 5]

    def set(self, case, headers, context):
        case.headers.update(headers)


def real(operation, name):
    """A value that names something of the person whose turn it is."""
    person = turns.person
    if person is None:
        return None
    if name == "id" and "/organizations/" in operation.path:
        return person.organization
    if name == "id":
        return person.personal_id if "personal-access-tokens" in operation.path else person.session
    return {
        "userId": person.user,
        "sessionId": person.session,
        "invitationId": person.invitation,
        "organizationId": person.organization,
        "email": person.email if operation.path.endswith(("/login", "/token", "/resend", "/forgot")) else None,
        "password": PASSWORD if operation.path.endswith(("/login", "/token", "/step-up")) else None,
        "currentPassword": PASSWORD,
        "refreshToken": person.refresh,
        "token": person.refresh if operation.path.endswith(("/introspect", "/revoke")) else None,
    }.get(name)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Two of three requests of a good form are about something that exists."""
    if case.meta is None or not case.meta.generation.mode.is_positive or next(numbers) % 3 == 0:
        return
    for values in (case.path_parameters, case.body):
        if isinstance(values, dict):
            for name, value in values.items():
                found = real(case.operation, name) if value is not None else None
                values[name] = value if found is None else found


# By the code of the refusal and what its sentence begins with: a request of the right form is refused all the same, and
# rightly.
BEYOND_A_SCHEMA = [
    # Of the right form, but made by nobody, or used.
    ("invalid_one_time_token", "The link is not valid"),
    # One of the most common ones; its length is in the schema.
    ("invalid_password", "The password must have 8 to 128 characters, and not be one of the most common"),
    # A cursor holds the place where a list goes on, and is good for that list.
    ("bad_request", "cursor must be a nextCursor"),
    # Times that PostgreSQL has, and RFC 3339 has more of.
    ("bad_request", "from and to must be of the years"),
    # A text of PostgreSQL has no NUL, wherever.
    ("invalid_request", "a text must not contain NUL"),
    # One of two members, or a member or the cookie.
    ("invalid_request", "There is neither a refreshToken nor a cookie"),
    ("invalid_request", "Give either a password or a credential"),
    # Optional for an account without a password.
    ("invalid_request", "currentPassword is missing"),
    # RFC 6749 §2.3: not by HTTP Basic and in the form.
    ("malformed_form", "The client must authenticate in one way"),
    ("malformed_form", "client_id names another client"),
    # Of the right length, but with control characters, or blank.
    ("invalid_name", ""),
    ("invalid_request", "The reason must have 1 to 200 characters"),
    # A word of ours.
    ("slug_reserved", ""),
]


@schemathesis.hook
def filter_failure(context, failure, case, response):
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    try:
        code, detail = response.json()["code"], response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return True
    return not any(code == expected and detail.startswith(begin) for expected, begin in BEYOND_A_SCHEMA)
