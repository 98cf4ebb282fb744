"""A compiled policy in its sandbox: OPA's ``policy.wasm``, run by wasmtime (OPA WebAssembly ABI 1.2 and later).

Nothing of the host is reachable from inside: no built-in is offered, a call of one traps. Every evaluation starts on the heap
as it was after the data had been loaded. A trap, a deadline or a full memory makes the instance unusable; the caller makes
a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import orjson

from zeta_guard.errors import GuardError, JsonValue
from zeta_guard.policy.wasm_call import fast_call, fast_memory

if TYPE_CHECKING:
    import wasmtime

_PAGE: Final = 65_536
_LOADING_FUEL: Final = 200_000_000_000
"""Some 30 seconds; 100 000 networks take half a percent of it."""
_MAX_RESULT: Final = 4 * 1024 * 1024
_USUAL_RESULT: Final = 1024
_EXPORTS: Final = {
    "opa_eval": 7,
    "opa_malloc": 1,
    "opa_json_parse": 2,
    "opa_json_dump": 1,
    "opa_heap_ptr_get": 0,
    "builtins": 0,
    "entrypoints": 0,
}
"""What the guard calls of a policy, with the number of its parameters."""
_BUILTIN_IMPORTS: Final = tuple(f"opa_builtin{count}" for count in range(5))


class SandboxError(GuardError):
    """The policy cannot be loaded into, or run in, the sandbox. The text names no input."""


class MissingBuiltinError(SandboxError):
    """The policy calls built-ins of OPA that the embedded engine does not have; ``names`` lists them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(f"the embedded engine has no built-in {', '.join(names)}")
        self.names: Final = names


class EvaluationError(SandboxError):
    """One evaluation failed: trap, deadline, memory or a malformed result. The instance must be discarded."""


@lru_cache(maxsize=1)
def _engine() -> wasmtime.Engine:
    """The one engine of the process. Evaluations are bounded by fuel: no clock thread has to wake up to stop one."""
    import wasmtime

    config = wasmtime.Config()
    config.consume_fuel = True
    # OPA's runtime in the module was optimised when it was made: optimising again costs start-up time and gains nothing.
    config.cranelift_opt_level = "none"
    # While the interpreter is taken down wasmtime can no longer release what it made. Last registered, first cleared.
    atexit.register(_engine.cache_clear)
    atexit.register(_compiled.cache_clear)
    return wasmtime.Engine(config)


@lru_cache(maxsize=5)
def _compiled(code: bytes) -> wasmtime.Module:
    """Some 100 ms; a reload, a shadow with other data and a second question use the same code again."""
    import wasmtime

    return wasmtime.Module(_engine(), code)


def compile_ahead(code: bytes) -> None:
    """Compile trusted code for a later :class:`WasmPolicy`; what is wrong with it is reported there."""
    import wasmtime

    with contextlib.suppress(wasmtime.WasmtimeError):
        _compiled(code)


class WasmPolicy:
    """Compiled code and its data; makes instances. Immutable, safe to share between threads.

    ``memory_bytes`` limits one instance: code, data and evaluation together. Raises :class:`MissingBuiltinError` and
    :class:`SandboxError`.
    """

    def __init__(self, code: bytes, data: Mapping[str, JsonValue], *, memory_bytes: int) -> None:
        import wasmtime

        self.memory_bytes: Final = memory_bytes
        try:
            self._module = _compiled(code)
        except wasmtime.WasmtimeError as error:
            raise SandboxError("policy.wasm is not valid WebAssembly") from error
        self._check_imports()
        # Loaded without data first: an unknown built-in is reported before large data are parsed in vain.
        bare = WasmInstance(self._module, b"{}", memory_bytes)
        if bare.builtins:
            raise MissingBuiltinError(tuple(sorted(bare.builtins)))
        self.entrypoints: Final[Mapping[str, int]] = bare.entrypoints
        try:
            self._data = orjson.dumps(data)
        except TypeError as error:
            raise SandboxError("the data of the bundle hold an integer beyond 64 bits or half a character") from error

    def _check_imports(self) -> None:
        import wasmtime

        known = {"memory", "opa_abort", "opa_println", *_BUILTIN_IMPORTS}
        for wanted in self._module.imports:
            if wanted.module != "env" or wanted.name not in known:
                raise SandboxError(f"policy.wasm wants {wanted.module}.{wanted.name}, which no policy of OPA needs")
            if wanted.name == "memory" and not isinstance(wanted.type, wasmtime.MemoryType):
                raise SandboxError("policy.wasm imports a memory that is none")

    def instance(self) -> WasmInstance:
        """A fresh instance with the data loaded; belongs to one thread at a time."""
        return WasmInstance(self._module, self._data, self.memory_bytes)


