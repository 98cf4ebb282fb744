"""The sandbox: what a module can do to the guard, which is nothing."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import wasmtime

from zeta_guard.policy.bundle import Bundle
from zeta_guard.policy.probe import PROBES
from zeta_guard.policy.wasm import EvaluationError, MissingBuiltinError, SandboxError, WasmPolicy
from zeta_guard.policy.wasm_call import fast_call

MEBIBYTES = 1024 * 1024
FUEL = 10_000_000_000
ENTRYPOINT = "policies/zeta/authz/decision"


def module(
    evaluate: str, *, builtins: str = "{}", major: int = 1, minor: int = 3, imports: str = "", load: str = ""
) -> bytes:
    """A module with OPA's interface whose ``opa_eval`` does what the test wants."""
    return bytes(
        wasmtime.wat2wasm(
            f"""(module
              (import "env" "memory" (memory 2))
              (import "env" "opa_abort" (func $abort (param i32)))
              (import "env" "opa_builtin0" (func $builtin (param i32 i32) (result i32)))
              {imports}
              (global (export "opa_wasm_abi_version") i32 (i32.const {major}))
              (global (export "opa_wasm_abi_minor_version") i32 (i32.const {minor}))
              (data (i32.const 100) {json.dumps(builtins)}) (data (i32.const 400) "{{\\"e\\":0}}")
              (data (i32.const 600) "[{{\\"result\\":{{\\"allow\\":true}}}}]")
              (func (export "builtins") (result i32) i32.const 100)
              (func (export "entrypoints") (result i32) i32.const 400)
              (func (export "opa_json_dump") (param i32) (result i32) local.get 0)
              (func (export "opa_malloc") (param i32) (result i32) i32.const 2048)
              (func (export "opa_json_parse") (param i32 i32) (result i32) {load} i32.const 1)
              (func (export "opa_heap_ptr_get") (result i32) i32.const 65536)
              (func (export "opa_heap_ptr_set") (param i32))
              (func (export "opa_eval") (param i32 i32 i32 i32 i32 i32 i32) (result i32) {evaluate}))"""
        )
    )


def policy(evaluate: str = "i32.const 600", memory: int = 16 * MEBIBYTES, **options: object) -> WasmPolicy:
    return WasmPolicy(module(evaluate, **options), {}, memory_bytes=memory)  # type: ignore[arg-type]


def test_a_result_is_read() -> None:
    assert policy().instance().evaluate(0, b"{}", fuel=FUEL) == [{"allow": True}]


def test_an_endless_loop_ends_with_its_fuel() -> None:
    instance = policy("(loop br 0) unreachable").instance()
    start = time.monotonic()
    with pytest.raises(EvaluationError):
        instance.evaluate(0, b"{}", fuel=100_000_000)
    assert time.monotonic() - start < 5


def test_fuel_that_just_suffices_is_enough() -> None:
    """Each evaluation starts with its own fuel, whatever the one before has used."""
    instance = policy().instance()
    instance.evaluate(0, b"{}", fuel=FUEL)
    needed = FUEL - instance.fuel_left
    assert instance.evaluate(0, b"{}", fuel=needed) == [{"allow": True}]
    with pytest.raises(EvaluationError):
        instance.evaluate(0, b"{}", fuel=needed - 1)


def test_a_module_that_never_finishes_loading_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeta_guard.policy.wasm._LOADING_FUEL", 1000)
    with pytest.raises(SandboxError):
        policy(load="(loop br 0)")


def test_a_trap_is_an_evaluation_error() -> None:
    with pytest.raises(EvaluationError):
        policy("unreachable").instance().evaluate(0, b"{}", fuel=FUEL)


def test_a_call_of_abort_or_of_a_builtin_traps() -> None:
    for body in ("(call $abort (i32.const 0)) i32.const 600", "(call $builtin (i32.const 0) (i32.const 0))"):
        with pytest.raises(EvaluationError):
            policy(body).instance().evaluate(0, b"{}", fuel=FUEL)


def test_memory_beyond_the_limit_is_not_given() -> None:
    grow = "(if (result i32) (i32.eq (memory.grow (i32.const 1024)) (i32.const -1)) (then unreachable) (else i32.const 600))"
    with pytest.raises(EvaluationError):
        policy(grow, memory=16 * MEBIBYTES).instance().evaluate(0, b"{}", fuel=FUEL)
    assert policy(grow, memory=128 * MEBIBYTES).instance().evaluate(0, b"{}", fuel=FUEL) == [{"allow": True}]


def test_a_document_beyond_the_memory_limit_is_an_evaluation_error() -> None:
    instance = policy(memory=8 * MEBIBYTES).instance()
    with pytest.raises(EvaluationError):
        instance.evaluate(0, b" " * (9 * MEBIBYTES), fuel=FUEL)


