"""SQLAlchemy's psycopg dialect on a connection that it neither opened nor may set up, commit or roll back. Needs SQLAlchemy."""

from typing import Any

import psycopg
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg


class Dialect(PGDialect_psycopg):
    """As the driver's own, but asks the server nothing: the transaction is the user's from its first statement."""

    supports_statement_cache = True

    def __init__(self, **options: Any) -> None:
        super().__init__(use_native_hstore=False, **options)  # pyright: ignore[reportUnknownMemberType]

    def initialize(self, connection: Any) -> None:
        """What the connection says of itself, and what holds for every server that the engine runs on."""
        version: int = connection.connection.dbapi_connection.server_version
        self.server_version_info = (version // 10_000, version % 10_000)
        self.default_schema_name = "public"
        self.default_isolation_level = "READ COMMITTED"
        self.supports_smallserial = True
        self.supports_identity_columns = True
        self._backslash_escapes = False
        self._supports_drop_index_concurrently = True
        self._supports_jsonb_subscripting = self.server_version_info >= (14,)
        self.supports_virtual_generated_columns = self.server_version_info >= (18,)

    def on_connect(self) -> Any:
        """Nothing: the connection is set up."""

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        """Never: what a lost connection means is decided by who owns the transaction (P25)."""
        del e, connection, cursor
        return False

    @classmethod
    def import_dbapi(cls) -> Any:
        """The driver."""
        return psycopg
