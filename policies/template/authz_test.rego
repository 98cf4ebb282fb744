package policies.zeta.authz_test

import data.policies.zeta.authz
import data.policies.zeta.lib.fixture_test as fixture

decided(question) := answer if {
	answer := authz.decision with input as question
		with data.professions.allowed as {"1.2.276.0.76.4.50": "Betriebsstätte Arzt"}
		with data.products.allowed as {"product": {"1.0.0": true}}
		with data.scopes.allowed as {"read": "Read"}
		with data.audiences.allowed as {"https://service.example/": true}
}

test_filled_lists_let_pass if {
	decided(fixture.token) == {"allow": true, "ttl": {"access_token": 300, "refresh_token": 86400}}
}

test_a_low_level_is_denied if {
	question := fixture.replaced(fixture.token, "/authorization_request/acr", "gematik-ehealth-loa-substantial")
	fixture.codes(decided(question).reasons) == {"level_too_low"}
}

test_no_level_is_denied if {
	question := fixture.without(fixture.token, "/authorization_request/acr")
	fixture.codes(decided(question).reasons) == {"level_too_low"}
}

test_empty_lists_deny if {
	decision := authz.decision with input as fixture.token
	decision.allow == false
}
