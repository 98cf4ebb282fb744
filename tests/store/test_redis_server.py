"""Which Redis is accepted, with which user, over which connection."""

from __future__ import annotations

import datetime
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from zeta_guard.config.store import RedisStore as RedisStoreConfig
from zeta_guard.errors import ConfigurationError, ConfigurationErrors, ZetaError
from zeta_guard.simulators.redis_process import RedisProcess
from zeta_guard.store import redis as redis_module
from zeta_guard.store.contract import Block, Claim, ClaimStatus, Client, Session, Store
from zeta_guard.store.redis_server import check_server, parse_address, parse_server_report, read_password

T0 = 1_750_000_000.0
NOW = T0 + 10
Opener = Callable[..., Awaitable[Store]]
StartRedis = Callable[..., RedisProcess]

GOOD_SERVER = {
    "redis_mode": "standalone",
    "redis_version": "7.0.15",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "connected_slaves": "0",
}
CONFIG = RedisStoreConfig(url="redis://localhost")


async def works(store: Store) -> bool:
    claim = Claim(secrets.token_bytes(32), NOW, 60)
    outcome = await store.claim([claim], ["session:x"], owner="r", fingerprint=bytes(32), now=NOW)
    return outcome.status is ClaimStatus.WON


# what the server says about itself


def test_plain_server_is_accepted() -> None:
    check_server(CONFIG, GOOD_SERVER)
    check_server(CONFIG, {**GOOD_SERVER, "connected_slaves": "2", "min_slaves_good_slaves": "2"})


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "noeviction"),
        ({"connected_slaves": "1"}, "min-replicas-to-write"),
        ({"redis_mode": "cluster"}, "Cluster is not supported"),
        ({"redis_mode": "sentinel"}, "mode 'sentinel'"),
        ({"role": "slave"}, "the master"),
        ({"redis_version": "6.2.14"}, "7.0"),
        ({"redis_version": "garbage"}, "7.0"),
    ],
)
def test_server_that_cannot_keep_the_promises_is_refused_with_a_remedy(said: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        check_server(CONFIG, {**GOOD_SERVER, **said})


def test_what_is_accepted_in_spite_of_that_is_named_unsafe() -> None:
    said = {**GOOD_SERVER, "maxmemory_policy": "allkeys-lru", "connected_slaves": "1"}
    check_server(CONFIG.model_copy(update={"unsafe_accept_eviction": True, "unsafe_accept_async_replicas": True}), said)
    with pytest.raises(ConfigurationErrors) as both:
        check_server(CONFIG, said)
    assert len(both.value.errors) == 2


def test_server_report_is_read() -> None:
    assert parse_server_report(b"# Server\r\nredis_version:7.0.15\r\nos:Linux a:b\r\n\r\n") == {
        "redis_version": "7.0.15",
        "os": "Linux a:b",
    }


def test_a_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" secret \nsecond line\n")
    assert read_password(file) == "secret"
    assert read_password(None) is None
    file.write_bytes(b"\xff")
    for unreadable in (file, tmp_path / "nowhere"):
        with pytest.raises(ConfigurationError) as caught:
            read_password(unreadable)
        assert caught.value.path == "store.password_file"


def test_addresses_are_read() -> None:
    assert parse_address("redis://host") == parse_address("redis://host:6379/0")
    tls = parse_address("rediss://host:7000/3")
    assert (tls.host, tls.port, tls.tls, tls.database, tls.path) == ("host", 7000, True, 3, None)
    local = parse_address("unix:///run/redis/r.sock?db=2")
    assert (local.path, local.database, local.tls) == ("/run/redis/r.sock", 2, False)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:secret@host",
        "redis://:secret@host",
        "redis://secret@host",
        "redis://host:99999",
        "redis://host/x",
        "redis://",
    ],
)
def test_bad_addresses_are_refused_without_showing_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_address(url)
    assert refused.value.path == "store.url"
    assert "secret" not in str(refused.value)


# with a real server


