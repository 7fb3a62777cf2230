"""Where Postgres is, and what to tell somebody whose Postgres cannot be had: one message, the setting in it, what to do.

    with explained(conninfo):           nothing says where, no connection string      ConfigurationError
        await connect(...)              no such database, role or password            ConfigurationError
                                        a certificate that does not verify            ConfigurationError
                                        nobody answers                                StoreUnavailableError

No message has a password in it: libpq quotes a connection string that it cannot read, and we do not.
"""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from engine.errors import ConfigurationError, EngineError, StoreUnavailableError
from engine.failures import summary
from engine.settings import EngineSettings

DSN = "postgres.dsn"
DIRECT_DSN = "postgres.direct_dsn"

VARIABLES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")
"""Of libpq's own, those that say which database is meant. One is enough: the others have defaults."""

# The server sends these before there is a session, without a code that libpq would hand on. In another language they
# are explained as a server that cannot be reached is, with the server's own words.
_NO_DATABASE = re.compile(r'database "(?P<name>[^"]*)" does not exist')
_REFUSED = re.compile(
    r'role "[^"]*" does not exist|authentication failed|no password supplied|no pg_hba\.conf entry|not permitted to log in'
    r"|permission denied for database"
)
# Of TLS: libpq refuses the server, or neither will speak to the other.
_UNVERIFIED = re.compile(
    r"certificate verify failed|root certificate file|certificate file|private key file|does not match host name"
    r"|host name must be specified for a verified|does not support SSL|weak sslmode|SSL error: (?:tlsv1|sslv3|wrong version)"
)
_READ_ONLY = re.compile(r"session is read-only|server is in hot standby mode")

_STATEMENTS = {
    "25006": "That server takes no writes: a standby, most likely. Name the primary, or every server of the cluster with\n"
    "  target_session_attrs=read-write ({dsn}, or {variable}).",
    "42501": "Grant it to the role that the processor connects as; `processor doctor` says what else it lacks.",
}
"""Advice about what a server refuses to do, by its code."""


# Said by libpq before it connects, with the value, which may be a piece of a password that was not escaped.
_MALFORMED = re.compile(
    r"invalid integer value .*for connection option|invalid port number|invalid \w+ value: |could not match \d+ "
)
_QUOTED = re.compile(r'"[^"]*"')
_PORT = "5432"
_PORT_MAX = 65_535
_ESCAPED = "In a URL, write @ in a password as %40, / as %2F, : as %3A."


def check_conninfo(conninfo: str) -> None:
    """Raise `ValueError` for what libpq cannot read as a connection string; does not say what it holds.

    Ports too, which libpq looks at when it connects, and what a password leaves in other places that was not escaped:
    it would be shown as part of the address.
    """
    try:
        parts = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError as error:
        raise ValueError(
            "this is no connection string: write postgresql://user:password@host:5432/database, or host=... dbname=..."
            f" (libpq: {without_values(str(error))})"
        ) from None
    for port in str(parts.get("port") or "").split(","):
        if port and not (port.isdecimal() and 0 < int(port) <= _PORT_MAX):
            raise ValueError(f'invalid value for connection option "port": a number up to {_PORT_MAX}. {_ESCAPED}')
    _, is_url, rest = conninfo.strip().partition("://")
    authority, _, path = rest.partition("?")[0].partition("/")
    if is_url and (authority.count("@") > 1 or ("@" in path and "@" not in authority)):
        raise ValueError(f"there is an @ behind where user and password end. {_ESCAPED}")


def without_values(message: str) -> str:
    """What libpq says of a connection string, without what it quotes of it, but for names of its options."""
    if message.count('"') % 2:
        return message.partition('"')[0].rstrip()  # the value has a quote in it: nobody knows where it ends
    options = {f'"{each.keyword.decode()}"' for each in pq.Conninfo.get_defaults()} | {'"="'}
    return _QUOTED.sub(lambda quoted: quoted[0] if quoted[0] in options else "(not shown)", message).strip()


