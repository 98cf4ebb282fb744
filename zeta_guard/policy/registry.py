"""A bundle as an OCI artefact: pulled from a registry by its distribution API (OCI distribution specification 1.1).

What is pulled is believed by its digest only. A blob may be redirected to the registry's storage (https, without
credentials); a manifest may not.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urljoin, urlsplit

from zeta_guard.errors import ConfigurationError
from zeta_guard.http.outbound import Answer, Outbound, OutboundError
from zeta_guard.policy.bundle import MAX_PACKED_BYTES, BundleError, read_archive
from zeta_guard.policy.fetched import Fetched

_MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LAYER_TYPES: Final = (
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.cncf.openpolicyagent.layer.v1.tar+gzip",
)
_MAX_MANIFEST: Final = 1 << 20
_MAX_REDIRECTS: Final = 3
_SECONDS: Final = 30.0
_REFERENCE: Final = re.compile(
    r"oci://(?P<host>[A-Za-z0-9.\-]+(?::[0-9]{1,5})?)/(?P<name>[a-z0-9]+(?:(?:\.|_{1,2}|-+|/)[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_PARAMETER: Final = re.compile(r'([a-z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Reference:
    """``oci://host[:port]/name[:tag][@sha256:…]``; without tag and digest the tag is ``latest``."""

    host: str
    name: str
    version: str
    digest: str | None

    @classmethod
    def parse(cls, text: str, where: str) -> Reference:
        """Raises ConfigurationError with ``where`` as the path."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ConfigurationError(where, text, "oci://registry[:port]/name[:tag][@sha256:digest]")
        digest = match["digest"]
        return cls(match["host"], match["name"], digest or match["tag"] or "latest", digest)

    def url(self, kind: str, reference: str) -> str:
        """Address of a manifest or blob; always https."""
        return f"https://{self.host}/v2/{self.name}/{kind}/{reference}"


class RegistrySource:
    """Polls the manifest; pulls the one layer when the manifest's digest has changed.

    ``credentials_file`` holds ``user:password`` in one line; without it the pull is anonymous.
    """

    packaged = False
    polled = True

    def __init__(
        self, text: str, *, where: str, outbound: Outbound, ca_file: Path | None, credentials_file: Path | None
    ) -> None:
        self._reference = Reference.parse(text, f"{where}.bundle")
        self._outbound = outbound
        self._ca_file = ca_file
        self._basic = _credentials(credentials_file, f"{where}.credentials_file")
        self._bearer = ""
        self._seen = ""

    async def fetch(self) -> Fetched | None:
        """The bundle, None when the manifest is the one seen before. Raises BundleError."""
        try:
            return await self._fetch()
        except OutboundError as error:
            raise BundleError(f"bundle cannot be pulled: {error}", error.remedy) from error

    async def _fetch(self) -> Fetched | None:
        reference = self._reference
        answer = await self._get(
            reference.url("manifests", reference.version), accept=", ".join(_MANIFEST_TYPES), max_bytes=_MAX_MANIFEST
        )
        answer.expect(200)
        digest = _sha256(answer.body)
        if reference.digest is not None and digest != reference.digest:
            raise BundleError("the registry's manifest is not the one that the digest names")
        if digest == self._seen:
            return None
        layer = _layer(answer)
        blob = await self._blob(reference.url("blobs", layer["digest"]), layer["size"])
        if len(blob) != layer["size"] or _sha256(blob) != layer["digest"]:
            raise BundleError("the registry's blob is not the one that the manifest names")
        fetched = Fetched(await asyncio.to_thread(read_archive, blob), blob)
        self._seen = digest
        return fetched

    async def _blob(self, url: str, size: int) -> bytes:
        answer = await self._get(url, accept="application/octet-stream", max_bytes=size)
        for _ in range(_MAX_REDIRECTS):
            if answer.status not in (301, 302, 303, 307, 308):
                break
            url = urljoin(url, answer.headers.get("location", ""))
            if urlsplit(url).scheme != "https":
                raise BundleError("the registry redirects its blob to somewhere without TLS")
            answer = await self._outbound.get(url, max_bytes=size, timeout=_SECONDS, ca_file=self._ca_file)
        answer.expect(200)
        return answer.body

    async def _get(self, url: str, *, accept: str, max_bytes: int) -> Answer:
        answer = await self._ask(url, accept, max_bytes)
        if answer.status == 401:
            challenge = answer.headers.get("www-authenticate", "")
            if challenge.lower().startswith("bearer "):
                self._bearer = await self._token(dict(_PARAMETER.findall(challenge)))
                answer = await self._ask(url, accept, max_bytes)
        return answer

    async def _ask(self, url: str, accept: str, max_bytes: int) -> Answer:
        headers: Mapping[str, str] = {}
        if self._bearer:
            headers = {"Authorization": f"Bearer {self._bearer}"}
        elif self._basic:
            headers = {"Authorization": self._basic}
        return await self._outbound.get(
            url, accept=accept, max_bytes=max_bytes, timeout=_SECONDS, ca_file=self._ca_file, extra_headers=headers
        )

    async def _token(self, challenge: Mapping[str, str]) -> str:
        """A pull token of the realm that the registry names."""
        realm = challenge.get("realm", "")
        if urlsplit(realm).scheme != "https":
            raise BundleError("the registry names a token server without TLS")
        query = {"service": challenge.get("service", ""), "scope": f"repository:{self._reference.name}:pull"}
        answer = await self._outbound.get(
            f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}",
            accept="application/json",
            timeout=_SECONDS,
            ca_file=self._ca_file,
            extra_headers={"Authorization": self._basic} if self._basic else {},
        )
        answer.expect(200)
        document = _json(answer.body, "the registry's token")
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise BundleError("the registry's token server gave no token")
        return token


def _layer(answer: Answer) -> dict[str, Any]:
    document = _json(answer.body, "the registry's manifest")
    layers = document.get("layers")
    found = [
        layer
        for layer in (layers if isinstance(layers, list) else [])
        if isinstance(layer, dict) and layer.get("mediaType") in _LAYER_TYPES
    ]
    if len(found) != 1:
        raise BundleError(
            f"the artefact has {len(found)} layers that could be the bundle; expected one of type {_LAYER_TYPES[0]}"
        )
    (layer,) = found
    digest, size = layer.get("digest"), layer.get("size")
    if not isinstance(digest, str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise BundleError("the registry's manifest names its layer by no SHA-256 digest")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= MAX_PACKED_BYTES:
        raise BundleError(f"the artefact's layer is not between 1 and {MAX_PACKED_BYTES} bytes long")
    return {"digest": digest, "size": size}


def _json(raw: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise BundleError(f"{what} is no JSON object")
    return document


def _sha256(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def _credentials(file: Path | None, where: str) -> str:
    if file is None:
        return ""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError):
        text = ""
    if ":" not in text or not text.isprintable():
        raise ConfigurationError(where, file.name, "a file with one line: user:password")
    return "Basic " + base64.b64encode(text.encode()).decode()
