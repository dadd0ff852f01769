"""TLS of our own HTTP: the server's side, for every process, and the client's, for the agent that asks the worker."""

import ssl
from pathlib import Path

from runtime.errors import ConfigurationError
from runtime.settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """For the HTTP server; None where no certificate is set, and then it speaks plain HTTP. TLS 1.2 or later.

    Raises:
        ConfigurationError: only one of certificate and key is set, or they cannot be read or do not belong together.
    """
    certificate, key = settings.http_certificate_location, settings.http_key_location
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigurationError(
            "MODELWATCH_HTTP_CERTIFICATE_LOCATION and MODELWATCH_HTTP_KEY_LOCATION go together: set both, or neither"
        )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"the HTTP server's certificate {certificate} and key {key} cannot be used: {error}; both are PEM files, "
            "and the key is not encrypted"
        ) from error
    return context


def client_context(authority: Path | None, variable: str) -> ssl.SSLContext | None:
    """For a client that trusts this authority alone; None: the system's authorities.

    Args:
        variable: where the path comes from, for the message.

    Raises:
        ConfigurationError: the file cannot be read as PEM.
    """
    if authority is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(authority))
    except OSError as error:
        raise ConfigurationError(f"{variable}: {authority} cannot be read as a PEM file: {error}") from error
