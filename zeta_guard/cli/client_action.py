"""What the actions of ``zeta-guard client`` do with their options."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from zeta_guard.client.assertions import Product
from zeta_guard.client.errors import ClientError, Refused
from zeta_guard.client.identity import SmcbFile, admission, load_pem, load_pkcs12
from zeta_guard.client.session import Hooks, ZetaClient
from zeta_guard.client.state import ClientState
from zeta_guard.client.wire import Answer, Exchange
from zeta_guard.errors import ERROR_KINDS, GuardError, JsonValue


class UsageError(GuardError):
    """Options that do not go together."""


async def token(args: argparse.Namespace) -> int:
    """Print an access token (or everything, with ``--json``)."""
    async with _client(args) as client:
        tokens = await client.token()
        if args.json:
            _print_json(
                {
                    "ok": True,
                    "access_token": tokens.access_token,
                    "expires_in": max(0, int(tokens.expires_at - time.time())),
                    "refresh_token": tokens.refresh_token,
                    "refresh_expires_in": tokens.refresh_expires_in,
                    "scope": tokens.scope,
                    "client_id": client.state.client_id,
                    "dpop_jkt": client.state.dpop_key.thumbprint,
                }
            )
            return 0
        print(tokens.access_token)
        _note(
            f"good for {tokens.expires_in} s, scope '{tokens.scope}', bound to key {client.state.dpop_key.thumbprint}"
        )
        _note(
            "Only this client can use it: each request needs a proof by that key. Next: zeta-guard client call … PATH"
        )
    return 0


async def call(args: argparse.Namespace) -> int:
    """Call a path and print what came back; status 1 for 4xx and 5xx."""
    headers = [_header(text) for text in args.header]
    popp = _popp_token(args)
    if popp:
        headers.append(("PoPP", popp))
    body = _read(args.body, "--body") if args.body else None
    async with _client(args) as client:
        answer = await client.request(args.method.upper(), args.path, headers, body)
    if args.json:
        _print_json(
            {
                "ok": answer.status < 400,
                "status": answer.status,
                "headers": dict(answer.headers.items()),
                "body": answer.json() or answer.body.decode("utf-8", "replace"),
            }
        )
    else:
        if args.include:
            print(answer.status, *(f"\n{name}: {value}" for name, value in answer.headers.items()), sep="", end="\n\n")
        sys.stdout.flush()
        sys.stdout.buffer.write(answer.body)
        sys.stdout.buffer.flush()
        if answer.body and not answer.body.endswith(b"\n") and sys.stdout.isatty():
            print()
        _explain(answer)
    return 0 if answer.status < 400 else 1


async def smoke(args: argparse.Namespace) -> int:
    """Each step green or red; status 1 when one is red."""
    async with _client(args) as client:
        popp = _popp_token(args)

        async def called() -> str:
            answer = await client.request("GET", args.path, [("PoPP", popp)] if popp else [])
            if answer.status == 401 or answer.status >= 500:
                raise Refused("call", answer)
            return f"{answer.status} {answer.error}".strip() + f" for {args.path}"

        async def discovered() -> str:
            return f"issuer {(await client.discover()).issuer}"

        async def registered() -> str:
            return f"client_id {await client.register()}"

        async def logged_in() -> str:
            return f"good for {(await client.login()).expires_in} s"

        async def refreshed() -> str:
            return f"good for {(await client.refresh()).expires_in} s"

        steps: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("discover", discovered),
            ("register", registered),
            ("token", logged_in),
            ("refresh", refreshed),
            ("call", called),
        ]
        seen = await _played(steps, None if args.json else _show_step)
    ok = all(step["ok"] for step in seen)
    if args.json:
        _print_json({"ok": ok, "steps": list(seen)})
    elif ok:
        _note(
            "The guard serves this identity. Next: zeta-guard client call … PATH, with --popp-token-file where it is asked."
        )
    return 0 if ok else 1


ACTIONS: Final[Mapping[str, Callable[[argparse.Namespace], Coroutine[None, None, int]]]] = {
    "token": token,
    "call": call,
    "smoke": smoke,
}


async def _played(
    steps: list[tuple[str, Callable[[], Awaitable[str]]]], show: Callable[[Mapping[str, JsonValue]], None] | None
) -> list[dict[str, JsonValue]]:
    """Play the steps in order; after a red one the rest is not tried, for each needs the one before."""
    seen: list[dict[str, JsonValue]] = []
    for name, step in steps:
        started = time.perf_counter()
        result: dict[str, JsonValue] = {"id": name, "ok": False, "seen": "not tried", "remedy": ""}
        if all(earlier["ok"] for earlier in seen):
            try:
                result.update(ok=True, seen=await step())
            except ClientError as error:
                result.update(seen=str(error), remedy=error.remedy)
        result["ms"] = round((time.perf_counter() - started) * 1000, 1)
        seen.append(result)
        if show is not None:
            show(result)
    return seen


def _show_step(step: Mapping[str, JsonValue]) -> None:
    green, red, plain = ("\x1b[32m", "\x1b[31m", "\x1b[0m") if sys.stdout.isatty() else ("", "", "")
    mark = f"{green}ok {plain}" if step["ok"] else f"{red}RED{plain}"
    print(f"{mark} {step['id']!s:9} {step['ms']:>7} ms  {step['seen']}", flush=True)
    if step["remedy"]:
        print(f"               {step['remedy']}")


@asynccontextmanager
async def _client(args: argparse.Namespace) -> AsyncIterator[ZetaClient]:
    if not args.url.startswith(("https://", "http://")):
        raise UsageError(f"--url: {args.url}; expected https://host[:port]")
    identity = _identity(args)
    admission(identity.der)
    product = Product(
        product_id=args.product_id or Product().product_id,
        product_version=args.product_version or Product().product_version,
    )
    state = ClientState.load(args.state) if args.state else ClientState()
    hooks = Hooks(on_exchange=_show_exchange if args.verbose else None)
    client = ZetaClient(
        args.url, identity, ca_file=args.ca, product=product, scopes=args.scope, state=state, hooks=hooks
    )
    try:
        async with client:
            yield client
    finally:
        if args.state:
            state.save(args.state)


def _identity(args: argparse.Namespace) -> SmcbFile:
    password = _read(args.password_file, "--password-file").rstrip(b"\r\n") if args.password_file else None
    if args.p12 and not (args.cert or args.key):
        return load_pkcs12(args.p12, password, args.alias)
    if args.cert and args.key and not args.p12:
        return load_pem(args.cert, args.key, password)
    raise UsageError("an identity is missing; expected --p12 FILE, or --cert FILE and --key FILE")


def _popp_token(args: argparse.Namespace) -> str:
    if args.popp_token_file:
        return _read(args.popp_token_file, "--popp-token-file").decode("ascii", "replace").strip()
    return str(args.popp_token or "")


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition(":")
    if not separator or not name.strip() or any(character in text for character in "\r\n\0"):
        raise UsageError("--header: expected 'Name: value'")
    return name.strip(), value.strip()


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option}: {path}: {error.strerror}") from error


def _explain(answer: Answer) -> None:
    if answer.status >= 400:
        _note(f"{answer.status} {answer.error}".rstrip())
        kind = ERROR_KINDS.get(answer.error)
        if kind is not None:
            _note(kind.remedy)


def _show_exchange(exchange: Exchange) -> None:
    _note(f"{exchange.method} {exchange.url} {exchange.status} {exchange.error} ({exchange.milliseconds:.0f} ms)")


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _print_json(document: dict[str, JsonValue]) -> None:
    print(json.dumps(document, ensure_ascii=False, indent=2))
