"""Detached signatures of adapter versions (Ed25519, RFC 8032): over the manifest, which holds the hash of every other file.

`signature.json` lies beside the manifest: {"schema", "algorithm": "ed25519", "public_key": hex, "signature": hex}. Keys are PEM files,
as `openssl genpkey -algorithm ed25519` writes them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError, InputError
from trafficllm.core.files import atomic_write, read_bytes
from trafficllm.core.sealed import read_sealed, sealed
from trafficllm.registry.manifest import FILE, SIGNATURE

SCHEMA = "trafficllm.signature/1"
_CONTEXT = b"trafficllm adapter manifest\n"
"""Before what is signed: a signature of anything else made with the same key is none of a manifest."""
_LARGEST = 64 << 10


def sign(folder: Path, key: str | Path) -> dict[str, Any]:
    """Sign a version's manifest with a private key and write `signature.json` beside it; returns what was written."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(read_bytes(key, largest=_LARGEST), password=None)
    except (ValueError, TypeError) as error:
        raise _bad_key(key, "no private key in PEM without a password") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise _bad_key(key, "not an Ed25519 key")
    signature = private.sign(_CONTEXT + (folder / FILE).read_bytes())
    public = private.public_key().public_bytes_raw().hex()
    body = {"schema": SCHEMA, "algorithm": "ed25519", "public_key": public, "signature": signature.hex()}
    atomic_write(folder / SIGNATURE, sealed(body), private=True)
    return body


def differences(folder: Path, key: str | Path | None = None) -> list[str]:
    """Why a version's manifest does not carry a valid signature by a public key; empty where it does.

    Without a key: why a signature that is there is not one of this manifest by the key that it names.
    """
    if key is None and not os.path.lexists(folder / SIGNATURE):
        return []
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    public = None if key is None else _public(key)
    try:
        body = read_sealed(folder / SIGNATURE, required=True)
        if body["schema"] != SCHEMA or body["algorithm"] != "ed25519":
            return [f"{SIGNATURE} is of another schema"]
        public = public or Ed25519PublicKey.from_public_bytes(bytes.fromhex(body["public_key"]))
        public.verify(bytes.fromhex(body["signature"]), _CONTEXT + (folder / FILE).read_bytes())
    except InputError as error:
        return ["it is not signed" if error.code == "input.missing" else f"{SIGNATURE} is damaged: {error.message}"]
    except ArtifactError as error:
        return [error.message]
    except InvalidSignature:
        shown = body["public_key"] if isinstance(body.get("public_key"), str) else "?"
        expected = public.public_bytes_raw().hex() if public is not None else shown[:64]
        return [f"its signature is not by {expected} (it names {shown[:64]}) or the manifest has changed"]
    except (KeyError, TypeError, ValueError):
        return [f"{SIGNATURE} is no signature file"]
    return []


def _public(key: str | Path) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    data = read_bytes(key, largest=_LARGEST)
    try:
        loaded = load_pem_private_key(data, password=None) if b"PRIVATE KEY" in data else load_pem_public_key(data)
    except (ValueError, TypeError) as error:
        raise _bad_key(key, "no key in PEM") from error
    public = loaded.public_key() if isinstance(loaded, Ed25519PrivateKey) else loaded
    if not isinstance(public, Ed25519PublicKey):
        raise _bad_key(key, "not an Ed25519 key")
    return public


def _bad_key(key: str | Path, why: str) -> InputError:
    hint = "openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out public.pem"
    return InputError("input.key", why, input=str(key), hint=hint)
