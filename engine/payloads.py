"""What is of users, sealed before it becomes a column and opened when it leaves one (decision 0012).

    text   ' {"sealed": "2026-06:BASE64"}'   JSON with a space in front: no writer of JSON begins so
    bytes   length of the key ID, key ID, body
    body    1 | salt, 16 | counter, 8 | AES-256-GCM of the text, 16 of them its tag

The key that seals is not used itself: each process seals with a key derived from it and a random salt, and counts its
nonces. What is not sealed is taken as it is: it was there before the key. A value that cannot be opened is never
somebody's failure; who meets it halts visibly (`UnreadablePayloadError`).
"""

from __future__ import annotations

import itertools
import os
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from engine.errors import ConfigurationError, EngineError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

_HEAD, _TAIL = ' {"sealed": "', '"}'
_VERSION: Final = b"\x01"
_SALT, _COUNTER, _TAG = 16, 8, 16
_PREFIX: Final = 1 + _SALT + _COUNTER

SUBKEY_VALUES_MAX: Final = 2**32
"""Values under one salt: then another one is drawn."""
SUBKEYS_MAX: Final = 1_024
"""Derived keys kept for opening: one for each process that wrote what is read."""


class UnreadablePayloadError(EngineError):
    """A stored value cannot be opened: its key is not configured, is another one, or the value was changed.

    Nothing was written or decided: its partition halts, and goes on once it is released and the key is there.
    """

    def __init__(self, where: str, key_id: str, why: str) -> None:
        super().__init__(f"{where} is sealed with key {key_id!r}, {why}")
        self.where = where
        self.key_id = key_id


@dataclass(frozen=True, slots=True)
class PayloadKeys:
    """The keys of a deployment.

    Attributes:
        keys: 32 bytes each, by ID. Not shown.
        current: ID of the one that seals; `None`: values are stored readable, and sealed ones are still opened.
    """

    keys: Mapping[str, bytes] = field(default_factory=dict[str, bytes], repr=False)
    current: str | None = None

    def __post_init__(self) -> None:
        for key_id, key in self.keys.items():
            if _KEY_ID.fullmatch(key_id) is None:
                raise ConfigurationError(
                    f"payloads.keys: {key_id!r} is no ID of a key: at most 64 letters, digits, '.', '_' and '-'"
                )
            if len(key) != KEY_BYTES:
                raise ConfigurationError(f"payloads.keys.{key_id}: a key has {KEY_BYTES} bytes, this one {len(key)}")
        if self.current is not None and self.current not in self.keys:
            known = ", ".join(sorted(self.keys)) or "none"
            raise ConfigurationError(
                f"payloads.key: {self.current!r} is not among the keys that are configured: {known}"
            )


