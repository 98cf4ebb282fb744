"""What the guard's own end of TLS agrees to beyond what gemSpec_Krypt names (``wire-contract`` section 8.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zeta_guard.config.rules import Notice

if TYPE_CHECKING:
    from zeta_guard.config.guard import GuardConfig


def tls_notices(config: GuardConfig) -> list[Notice]:
    """One notice when OpenSSL's defaults hold instead of the image's configuration file."""
    from zeta_guard.runtime.tls_offer import tls_offer

    excess = tls_offer().excess if config.tls is not None else ()
    if not excess:
        return []
    return [
        Notice(
            "tls",
            f"OpenSSL here also agrees to {', '.join(excess)}",
            "Set OPENSSL_CONF to a file like docker/openssl.cnf, as the image does; Python cannot set groups and TLS 1.3 suites.",
        )
    ]
