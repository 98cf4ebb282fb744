package policies.zeta.request_test

import data.policies.zeta.lib.fixture_test as fixture
import data.policies.zeta.request

test_a_request_of_a_practice_passes if {
	request.decision == {"allow": true, "cache_seconds": 0} with input as fixture.request
}

test_a_blocked_institution_is_denied if {
	decision := request.decision with input as fixture.request
		with data.users.blocked as {"1-test-institution": "reported stolen"}
	decision.allow == false
	fixture.codes(decision.reasons) == {"user_blocked"}
}

test_another_method_is_denied if {
	decision := request.decision with input as fixture.replaced(fixture.request, "/request/method", "TRACE")
	decision.allow == false
	fixture.codes(decision.reasons) == {"method_not_allowed"}
}