class Payloads:
    """Seals and opens values. Safe to use from any thread.

    Attributes:
        seal: Text to a column's text; `None`: values are stored as they are.
    """

    def __init__(self, keys: PayloadKeys | None = None) -> None:
        """Raises `ConfigurationError` where there are keys and `cryptography` is not installed."""
        self._keys = keys or PayloadKeys()
        self.seal: Callable[[str], str] | None = None
        if self._keys.keys:
            self._invalid = _invalid_tag()
            self._opener = lru_cache(SUBKEYS_MAX)(self._derived)
        if self._keys.current is not None:
            self._sealer = self._new_sealer(self._keys.current)
            self.seal = self._seal

    @property
    def current(self) -> str | None:
        """ID of the key that seals."""
        return self._keys.current

    def open(self, text: str, where: str) -> str:
        """A column's text as it was sealed; one that is not sealed as it is.

        Args:
            text: The column.
            where: Which row and column, for people.

        Raises:
            UnreadablePayloadError: Its key is missing, or the value is not what was sealed with it.
        """
        if not text.startswith(_HEAD):
            return text
        key_id, _, body = text[len(_HEAD) : -len(_TAIL)].partition(":")
        try:
            sealed = a2b_base64(body, strict_mode=True)
        except ValueError:
            raise UnreadablePayloadError(where, key_id, "and was changed: its text is no base64") from None
        return self._opened(key_id, sealed, where).decode("utf-8", "surrogatepass")

    def open_if(self, text: str | None, where: str) -> str | None:
        """`open` of a column that may be NULL."""
        return None if text is None else self.open(text, where)

    def seal_bytes(self, value: bytes) -> bytes:
        """Bytes to those of a column that says elsewhere that it is sealed. Only where `seal` is there."""
        key_id, body = self._sealed(value)
        return bytes([len(key_id)]) + key_id.encode() + body

    def open_bytes(self, value: bytes, where: str) -> bytes:
        """Bytes as they were sealed. Raises `UnreadablePayloadError`."""
        size = value[0] if value else 0
        key_id = value[1 : 1 + size].decode("ascii", "replace")
        return self._opened(key_id, value[1 + size :], where)

    # -- inside --

    def _seal(self, text: str) -> str:
        if text == "null":
            return text  # most handlers' result: it says nothing
        key_id, body = self._sealed(text.encode("utf-8", "surrogatepass"))
        return f"{_HEAD}{key_id}:{b2a_base64(body, newline=False).decode()}{_TAIL}"

    def _sealed(self, value: bytes) -> tuple[str, bytes]:
        sealer = self._sealer
        count = next(sealer.counter)
        if count >= SUBKEY_VALUES_MAX or sealer.pid != os.getpid():
            # A fork counts on from where its parent does: one nonce for two values.
            sealer = self._sealer = self._new_sealer(sealer.key_id)
            count = next(sealer.counter)
        nonce = count.to_bytes(12)
        return sealer.key_id, sealer.prefix + nonce[-_COUNTER:] + sealer.cipher.encrypt(nonce, value, sealer.aad)

    def _opened(self, key_id: str, body: bytes, where: str) -> bytes:
        if key_id not in self._keys.keys:
            known = ", ".join(sorted(self._keys.keys)) or "none"
            raise UnreadablePayloadError(where, key_id, f"which is not among those configured ({known})")
        if body[:1] != _VERSION or len(body) < _PREFIX + _TAG:
            raise UnreadablePayloadError(where, key_id, "in a form that this version does not know, or was cut off")
        salt, counter = body[1 : 1 + _SALT], body[1 + _SALT : _PREFIX]
        try:
            return self._opener(key_id, salt).decrypt(counter.rjust(12, b"\0"), body[_PREFIX:], _aad(key_id))
        except self._invalid:
            raise UnreadablePayloadError(
                where, key_id, "but not with the one that is configured under this ID, or it was changed"
            ) from None

    def _new_sealer(self, key_id: str) -> _Sealer:
        salt = os.urandom(_SALT)
        return _Sealer(
            key_id, _VERSION + salt, self._derived(key_id, salt), _aad(key_id), itertools.count(), os.getpid()
        )

    def _derived(self, key_id: str, salt: bytes) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return AESGCM(HKDF(SHA256(), KEY_BYTES, salt, _aad(key_id)).derive(self._keys.keys[key_id]))


@dataclass(frozen=True, slots=True)
class _Sealer:
    key_id: str
    prefix: bytes
    cipher: AESGCM
    aad: bytes
    counter: itertools.count[int]
    pid: int


def member_of(sealed: str) -> str:
    """A sealed text as a member of a JSON object, `"sealed": "…"`."""
    return sealed[2:-1]


def from_member(value: str) -> str:
    """The sealed text of such a member's value."""
    return f"{_HEAD}{value}{_TAIL}"


def key_id_of(text: str) -> str | None:
    """The key of a column's text; `None`: it is not sealed."""
    return text[len(_HEAD) :].partition(":")[0] if text.startswith(_HEAD) else None


def _aad(key_id: str) -> bytes:
    return b"onceflow payload 1:" + key_id.encode()


def _invalid_tag() -> type[Exception]:
    """What the library raises for a value that it did not seal so."""
    try:
        from cryptography.exceptions import InvalidTag
    except ImportError:
        raise ConfigurationError(
            "payloads.keys: sealing needs cryptography, which is not installed: pip install 'onceflow[encryption]'"
        ) from None
    return InvalidTag