def check_address(conninfo: str, setting: str = DSN) -> None:
    """Whether the settings say where Postgres is, as far as that can be told without asking it.

    Raises:
        ConfigurationError: Nothing says where, or it is no connection string.
    """
    if not conninfo.strip() and not any(os.environ.get(name) for name in VARIABLES):
        raise ConfigurationError(
            f"{setting} is not set, nor any of libpq's variables ({', '.join(VARIABLES)}): nothing says where Postgres is.\n"
            f"  Set it to postgresql://user:password@host:5432/database, or host=... dbname=... user=...; as a variable\n"
            f"  it is called {variable(setting)}."
        )
    try:
        check_conninfo(conninfo)
    except ValueError as error:
        raise ConfigurationError(f"{setting}: {error}") from None


@contextmanager
def explained(conninfo: str, setting: str = DSN) -> Generator[None]:
    """Around the opening of a first connection.

    Args:
        conninfo: To be connected with.
        setting: What it is called in the settings.

    Raises:
        ConfigurationError: Nothing says where Postgres is, or that it is there and does not let us in.
        StoreUnavailableError: It does not answer.
    """
    check_address(conninfo, setting)
    try:
        yield
    except psycopg.OperationalError as error:
        if error.sqlstate is not None:
            raise  # there was a session: it is about a statement
        raise explain_connect_error(error, conninfo, setting) from error


def session_address(settings: EngineSettings) -> tuple[str, str]:
    """Where a session of one's own is to be had, around a pooler if there is one, and what that is called."""
    direct = settings.direct_conninfo
    return (settings.conninfo, DSN) if direct is None else (direct, DIRECT_DSN)


def explain_connect_error(error: psycopg.Error, conninfo: str, setting: str = DSN) -> EngineError:
    """What to tell a user whose database cannot be reached; never the password."""
    if _MALFORMED.search(str(error)):
        return ConfigurationError(
            f"{setting}, or one of libpq's variables, has a value that libpq does not take: "
            f"{without_values(summary(error))}"
        )
    places, name = _address(conninfo)
    message = f"Postgres cannot be reached at {places}, database {name!r}: {summary(error)}\n"
    named = f"{setting}, or {variable(setting)}"
    if _NO_DATABASE.search(str(error)):
        return ConfigurationError(f"{message}  Create it (`createdb {name}`), or correct its name ({named}).")
    if _REFUSED.search(str(error)):
        return ConfigurationError(
            f"{message}  Check user and password ({named}; ~/.pgpass and PGPASSWORD count too), and that the server's\n"
            f"  pg_hba.conf lets this user into this database from here."
        )
    if _UNVERIFIED.search(str(error)):
        return ConfigurationError(
            f"{message}  Check sslmode and sslrootcert in {named}: the file of the CA that signed the server's certificate, and\n"
            f"  the host by the name that is in it; and that the server speaks TLS (`ssl = on`)."
        )
    if _READ_ONLY.search(str(error)):
        return StoreUnavailableError(
            f"{message}  Of the servers that answer none takes writes (target_session_attrs). Promote one, or name the primary too\n"
            f"  ({named})."
        )
    return StoreUnavailableError(
        f"{message}  Check the address ({named}), that the server runs, and that this user may connect."
    )


def advice_about(error: Exception) -> str:
    """What to do about what a server refused, as lines of their own; '' where its own words say it."""
    advice = _STATEMENTS.get(str(getattr(error, "sqlstate", None)), "")
    return advice and f"\n  {advice.format(dsn=DSN, variable=variable(DSN))}"


def variable(setting: str) -> str:
    """A setting's name in the environment."""
    return f"PROCESSOR_{setting.replace('.', '_').upper()}"


def _address(conninfo: str) -> tuple[str, str]:
    """Every host with its port, and the database, that libpq takes for a connection string, its defaults and PG... variables included."""
    defaults = {each.keyword.decode(): each.val.decode() for each in pq.Conninfo.get_defaults() if each.val}
    parts = defaults | {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value}
    hosts = (parts.get("host") or parts.get("hostaddr") or "").split(",")
    ports = parts.get("port", "").split(",")
    if len(ports) != len(hosts):
        ports = ports[:1] * len(hosts)  # one for all of them
    places = [f"{host or 'a local socket'}:{port or _PORT}" for host, port in zip(hosts, ports, strict=True)]
    # Without a name of its own, the database is called as the user.
    return ", ".join(places), parts.get("dbname") or parts.get("user", "")
