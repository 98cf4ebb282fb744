"""From fetched bytes to a policy that may decide: signatures, order, compilation, a first trial. All or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.config.policy import EmbeddedEngine
from zeta_guard.policy.bundle import MODULE, Bundle, BundleError
from zeta_guard.policy.prefix_list import check_prefix_lists
from zeta_guard.policy.signature import verify
from zeta_guard.policy.user_list import check_user_lists
from zeta_guard.policy.wasm import MissingBuiltinError, SandboxError, WasmPolicy

BUILD_COMMAND: Final = "zeta-guard policy build SRC -o OUT.tar.gz --sign KEY.pem --key-id ID"


_highest: dict[str, tuple[int, str]] = {}
"""Source → order and digest. A reload must not open the door to an older bundle."""


@dataclass(frozen=True, slots=True)
class ActivePolicy:
    """A bundle that passed every check, compiled."""

    bundle: Bundle
    policy: WasmPolicy
    revision: str
    signed_by: tuple[str, ...]


class Gatekeeper:
    """The rules of ``security`` section 6 for one configured engine; keeps the highest order number that was accepted."""

    def __init__(
        self, config: EmbeddedEngine, keys: Mapping[str, ec.EllipticCurvePublicKey], *, packaged: bool
    ) -> None:
        self._config = config
        self._keys = keys
        self._packaged = packaged

    @property
    def highest(self) -> tuple[int, str] | None:
        """Order and digest of the highest bundle that this process has accepted from the source, over all reloads."""
        return _highest.get(self._config.bundle)

    def remember(self, highest: tuple[int, str] | None) -> None:
        """Take over what an earlier process has accepted, if it is higher."""
        known = self.highest
        if highest is not None and (known is None or highest[0] > known[0]):
            _highest[self._config.bundle] = highest

    def admit(self, bundle: Bundle, required: Callable[[WasmPolicy], None]) -> ActivePolicy:
        """Check and compile (some 200 ms: call it off the event loop). Raises BundleError; nothing has changed then."""
        signed_by = self._check_origin(bundle)
        order = self._check_order(bundle)
        code = bundle.code
        if code is None:
            raise BundleError(
                f"bundle has no {MODULE}: it holds sources, and the embedded engine runs built bundles only",
                f"Build it: {BUILD_COMMAND}",
            )
        document = bundle.document()
        check_prefix_lists(document)
        check_user_lists(document)
        try:
            policy = WasmPolicy(code, document, memory_bytes=self._config.memory_mebibytes * 1024 * 1024)
            required(policy)
        except MissingBuiltinError as error:
            raise BundleError(
                f"bundle needs the built-in {', '.join(error.names)}, which the embedded engine does not have",
                "Rewrite the rule without it, or let an OPA server decide (policy.token.engine: opa).",
            ) from error
        except SandboxError as error:
            raise BundleError(str(error), f"Build it again: {BUILD_COMMAND}") from error
        if order is not None:
            self.remember((order, bundle.digest))
        return ActivePolicy(bundle, policy, bundle.manifest.revision or bundle.digest[:12], signed_by)

    def _check_origin(self, bundle: Bundle) -> tuple[str, ...]:
        if self._config.digest is not None and bundle.digest != self._config.digest:
            raise BundleError(
                f"bundle has the digest {bundle.digest}, not the pinned one",
                "Pin the new digest if the change is meant.",
            )
        if self._packaged:
            return ()
        if self._keys:
            return verify(bundle, self._keys, scope=self._config.scope)
        if self._config.unsafe_unsigned:
            return ()
        raise BundleError(
            "bundle from outside the package, and no verification key is configured",
            f"Sign it ({BUILD_COMMAND}) and name the public key in verification_keys; "
            "in a laboratory set unsafe_unsigned: true.",
        )

    def _check_order(self, bundle: Bundle) -> int | None:
        """Only a signed order counts: the manifest is covered by the signature."""
        if self._packaged or not self._keys:
            return None
        order = bundle.manifest.order
        if order is None:
            if self._config.digest is None:
                raise BundleError(
                    "bundle has no order number, and its digest is not pinned",
                    f"Build it with an order (metadata.zeta_guard.order, or --order N), or set digest: {bundle.digest}",
                )
            return None
        if self.highest is not None:
            highest, digest = self.highest
            if order < highest:
                raise BundleError(
                    f"bundle has order {order}, but {highest} was accepted before: a downgrade",
                    f"To go back, release the former rules with an order above {highest}.",
                )
            if order == highest and bundle.digest != digest:
                raise BundleError(
                    f"bundle has order {order}, like another bundle before it", "Give every release a higher order."
                )
        return order