class WasmInstance:
    """One policy in memory. Not thread safe. Discard it after an :class:`EvaluationError`."""

    def __init__(self, module: wasmtime.Module, data: bytes, memory_bytes: int) -> None:
        import wasmtime

        self._failure: tuple[type[Exception], ...] = (wasmtime.WasmtimeError, wasmtime.Trap)
        self._store = store = wasmtime.Store(_engine())
        store.set_limits(memory_size=memory_bytes, instances=2, memories=1, tables=4)
        store.set_fuel(_LOADING_FUEL)
        try:
            self._memory, imports = self._provide(module, memory_bytes)
            exports = wasmtime.Instance(store, module, imports).exports(store)
            self._call = {name: fast_call(store, exports[name], count) for name, count in _EXPORTS.items()}
            version = (
                exports["opa_wasm_abi_version"].value(store),  # type: ignore[union-attr]
                exports["opa_wasm_abi_minor_version"].value(store),  # type: ignore[union-attr]
            )
            if version < (1, 2) or version[0] != 1:
                raise SandboxError(f"policy.wasm speaks ABI {version[0]}.{version[1]}; expected 1.2 or a later 1.x")
            self.builtins = tuple(self._dump("builtins"))
            self.entrypoints = {str(name): int(number) for name, number in self._dump("entrypoints").items()}
            self._data_address = self._load(data)
        except (KeyError, AttributeError, TypeError, ValueError, *self._failure) as error:
            raise SandboxError(
                "policy.wasm cannot be loaded: it is no policy of OPA, or its data exceed the memory limit"
            ) from error
        self._heap = self._call["opa_heap_ptr_get"]() + 15 & ~15
        self._eval = self._call["opa_eval"]
        self._size, self._address, self._set_fuel = fast_memory(store, self._memory)
        self._place()
        self._loaded_bytes = self._bytes

    def _provide(self, module: wasmtime.Module, memory_bytes: int) -> tuple[wasmtime.Memory, list[Any]]:
        import wasmtime

        store = self._store
        host = wasmtime.Instance(store, _compiled(_host_module()), []).exports(store)
        memory: wasmtime.Memory | None = None
        imports: list[Any] = []
        for wanted in module.imports:
            if isinstance(wanted.type, wasmtime.MemoryType):
                least = wanted.type.limits.min
                memory = wasmtime.Memory(
                    store, wasmtime.MemoryType(wasmtime.Limits(least, max(least, memory_bytes // _PAGE)))
                )
                imports.append(memory)
            else:
                imports.append(host[wanted.name or ""])
        if memory is None:
            raise SandboxError("policy.wasm imports no memory")
        return memory, imports

    def _place(self) -> None:
        """Where the memory lies and how large it is: both change only when it grows."""
        self._bytes, self._start = self._size(), self._address()

    def _write(self, raw: bytes, address: int) -> None:
        missing = address + len(raw) - self._memory.data_len(self._store)
        if missing > 0:
            self._memory.grow(self._store, -(-missing // _PAGE))
        ctypes.memmove(self._base() + address, raw, len(raw))

    def _base(self) -> int:
        return ctypes.addressof(self._memory.data_ptr(self._store).contents)

    def _text(self, address: int) -> bytes:
        """The zero-terminated text at ``address``, which comes from inside and is believed in nothing."""
        room = self._memory.data_len(self._store) - address
        if address <= 0 or room <= 0:
            raise EvaluationError("the policy returned no text")
        for size in (16_384, _MAX_RESULT):
            raw = ctypes.string_at(self._base() + address, min(size, room))
            end = raw.find(b"\0")
            if end >= 0:
                return raw[:end]
        raise EvaluationError("the policy's result is longer than 4 MiB")

    def _result(self, address: int) -> bytes:
        """As :meth:`_text`, with one look for results of usual length."""
        if 0 < address < self._bytes:
            raw = ctypes.string_at(self._start + address, min(_USUAL_RESULT, self._bytes - address))
            end = raw.find(b"\0")
            if end >= 0:
                return raw[:end]
        return self._text(address)

    def _dump(self, function: str) -> dict[str, Any]:
        value = self._call[function]()
        found = orjson.loads(self._text(self._call["opa_json_dump"](value)))
        if not isinstance(found, dict):
            raise SandboxError(f"policy.wasm: {function} is no object")
        return found

    def _load(self, data: bytes) -> int:
        address = self._call["opa_malloc"](len(data))
        self._write(data, address)
        value = self._call["opa_json_parse"](address, len(data))
        if value == 0:
            raise SandboxError("the data of the bundle cannot be parsed")
        return value

    def evaluate(self, entrypoint: int, document: bytes, *, fuel: int) -> list[JsonValue]:
        """The result set of an entry point for an input document (JSON): ``[]`` when undefined.

        ``fuel`` bounds the evaluation, about one unit per instruction. Raises :class:`EvaluationError`.
        """
        try:
            self._set_fuel(fuel)
            heap, length = self._heap, len(document)
            if heap + length > self._bytes:
                self._write(document, heap)
            else:
                ctypes.memmove(self._start + heap, document, length)
            address = self._eval(0, entrypoint, self._data_address, heap, length, heap + length + 15 & ~15, 0)
            if self._size() != self._bytes:
                self._place()
            result = orjson.loads(self._result(address))
        except self._failure as error:
            raise EvaluationError("the evaluation was stopped: time, memory limit or an error inside") from error
        except orjson.JSONDecodeError as error:
            raise EvaluationError("the policy's result is not JSON") from error
        if not isinstance(result, list):
            raise EvaluationError("the policy's result is no result set")
        return [member.get("result") if isinstance(member, dict) else member for member in result]

    @property
    def fuel_left(self) -> int:
        """What the last evaluation did not use."""
        return self._store.get_fuel()

    @property
    def grown_bytes(self) -> int:
        """By how much evaluations have grown the memory; it never shrinks, a new instance is smaller."""
        return self._size() - self._loaded_bytes


@lru_cache(maxsize=1)
def _host_module() -> bytes:
    """What a policy imports, itself WebAssembly: ``opa_abort`` and every built-in trap, and no Python is ever called from inside."""
    import wasmtime

    builtins = "".join(
        f'(func (export "{name}") {"(param i32)" * (count + 2)} (result i32) unreachable)'
        for count, name in enumerate(_BUILTIN_IMPORTS)
    )
    abort = '(func (export "opa_abort") (param i32) unreachable)'
    return bytes(wasmtime.wat2wasm(f'(module {abort} (func (export "opa_println") (param i32)) {builtins})'))
