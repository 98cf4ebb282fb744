package policies.zeta.request_test

import data.policies.zeta.lib.fixture_test as fixture
import data.policies.zeta.request

test_a_request_of_a_practice_passes if {
	request.decision == {"allow": true, "cache_seconds": 0} with input as fixture.request
}

test_another_method_is_denied if {
	decision := request.decision with input as fixture.replaced(fixture.request, "/request/method", "POST")
	decision.allow == false
	fixture.codes(decision.reasons) == {"method_not_allowed"}
}
