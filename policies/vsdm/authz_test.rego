package policies.zeta.authz_test

import data.policies.zeta.authz
import data.policies.zeta.lib.fixture_test as fixture

practice := json.patch(fixture.token, [
	{"op": "replace", "path": "/authorization_request/scopes", "value": ["vsdservice"]},
	{"op": "replace", "path": "/client_registration_data/product_id", "value": "demo_client"},
])

test_a_practice_gets_its_token if {
	authz.decision == {"allow": true, "ttl": {"access_token": 300, "refresh_token": 86400}} with input as practice
}

test_the_scope_of_another_service_is_denied if {
	question := fixture.replaced(practice, "/authorization_request/scopes", ["vsdservice", "popp"])
	decision := authz.decision with input as question
	decision.allow == false
	fixture.codes(decision.reasons) == {"scope_not_allowed"}
}

test_another_profession_is_denied if {
	question := fixture.replaced(practice, "/user_info/professionOID", "1.2.276.0.76.4.282")
	decision := authz.decision with input as question
	fixture.codes(decision.reasons) == {"profession_not_allowed"}
}

test_an_empty_question_is_denied if {
	decision := authz.decision with input as {}
	decision.allow == false
}
