"""Keys for payloads, as settings and files have them: base64 text, never shown."""

from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path

from engine.errors import ConfigurationError
from engine.payloads import PayloadKeys
from processor.config_formats import PayloadSettings


def payload_keys(settings: PayloadSettings) -> PayloadKeys:
    """The keys of these settings. Files are read now.

    Raises:
        ConfigurationError: A key is no base64 of 32 bytes, is there twice, cannot be read, or the one that seals is missing.
    """
    keys = {key_id: _key(key_id, secret.get_secret_value()) for key_id, secret in settings.keys.items()}
    if settings.keys_dir is not None:
        for key_id, text in _files(settings.keys_dir).items():
            if key_id in keys:
                raise ConfigurationError(f"payloads: key {key_id!r} is both in payloads.keys and in payloads.keys_dir")
            keys[key_id] = _key(key_id, text)
    return PayloadKeys(keys, settings.key)


def _files(folder: str) -> Mapping[str, str]:
    try:
        # A mounted Secret has links to `..data` beside its keys.
        files = [path for path in sorted(Path(folder).iterdir()) if path.is_file() and not path.name.startswith(".")]
        return {path.name: path.read_text() for path in files}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"payloads.keys_dir: {folder}: {error}") from None


def _key(key_id: str, text: str) -> bytes:
    try:
        return b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise ConfigurationError(
            f"payloads: key {key_id!r} is no base64 text. Make one: openssl rand -base64 32"
        ) from None
