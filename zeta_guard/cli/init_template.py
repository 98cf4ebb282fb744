"""The text of a first configuration: every line that must be there, and comments on those that may."""

from __future__ import annotations

from typing import Final, Literal

from zeta_guard.cli.checking.to_do import NO_THUMBPRINT

Purpose = Literal["vsdm", "popp", "generic"]

_HEAD: Final = """\
# Configuration of a ZETA Guard {what}.
#
#   zeta-guard check guard.yaml             names every mistake and what is still to fill in
#   zeta-guard serve --config guard.yaml    runs it
#   zeta-guard config schema                every key, its default and what it means
#
# Paths count from this file. Unknown keys are errors.

# The one URL by which clients know this guard. They keep it for ever: choose it before the first one comes.
public_url: https://localhost:8443

listen:
  port: 8443

# Metrics, /livez and /readyz. Never reachable from where clients are.
ops:
  host: 127.0.0.1
  port: 9090
  admin_socket: admin.sock             # for zeta-guard sessions, block, keys and explain; its owner alone may use it

# The guard ends TLS itself. Behind an ingress that does it, remove this section, set listen.port to 8080 and name the
# ingress under gateway.trusted_proxies.
tls:
  certificate_file: tls/guard.pem      # self-signed by 'init': replace it
  private_key_file: tls/guard.key

# 32 random bytes, the same on all replicas. To change it: [new, old] and restart; nobody loses anything (several replicas:
# first [old, new]). Dropping the old one later loses what it sealed: registrations made before the change (clients register
# again by themselves), sessions that still run (a day at most), and blocks of institutions (set them again).
secret_files: [keys/secret]

# State in this process: one process only, forgotten by a restart. Several processes or replicas need Redis 7:
#   store:
#     kind: redis
#     url: rediss://redis.example:6379/0
#     username: guard
#     password_file: keys/redis-password
#     ca_file: tls/redis-ca.pem
store:
  kind: memory

authorization_server:
  signing_keys: keys/signing           # the next key: zeta-guard keys rotate --directory keys/signing
  scopes: [{scopes}]
  # lifetimes: {{access_token: 300, refresh_token: 43200}}

# Who issues SM(C)-B certificates. Either a folder of CA certificates (OCSP signers in its sub-folder 'ocsp') with the
# hosts of their responders …
trust:
  directory: trust
  ocsp:
    hosts: [ocsp.example]
# … or the trust list of the Telematikinfrastruktur, which names them all:
#   trust:
#     tsl:
#       url: https://download.example/TSL.xml
#       anchors: [trust/tsl-signer-ca.pem]
#       state_file: tsl-state

# Who may have a token. The bundle inside the package needs nothing else; own rules: see policies/README.md.
policy:
  token:
    engine: embedded
    bundle: package:{bundle}
  # token: {{engine: opa, url: http://127.0.0.1:8181}}

"""

_POPP_ISSUERS: Final = f"""\
  # The PoPP service whose tokens are believed, pinned by the RFC 7638 thumbprint of its entity key.
  popp_issuers:
    - issuer: https://popp.example
      entity_key_thumbprint: {NO_THUMBPRINT}
"""

_GATEWAY: Final = """\
# What is protected, and where it goes. The longest prefix wins; without a route a path is 404.
gateway:
  # resource: https://localhost:8443/    # what clients send as 'audience'; default: public_url with a slash
  # client_address: forwarded            # behind a proxy that sets 'Forwarded'; or x-forwarded-for
  # trusted_proxies: [10.0.0.0/8]        # and where that proxy is
{popp_issuers}  routes:
{routes}
# telemetry:
#   traces: {{otlp_url: "http://collector.example:4318/v1/traces"}}
# audit:
#   directory: audit
#   signing_key_file: keys/audit.pem
"""

_VSDM_ROUTE: Final = """\
    - prefix: /vsdservice/v1/vsdmbundle
      methods: [GET]
      scopes: [vsdservice]
      popp: {max_age: quarter}         # a PoPP token of this quarter, issued to the same institution
      client_data: true
      upstreams:
        - url: http://vsdm-service.example:8080
"""

_POPP_ROUTE: Final = """\
    - prefix: /popp/practitioner/api/v1/token-generation-ehc
      methods: [GET]
      scopes: [popp]
      websocket: {enabled: true}
      upstreams:
        - url: http://popp-service.example:8080
"""

_GENERIC_ROUTE: Final = """\
    - prefix: /api
      methods: [GET, POST]
      # scopes: [vsdservice]           # all of them must be in the token
      # acr: gematik-ehealth-loa-high
      # popp: {max_age: quarter}       # needs popp_issuers
      # request_policy: true           # asks the policy for every request
      # max_body: 1048576
      upstreams:
        - url: http://service.example:8080
"""


def configuration_text(purpose: Purpose, *, bundle: str | None = None) -> str:
    """The file. ``bundle``: name of the policy bundle inside the package; default: the one for ``purpose``, if it is there."""
    what = {"vsdm": "before a VSDM service", "popp": "before a PoPP service", "generic": "before a service"}[purpose]
    scopes = {"vsdm": "vsdservice", "popp": "popp", "generic": "vsdservice, popp"}[purpose]
    routes = {"vsdm": _VSDM_ROUTE, "popp": _POPP_ROUTE, "generic": _GENERIC_ROUTE}[purpose]
    head = _HEAD.format(what=what, scopes=scopes, bundle=bundle or packaged_bundle(purpose))
    return head + _GATEWAY.format(popp_issuers=_POPP_ISSUERS if purpose == "vsdm" else "", routes=routes)


def packaged_bundle(purpose: Purpose) -> str:
    """The bundle inside the package that fits best."""
    from zeta_guard.policy.source import PACKAGED

    wanted = {"vsdm": "vsdm", "popp": "popp", "generic": "template"}[purpose]
    return wanted if (PACKAGED / f"{wanted}.tar.gz").exists() else "demo"
