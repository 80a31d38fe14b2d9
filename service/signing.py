"""Signed documents: JSON with an Ed25519 signature that anyone can check without the service.

    {"document": "{...}", "signature": "...", "public_key": "..."}

The document is a string, so that the signed bytes are exactly those in the file. Signature and key
are in base64.

ServiceError
└── CertificateNotReadable, CertificateForged
"""

import base64
import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from service.errors import Misused, ServiceError

KEY_BYTES = 32
CONTEXT = b"fieldscribe certificate 1\n"  # no signature of something else fits


class CertificateNotReadable(Misused):
    """The file is not a signed certificate."""

    code: ClassVar[str] = "certificate_not_readable"


class CertificateForged(ServiceError):
    """The certificate was changed, or another installation has signed it."""

    code: ClassVar[str] = "certificate_forged"
    status: ClassVar[int] = 422


@dataclass(frozen=True)
class Verified:
    """A document whose signature is right. `public_key`: in base64, of the key that signed it."""

    document: dict[str, Any]
    public_key: str


def sign(private_key: bytes, document: str) -> str:
    """The signature in base64."""
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    return base64.b64encode(key.sign(CONTEXT + document.encode())).decode()


def public_key_of(private_key: bytes) -> str:
    """The public key in base64."""
    key = Ed25519PrivateKey.from_private_bytes(private_key).public_key()
    return base64.b64encode(key.public_bytes_raw()).decode()


def fingerprint(public_key: str) -> str:
    """The first half of the SHA-256 of a public key, in groups, to be read out on the telephone."""
    digest = sha256(base64.b64decode(public_key)).hexdigest()[:32]
    return " ".join(digest[i : i + 4] for i in range(0, len(digest), 4))


def signed_file(document: str, signature: str, public_key: str) -> bytes:
    content = {"document": document, "signature": signature, "public_key": public_key}
    return (json.dumps(content, indent=1) + "\n").encode()


def verify(content: bytes, trusted_key: str | None = None) -> Verified:
    """Check a signed file.

    Args:
        trusted_key: the installation's public key in base64. None: only the key in the file is
            used, which whoever forged the file may have put there.

    Raises:
        CertificateNotReadable, CertificateForged
    """
    try:
        outer = json.loads(content)
        document, signature, public_key = (
            outer[name] for name in ("document", "signature", "public_key")
        )
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
        signed = base64.b64decode(signature, validate=True)
        inner: dict[str, Any] = json.loads(document)
        trusted = None if trusted_key is None else base64.b64decode(trusted_key, validate=True)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CertificateNotReadable(
            "The file is not a certificate: give the JSON file, not the PDF, and the key in base64"
        ) from None
    if trusted is not None and trusted != key.public_bytes_raw():
        raise CertificateForged("Another installation's key signed the certificate")
    try:
        key.verify(signed, CONTEXT + document.encode())
    except InvalidSignature:
        raise CertificateForged(
            "The certificate was changed after it was signed: ask the institution for the original"
        ) from None
    return Verified(inner, public_key)