@pytest.mark.redis
async def test_evicting_server_is_refused_at_start(start_redis: StartRedis, open_redis: Opener) -> None:
    server = start_redis("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigurationError, match="noeviction"):
        await open_redis(RedisStoreConfig(url=server.url))
    assert await works(await open_redis(RedisStoreConfig(url=server.url, unsafe_accept_eviction=True)))


def says(server: RedisProcess, line: str) -> None:
    """Wait until the server's report on its replicas holds this."""
    deadline = time.monotonic() + 10
    while line not in server.ask("INFO", "replication"):
        assert time.monotonic() < deadline, line
        time.sleep(0.01)


@pytest.mark.redis
async def test_replica_and_master_with_careless_replicas_are_refused(
    start_redis: StartRedis, open_redis: Opener, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    master = start_redis("--port", str(port), "--repl-diskless-sync-delay", "0")
    replica = start_redis("--replicaof", f"127.0.0.1 {port}")
    says(master, "state=online")
    with pytest.raises(ConfigurationError, match="a replica"):
        await open_redis(RedisStoreConfig(url=replica.url))
    with pytest.raises(ConfigurationError, match="min-replicas-to-write"):
        await open_redis(RedisStoreConfig(url=master.url))
    assert await works(await open_redis(RedisStoreConfig(url=master.url, unsafe_accept_async_replicas=True)))
    master.ask("CONFIG", "SET", "min-replicas-to-write", "1")
    says(master, "min_slaves_good_slaves:1")
    assert await works(await open_redis(RedisStoreConfig(url=master.url)))


def acl_lines(password: str) -> dict[str, str]:
    """The two users of the module's documentation, word for word."""
    lines: dict[str, str] = {}
    name = ""
    for line in (redis_module.__doc__ or "").splitlines():
        words = line.strip()
        if words.startswith("user "):
            name = words.split()[1]
            lines[name] = words.replace("PASSWORD", password)
        elif name and line.startswith("      +"):
            lines[name] += " " + words
    return lines


@pytest.mark.redis
async def test_documented_users_can_do_what_they_must_and_a_gateway_no_more(
    start_redis: StartRedis, open_redis: Opener, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("pä55 word\n".replace(" ", "-"))
    lines = acl_lines("pä55-word")
    (tmp_path / "users.acl").write_text("user default off\n" + "\n".join(lines.values()) + "\n")
    server = start_redis("--aclfile", str(tmp_path / "users.acl"))
    config = RedisStoreConfig(url=f"{server.url}?db=1", password_file=tmp_path / "password")
    guard = await open_redis(config.model_copy(update={"username": "guard"}))
    gateway = await open_redis(config.model_copy(update={"username": "gateway"}), role="gateway")

    session = Session("s", "c", "i", "jkt", "j0", int(NOW), int(NOW) + 600, b"sealed")
    client = Client("c", "jkt", {}, "name", int(NOW))
    await guard.register_client(client, ttl=300, most_pending=10, now=NOW)
    bound = await guard.bind_client("c", institution="i", platform="p", ttl=900, most=1, new_per_hour=9, now=NOW)
    assert bound.status.value == "bound"
    await guard.register_client(Client("d", "jkt2", {}, "name", int(NOW)), ttl=300, most_pending=10, now=NOW)
    evicting = await guard.bind_client("d", institution="i", platform="p", ttl=900, most=1, new_per_hour=9, now=NOW)
    assert evicting.evicted == ("c",)
    await guard.touch_client("d", ttl=900, now=NOW)
    await guard.list_clients("i", now=NOW)
    await guard.start_session(session, now=NOW)
    await guard.rotate_session(
        "s", presented_jti="j0", successor_jti="j1", jkt="jkt", sealed_answer=b"a", grace=10, now=NOW
    )
    assert len(await guard.list_sessions(now=NOW)) == 1
    await guard.take("b", per_minute=60, burst=1, now=NOW)
    await guard.see_key("jkt", ttl=60, now=NOW)
    await guard.put_cached("k", b"v", ttl=60, now=NOW)
    assert await guard.get_cached("k", now=NOW) == b"v"
    await guard.end_session("s", reason="revoked", ttl=60, now=NOW)
    await guard.block(Block("session:t", "revoked", NOW - 1, NOW - 9), now=NOW)
    await guard.end_session("u", reason="revoked", ttl=60, now=NOW)
    await guard.delete_client("d", now=NOW)
    assert await guard.unblock("client:d")

    assert await works(gateway)
    claim = Claim(bytes(32), NOW, 60)
    await gateway.claim([claim], [], owner="r1", fingerprint=bytes(32), now=NOW)
    await gateway.mark_resendable(bytes(32), owner="r1", fingerprint=bytes(32))
    again = await gateway.claim([claim], [], owner="r2", fingerprint=bytes(32), now=NOW)
    assert again.status is ClaimStatus.WON
    assert "session:s" in {block.subject for block in await gateway.blocks(now=NOW)}
    for forbidden in (
        gateway.get_session("s", now=NOW),
        gateway.get_client("c", now=NOW),
        gateway.unblock("session:s"),
        gateway.block(Block("client:x", "emergency", NOW + 9, NOW), now=NOW),
        gateway.end_session("s", reason="revoked", ttl=9, now=NOW),
        gateway.put_cached("k", b"forged", ttl=60, now=NOW),
    ):
        with pytest.raises(ZetaError) as refused:
            await forbidden
        assert refused.value.status == 503
    assert await guard.get_cached("k", now=NOW) == b"v"
    assert "session:s" in {block.subject for block in await guard.blocks(now=NOW)}


@pytest.mark.redis
async def test_wrong_missing_and_unreadable_passwords_are_configuration_errors(
    start_redis: StartRedis, open_redis: Opener, tmp_path: Path
) -> None:
    server = start_redis("--requirepass", "right")
    (tmp_path / "wrong").write_text("wrong")
    (tmp_path / "right").write_text("right\n")
    for file, seen in (
        (None, "Redis asks for a password"),
        (tmp_path / "wrong", "that Redis refuses"),
        (tmp_path / "absent", "cannot be read"),
    ):
        with pytest.raises(ConfigurationError) as refused:
            await open_redis(RedisStoreConfig(url=server.url, password_file=file))
        assert refused.value.path == "store.password_file"
        assert seen in refused.value.seen
        assert refused.value.expected
    assert await works(await open_redis(RedisStoreConfig(url=server.url, password_file=tmp_path / "right")))


@pytest.mark.redis
async def test_a_refused_login_is_an_error_although_the_server_lets_everybody_in(
    start_redis: StartRedis, open_redis: Opener, tmp_path: Path
) -> None:
    """Otherwise the guard would be there as the default user, who may do everything."""
    (tmp_path / "password").write_text("word")
    for user in (None, "gateway"):
        with pytest.raises(ConfigurationError, match="that Redis refuses"):
            await open_redis(
                RedisStoreConfig(url=start_redis().url, username=user, password_file=tmp_path / "password")
            )


@pytest.mark.redis
async def test_user_without_the_permissions_is_told_where_they_stand(
    start_redis: StartRedis, open_redis: Opener, tmp_path: Path
) -> None:
    server = start_redis()
    server.ask("ACL", "SETUSER", "weak", "on", ">word", "~*", "+info")
    (tmp_path / "password").write_text("word")
    config = RedisStoreConfig(url=server.url, username="weak", password_file=tmp_path / "password")
    with pytest.raises(ConfigurationError, match="ACL user that lacks a permission"):
        await open_redis(config)


async def test_server_that_is_not_there_is_a_503(open_redis: Opener, tmp_path: Path) -> None:
    with pytest.raises(ZetaError) as refused:
        await open_redis(RedisStoreConfig(url=f"unix://{tmp_path}/absent.sock"))
    assert refused.value.status == 503
    assert str(tmp_path) not in str(refused.value)


def make_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(hours=1))
        .not_valid_after(today + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.mark.redis
async def test_tls_server_is_used_and_one_without_a_trusted_certificate_is_not(
    start_redis: StartRedis, open_redis: Opener, tmp_path: Path
) -> None:
    make_certificate(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = ("--tls-cert-file", str(tmp_path / "cert.pem"), "--tls-key-file", str(tmp_path / "key.pem"))
    start_redis("--tls-port", str(port), *files, "--tls-auth-clients", "no")
    url = f"rediss://localhost:{port}/0"
    assert await works(await open_redis(RedisStoreConfig(url=url, ca_file=tmp_path / "cert.pem")))
    with pytest.raises(ZetaError) as refused:
        await open_redis(RedisStoreConfig(url=url))
    assert refused.value.status == 503
    with pytest.raises(ConfigurationError) as unreadable:
        await open_redis(RedisStoreConfig(url=url, ca_file=tmp_path / "absent.pem"))
    assert unreadable.value.path == "store.ca_file"


@pytest.mark.redis
async def test_sentinel_names_the_master(start_redis: StartRedis, open_redis: Opener, tmp_path: Path) -> None:
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    start_redis("--port", str(ports[0]))
    settings = tmp_path / "sentinel.conf"
    settings.write_text(f"port {ports[1]}\nsentinel monitor guards 127.0.0.1 {ports[0]} 1\n")
    sentinel = start_redis("--sentinel", settings=settings)
    url = f"redis://127.0.0.1:{ports[1]}/0"
    assert await works(await open_redis(RedisStoreConfig(url=url, sentinel_master="guards")))
    with pytest.raises(ConfigurationError) as unknown:
        await open_redis(RedisStoreConfig(url=url, sentinel_master="others"))
    assert unknown.value.path == "store.sentinel_master"
    with pytest.raises(ConfigurationError, match="mode 'sentinel'"):
        await open_redis(RedisStoreConfig(url=url))
    sentinel.stop()
