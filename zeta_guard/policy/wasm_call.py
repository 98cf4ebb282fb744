"""Calls into WebAssembly without the binding's look-up of types at every call.

``wasmtime.Func`` asks the engine for the function's type and wraps every parameter anew: some 80 µs for the seven numbers of
``opa_eval``, where the policy itself needs 30. Here the type is looked at once and the same C function of wasmtime is called with
the numbers. Where the binding has changed its inside, calls go through ``wasmtime.Func`` as usual, only slower.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wasmtime

Call = Callable[..., int]


def fast_call(store: wasmtime.Store, function: Any, parameters: int) -> Call:
    """``function`` (``parameters`` × i32 → i32) as a callable of numbers. Raises TypeError when it has another type.

    The callable raises ``wasmtime.Trap`` and ``wasmtime.WasmtimeError``; its result is unsigned. Functions of the host must not
    be reachable from ``function``: their exceptions would be lost.
    """
    import wasmtime

    if not isinstance(function, wasmtime.Func):
        raise TypeError("no function")
    kind = function.type(store)
    if [str(each) for each in kind.params] != ["i32"] * parameters or [str(each) for each in kind.results] != ["i32"]:
        raise TypeError("function of another type")
    try:
        return _unchecked(store, function, parameters)
    except (ImportError, AttributeError, ctypes.ArgumentError):
        return lambda *numbers: int(function(store, *numbers)) & 0xFFFFFFFF


def _unchecked(store: wasmtime.Store, function: wasmtime.Func, parameters: int) -> Call:
    from wasmtime import Trap, WasmtimeError
    from wasmtime import _bindings as api  # the C API, one to one

    invoke = api.wasmtime_func_call_unchecked
    context, handle = store._context(), ctypes.byref(function._func)
    room = max(parameters, 1)
    values = (api.wasmtime_val_raw_t * room)()
    trap_type = ctypes.POINTER(api.wasm_trap_t)
    made_error, made_trap = WasmtimeError._from_ptr, Trap._from_ptr

    def call(*numbers: int) -> int:
        for index in range(parameters):
            values[index].i32 = numbers[index]
        trap = trap_type()
        error = invoke(context, handle, values, room, ctypes.byref(trap))
        if error:
            raise made_error(error)
        if trap:
            raise made_trap(trap)
        return int(values[0].i32) & 0xFFFFFFFF

    # The store must outlive the pointer that was taken from it.
    call.store = store  # type: ignore[attr-defined]
    return call


def fast_memory(
    store: wasmtime.Store, memory: wasmtime.Memory
) -> tuple[Callable[[], int], Callable[[], int], Callable[[int], None]]:
    """Size of a memory in bytes, its address in this process, and how to set the store's fuel.

    The address changes with the size. Setting the fuel raises ``wasmtime.WasmtimeError``.
    """
    try:
        return _unwrapped_memory(store, memory)
    except (ImportError, AttributeError, ctypes.ArgumentError):
        return (
            lambda: int(memory.data_len(store)),
            lambda: ctypes.addressof(memory.data_ptr(store).contents),
            store.set_fuel,
        )


def _unwrapped_memory(
    store: wasmtime.Store, memory: wasmtime.Memory
) -> tuple[Callable[[], int], Callable[[], int], Callable[[int], None]]:
    from wasmtime import WasmtimeError
    from wasmtime import _bindings as api  # the C API, one to one

    measure, fill = api._wasmtime_memory_data_size, api._wasmtime_context_set_fuel
    context, handle = store._context(), ctypes.byref(memory._memory)

    def size() -> int:
        return int(measure(context, handle))

    def address() -> int:
        return ctypes.addressof(memory.data_ptr(store).contents)

    def set_fuel(fuel: int) -> None:
        error = fill(context, fuel)
        if error:
            raise WasmtimeError._from_ptr(error)

    # The store must outlive the pointer that was taken from it.
    size.store = store  # type: ignore[attr-defined]
    set_fuel.store = store  # type: ignore[attr-defined]
    size()
    return size, address, set_fuel
