"""Wrapped keys, encrypted under another: version (1 byte), nonce (12), AES-256-GCM (32 + 16)."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.vault.errors import KeyDamaged
from service.vault.streaming import KEY_SIZE, TAG_SIZE, Key

VERSION = b"\x01"
NONCE_SIZE = 12
WRAPPED_SIZE = 1 + NONCE_SIZE + KEY_SIZE + TAG_SIZE


def wrap(key: Key, under: Key, binding: str) -> bytes:
    """Encrypt a key. `binding` names its purpose, and unwrapping it needs the same name."""
    nonce = os.urandom(NONCE_SIZE)
    return VERSION + nonce + AESGCM(under.secret).encrypt(nonce, key.secret, binding.encode())


def unwrap(wrapped: bytes, under: Key, binding: str) -> Key:
    version, nonce, encrypted = wrapped[:1], wrapped[1 : 1 + NONCE_SIZE], wrapped[1 + NONCE_SIZE :]
    try:
        if version != VERSION or len(wrapped) != WRAPPED_SIZE:
            raise InvalidTag
        return Key(AESGCM(under.secret).decrypt(nonce, encrypted, binding.encode()))
    except InvalidTag as error:
        raise KeyDamaged(
            "A wrapped key was changed, or was wrapped for another place or under another key"
        ) from error
