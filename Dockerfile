# One image, one process. BASE is any Debian-like image with Python 3.11 or newer and its venv module.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY pyproject.toml README.md ./
COPY zeta_guard ./zeta_guard
RUN python3 -m venv /opt/zeta-guard \
 && /opt/zeta-guard/bin/pip install --quiet . \
 && /opt/zeta-guard/bin/pip uninstall --quiet --yes pip setuptools \
 # Byte code is made once here: the running container has a read-only file system.
 && python3 -m compileall -q -j 0 /opt/zeta-guard/lib

FROM ${BASE}
# TLS groups and the TLS 1.3 suites have no Python call; they are set here (docs/operators.md, "TLS").
COPY docker/openssl.cnf /etc/zeta-guard/openssl.cnf
COPY --from=build /opt/zeta-guard /opt/zeta-guard
ENV PATH=/opt/zeta-guard/bin:$PATH \
    OPENSSL_CONF=/etc/zeta-guard/openssl.cnf \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /etc/zeta-guard
EXPOSE 8443 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["zeta-guard"]
CMD ["serve", "--config", "/etc/zeta-guard/guard.yaml"]
