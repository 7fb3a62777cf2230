"""The store of executions of a deployment: `engine.executions` with its settings (decision 0016)."""

from pydantic import SecretStr

from engine.executions import ExecutionStore as EngineStore
from processor.config import Settings
from processor.loading import load_settings
from processor.wiring import engine_settings


class ExecutionStore(EngineStore):
    """Executions in the database of a deployment. Belongs to one event loop; open it with `async with`.

    Args:
        database: Settings, or the address of the database with other settings as they are; `None`: those of the environment
            and `processor.yaml`.
    """

    def __init__(self, database: Settings | str | None = None) -> None:
        loaded = database if isinstance(database, Settings) else load_settings()
        if isinstance(database, str):
            postgres = loaded.postgres.model_copy(update={"dsn": SecretStr(database)})
            loaded = loaded.model_copy(update={"postgres": postgres})
        self.deployment = loaded
        super().__init__(engine_settings(loaded))


__all__ = ["ExecutionStore"]
