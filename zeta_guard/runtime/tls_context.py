"""TLS ended by the guard (``wire-contract`` section 8.1): TLS 1.2 and 1.3, ECDHE with AES-GCM, ALPN ``http/1.1``."""

from __future__ import annotations

import ssl

from zeta_guard.config.listen import Tls
from zeta_guard.errors import ConfigurationError

TLS12_SUITES = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384"


def minimum_version(tls: Tls) -> ssl.TLSVersion:
    """The configured minimum in OpenSSL's terms."""
    return ssl.TLSVersion.TLSv1_3 if tls.minimum_version == "1.3" else ssl.TLSVersion.TLSv1_2


def server_context(tls: Tls) -> ssl.SSLContext:
    """A server context from certificate and key; ConfigurationError names the file that does not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = minimum_version(tls)
    context.set_ciphers(TLS12_SUITES)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate_file, tls.private_key_file)
    except FileNotFoundError as error:
        missing = "private_key_file" if tls.certificate_file.exists() else "certificate_file"
        raise ConfigurationError(
            f"tls.{missing}",
            f"no file {getattr(tls, missing)}",
            "a PEM file",
            "Put the file there or correct the path.",
        ) from error
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(
            "tls",
            f"certificate and key cannot be used together ({getattr(error, 'reason', None) or type(error).__name__})",
            "a PEM certificate (leaf first) and its unencrypted PKCS#8 key",
            "Check that the key belongs to the certificate: openssl x509 -pubkey / openssl pkey -pubout must agree.",
        ) from error
    return context
