"""The certificate that https listeners show, from PEM files or a PKCS12 keystore."""

import logging
import ssl
import tempfile
from pathlib import Path

from torchrelay.shared.settings import GatewaySettings, SettingsError

logger = logging.getLogger(__name__)

#: For TLS 1.2: keys of each connection's own, and encryption that authenticates; 1.3 has nothing else. Java 8
#: knows them.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: OpenSSL's reasons to take a certificate for too weak, which TorchServe served all the same.
_TOO_WEAK = ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK")


def context(config: GatewaySettings) -> ssl.SSLContext:
    """Make the TLS side of https listeners. Raises SettingsError where there is nothing usable."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers(_CIPHERS)
    made.options |= ssl.OP_NO_RENEGOTIATION
    made.set_alpn_protocols(["http/1.1"])
    if config.certificate_file and config.private_key_file:
        _load_files(made, config.certificate_file, config.private_key_file)
    elif config.keystore:
        _load_keystore(made, Path(config.keystore), config.keystore_pass.encode())
    else:
        raise SettingsError(
            "an https address needs certificate_file and private_key_file (PEM), or keystore (PKCS12)"
        )
    return made


def pem(config: GatewaySettings) -> tuple[bytes, bytes]:
    """Return private key and certificate chain, for libraries that want them so. Raises SettingsError."""
    context(config)  # which says what is wrong with them
    if config.certificate_file and config.private_key_file:
        return Path(config.private_key_file).read_bytes(), Path(config.certificate_file).read_bytes()
    return _of_keystore(Path(config.keystore or ""), config.keystore_pass.encode(), keep_encrypted=False)


def _load_files(made: ssl.SSLContext, certificate: str, key: str) -> None:
    for setting, path in (("certificate_file", certificate), ("private_key_file", key)):
        if not Path(path).is_file():
            raise SettingsError(f"{setting}={path}: there is no such file")
    try:
        # With no password at all OpenSSL would ask for one at the terminal.
        _load(made, Path(certificate), Path(key), b"")
    except OSError as error:
        raise SettingsError(
            f"certificate_file={certificate} and private_key_file={key} can't be used: {error};"
            " both must be PEM, belong together, and the key must have no password"
        ) from error


def _load(made: ssl.SSLContext, certificate: Path, key: Path, password: bytes) -> None:
    """Load a chain, if need be a weak one: whoever connects may still refuse it."""
    try:
        made.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        if error.reason not in _TOO_WEAK:
            raise
        logger.warning("gateway.weak_certificate", extra={"reason": error.reason})
        made.set_ciphers(f"{_CIPHERS}:@SECLEVEL=0")
        made.load_cert_chain(certificate, key, password)


def _of_keystore(path: Path, password: bytes, *, keep_encrypted: bool) -> tuple[bytes, bytes]:
    """Read a PKCS12 file: its key and its chain, as PEM."""
    # Imported where it is needed: it is large, and most gateways have no keystore.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import pkcs12

    try:
        held = pkcs12.load_pkcs12(path.read_bytes(), password or None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"keystore={path} can't be read: {error}; it must be PKCS12 with the password keystore_pass"
            " (keytool -importkeystore -deststoretype pkcs12 makes one of a JKS)"
        ) from error
    if held.key is None or held.cert is None:
        raise SettingsError(f"keystore={path} must hold a private key and its certificate")
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password and keep_encrypted
        else serialization.NoEncryption()
    )
    chain = [held.cert.certificate, *(more.certificate for more in held.additional_certs)]
    return (
        held.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption),
        b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain),
    )


def _load_keystore(made: ssl.SSLContext, path: Path, password: bytes) -> None:
    # OpenSSL reads files alone: the key's lies there for a moment, and no less encrypted than it was.
    key, chain = _of_keystore(path, password, keep_encrypted=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            certificate_file, key_file = Path(folder, "certificate"), Path(folder, "key")
            certificate_file.write_bytes(chain)
            key_file.write_bytes(key)
            _load(made, certificate_file, key_file, password)
    except OSError as error:
        raise SettingsError(f"keystore={path} can't be used: {error}") from error
