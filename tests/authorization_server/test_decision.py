"""From a policy's answer to a permission."""

from __future__ import annotations

from typing import Any

import pytest

from zeta_guard.authorization_server.audience import Audiences, Target
from zeta_guard.authorization_server.decision import Permission, permission
from zeta_guard.config.authorization_server import Lifetimes
from zeta_guard.config.guard import GuardConfig
from zeta_guard.errors import ZetaError
from zeta_guard.policy.contract import Decision, Reason

URL = "https://guard.example.de"
CONFIG = GuardConfig.model_validate(
    {
        "public_url": URL,
        "secret_files": ["/nowhere"],
        "authorization_server": {"signing_keys": "/nowhere", "scopes": ["a"], "audiences": ["urn:popp"]},
        "trust": {"directory": "/nowhere"},
        "policy": {"token": {"engine": "embedded", "bundle": "package:demo"}},
        "gateway": {},
    }
)


def permit(target: Target = Target(1, (URL + "/",)), *, show: bool = True, **changes: Any) -> Permission:
    members: dict[str, Any] = {"allow": True, "decision_id": "d1", "revision": "r1", **changes}
    return permission(
        Decision(**members), target, audiences=Audiences(CONFIG), lifetimes=Lifetimes(), show_reasons=show
    )


def test_lifetimes_come_from_the_decision() -> None:
    granted = permit(access_token_ttl=120, refresh_token_ttl=1000)
    assert (granted.access_ttl, granted.refresh_ttl) == (120, 1000)


def test_lifetimes_are_capped() -> None:
    granted = permit(access_token_ttl=10_000, refresh_token_ttl=1_000_000)
    assert (granted.access_ttl, granted.refresh_ttl) == (900, 86_400)


def test_without_lifetimes_the_defaults_hold() -> None:
    granted = permit()
    assert (granted.access_ttl, granted.refresh_ttl) == (300, 43_200)


def test_contract_one_takes_the_audience_of_the_form() -> None:
    assert permit(audience=("https://else/",)).audience == (URL + "/",)


def test_contract_two_takes_the_audience_of_the_policy() -> None:
    assert permit(Target(2, (), URL), audience=("urn:popp/", URL)).audience == ("urn:popp", URL + "/")


@pytest.mark.parametrize("audience", [(), ("https://else/",), ("urn:popp", "https://else/")])
def test_an_audience_that_is_not_configured_is_no_answer(audience: tuple[str, ...]) -> None:
    with pytest.raises(ZetaError) as caught:
        permit(Target(2, (), URL), audience=audience)
    assert caught.value.status == 503


def test_a_no_tells_its_reasons() -> None:
    with pytest.raises(ZetaError) as caught:
        permit(allow=False, reasons=(Reason("profession is not allowed", "profession"), Reason("too late")))
    error = caught.value
    assert (error.code, error.status) == ("access_denied", 403)
    assert error.members == {"decision_id": "d1", "reasons": {"profession is not allowed": True, "too late": True}}
    assert "profession is not allowed; too late" in error.description


def test_reasons_can_be_kept_back() -> None:
    with pytest.raises(ZetaError) as caught:
        permit(allow=False, reasons=(Reason("profession is not allowed"),), show=False)
    assert caught.value.members == {"decision_id": "d1"}
    assert "profession" not in caught.value.description


def test_a_flood_of_reasons_does_not_flood_the_description() -> None:
    with pytest.raises(ZetaError) as caught:
        permit(allow=False, reasons=tuple(Reason("x" * 100 + str(number)) for number in range(60)))
    assert len(caught.value.description) <= 512
