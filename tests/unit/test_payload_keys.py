"""Keys for payloads as settings and mounted Secrets have them."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigurationError
from processor import load_settings
from processor.config_formats import PayloadSettings
from processor.payload_keys import payload_keys

KEY = bytes(range(32))
TEXT = b64encode(KEY).decode()


def keys(**given: Any) -> Any:
    return payload_keys(PayloadSettings.model_validate(given))


def test_keys_come_from_the_environment_and_from_files(tmp_path: Path) -> None:
    """As a Secret is mounted: links to a hidden folder, a line end at the end."""
    data = tmp_path / "..2026"
    data.mkdir()
    (data / "2025").write_text(TEXT + "\n")
    (tmp_path / "..data").symlink_to(data)
    (tmp_path / "2025").symlink_to(data / "2025")
    environ = {
        "PROCESSOR_PAYLOADS_KEY": "2026",
        "PROCESSOR_PAYLOADS_KEYS": json.dumps({"2026": TEXT}),
        "PROCESSOR_PAYLOADS_KEYS_DIR": str(tmp_path),
    }

    settings = load_settings(environ=environ)
    found = payload_keys(settings.payloads)

    assert found.keys == {"2025": KEY, "2026": KEY}
    assert found.current == "2026"
    assert TEXT not in repr(settings)


def test_without_keys_nothing_is_sealed() -> None:
    assert keys().current is None


@pytest.mark.parametrize(
    "given,words",
    [
        ({"keys": {"a": "s3cret!"}}, "key 'a' is no base64 text. Make one: openssl rand -base64 32"),
        ({"keys": {"a": b64encode(b"s3cret").decode()}}, "payloads.keys.a: a key has 32 bytes, this one 6"),
        ({"keys": {"a": TEXT}, "key": "b"}, "payloads.key: 'b' is not among"),
        ({"keys_dir": "/nowhere"}, "payloads.keys_dir: /nowhere"),
    ],
)
def test_what_is_no_key_is_named_and_not_shown(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        keys(**given)
    assert words in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_key_has_one_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(TEXT)

    with pytest.raises(ConfigurationError, match="key 'a' is both in payloads.keys and in payloads.keys_dir"):
        keys(keys={"a": TEXT}, keys_dir=str(tmp_path))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(200, 232)))

    with pytest.raises(ConfigurationError, match="payloads.keys_dir"):
        keys(keys_dir=str(tmp_path))
