"""A PoPP service beside a measurement: a guard fetches its keys, a client shows its tokens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from zeta_guard.simulators.pki import DemoPki
from zeta_guard.simulators.popp_service import PoppService


@contextmanager
def popp_service(issuer: str) -> Iterator[PoppService]:
    """The service on a port of its own, in a thread with its own event loop."""
    pki = DemoPki()
    service = PoppService(pki.issue_popp_signer(), [pki.smcb_ca.certificate], issuer=issuer)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="PoPP service", daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(service.__aenter__(), loop).result(10)
    try:
        yield service
    finally:
        asyncio.run_coroutine_threadsafe(service.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