@pytest.mark.parametrize("address", ["0", "-1", "131072", "2147483647"])
def test_an_address_outside_the_memory_is_an_evaluation_error(address: str) -> None:
    with pytest.raises(EvaluationError):
        policy(f"i32.const {address}").instance().evaluate(0, b"{}", fuel=FUEL)


def test_a_result_without_end_is_an_evaluation_error() -> None:
    fill = "(memory.fill (i32.const 1024) (i32.const 65) (i32.const 130048)) i32.const 1024"
    with pytest.raises(EvaluationError):
        policy(fill).instance().evaluate(0, b"{}", fuel=FUEL)


def test_a_result_that_is_no_json_or_no_set_is_an_evaluation_error() -> None:
    for text in ("nonsense", "{}", "1"):
        body = f"(i64.store (i32.const 1024) (i64.const {int.from_bytes(text.encode(), 'little')})) i32.const 1024"
        with pytest.raises(EvaluationError):
            policy(body).instance().evaluate(0, b"{}", fuel=FUEL)


def test_a_builtin_that_the_engine_lacks_is_named() -> None:
    with pytest.raises(MissingBuiltinError) as refused:
        policy(builtins='{"http.send":0,"time.now_ns":1}')
    assert refused.value.names == ("http.send", "time.now_ns")


def test_a_table_of_builtins_that_is_no_table_is_refused() -> None:
    for text in ("nonsense", "[1]", "{"):
        with pytest.raises(SandboxError):
            policy(builtins=text)


def test_an_older_interface_is_refused() -> None:
    for major, minor in ((1, 1), (0, 9), (2, 0)):
        with pytest.raises(SandboxError, match="ABI"):
            policy(major=major, minor=minor)


def test_an_import_that_no_policy_needs_is_refused() -> None:
    with pytest.raises(SandboxError, match=r"env\.exec"):
        policy(imports='(import "env" "exec" (func (param i32)))')


def test_what_is_no_module_is_refused() -> None:
    for code in (b"", b"\0asm", b"nonsense", bytes(wasmtime.wat2wasm("(module)"))):
        with pytest.raises(SandboxError):
            WasmPolicy(code, {}, memory_bytes=MEBIBYTES)


def test_every_evaluation_starts_on_a_fresh_heap(demo: Bundle) -> None:
    code = demo.code
    assert code is not None
    compiled = WasmPolicy(code, demo.document(), memory_bytes=64 * MEBIBYTES)
    instance = compiled.instance()
    entrypoint = compiled.entrypoints[ENTRYPOINT]
    raw = json.dumps(PROBES["token"]).encode()
    first = instance.evaluate(entrypoint, raw, fuel=FUEL)
    grown = instance.grown_bytes
    for _ in range(300):
        assert instance.evaluate(entrypoint, raw, fuel=FUEL) == first
    assert instance.grown_bytes == grown


def test_data_beyond_the_memory_limit_cannot_be_loaded(demo: Bundle) -> None:
    code = demo.code
    assert code is not None
    large: dict[str, Any] = {
        "addresses": {"blocked": {f"10.{n >> 8 & 255}.{n & 255}.0/24": "x" * 100 for n in range(65_536)}}
    }
    with pytest.raises(SandboxError, match="memory limit"):
        WasmPolicy(code, large, memory_bytes=8 * MEBIBYTES).instance()


def test_calls_also_work_through_the_bindings_own_way(monkeypatch: pytest.MonkeyPatch, demo: Bundle) -> None:
    """When a release of the binding changes its inside, decisions get slower, not wrong."""
    code = demo.code
    assert code is not None
    raw = json.dumps(PROBES["token"]).encode()
    compiled = WasmPolicy(code, demo.document(), memory_bytes=64 * MEBIBYTES)
    entrypoint = compiled.entrypoints[ENTRYPOINT]
    fast = compiled.instance().evaluate(entrypoint, raw, fuel=FUEL)

    def changed(*_: object) -> object:
        raise AttributeError

    monkeypatch.setattr("zeta_guard.policy.wasm_call._unchecked", changed)
    assert compiled.instance().evaluate(entrypoint, raw, fuel=FUEL) == fast
    with pytest.raises(EvaluationError):
        policy("unreachable").instance().evaluate(0, b"{}", fuel=FUEL)


def test_a_function_of_another_type_is_refused() -> None:
    store = wasmtime.Store(wasmtime.Engine())
    text = '(module (func (export "a") (param i64) (result i32) i32.const 0) (func (export "b") (param i32)) (memory (export "c") 1))'
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, text), []).exports(store)
    for name in ("a", "b", "c"):
        with pytest.raises(TypeError):
            fast_call(store, exports[name], 1)


@pytest.mark.parametrize("value", [2**64, "\ud800"])
def test_data_that_cannot_be_handed_over_are_refused(demo: Bundle, value: Any) -> None:
    assert demo.code is not None
    with pytest.raises(SandboxError, match="beyond 64 bits or half a character"):
        WasmPolicy(demo.code, {"a": value}, memory_bytes=64 * MEBIBYTES)
