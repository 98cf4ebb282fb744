package policies.zeta.authz_test

import data.policies.zeta.authz
import data.policies.zeta.lib.fixture_test as fixture

practice := json.patch(fixture.token, [
	{"op": "replace", "path": "/authorization_request/scopes", "value": ["popp", "vsdservice"]},
	{"op": "replace", "path": "/client_registration_data/product_id", "value": "demo_client"},
	{"op": "replace", "path": "/client_registration_data/product_version", "value": "0.1.0"},
])

test_a_practice_gets_both_scopes if {
	authz.decision == {"allow": true, "ttl": {"access_token": 300, "refresh_token": 86400}} with input as practice
}

test_every_listed_profession_passes if {
	every number in ["50", "51", "52", "53", "54", "55", "56", "57", "59"] {
		oid := concat(".", ["1.2.276.0.76.4", number])
		authz.allow with input as fixture.replaced(practice, "/user_info/professionOID", oid)
	}
}

test_the_profession_that_the_demo_denies_is_denied if {
	question := fixture.replaced(practice, "/user_info/professionOID", "1.2.276.0.76.4.58")
	decision := authz.decision with input as question
	decision.allow == false
	fixture.codes(decision.reasons) == {"profession_not_allowed"}
}

test_each_public_test_client_passes if {
	every product in ["demo_client", "ZETA-Test-Client"] {
		every version in ["0.1.0", "1.0.0"] {
			question := json.patch(practice, [
				{"op": "replace", "path": "/client_registration_data/product_id", "value": product},
				{"op": "replace", "path": "/client_registration_data/product_version", "value": version},
			])
			authz.allow with input as question
		}
	}
}

test_another_product_is_denied if {
	question := fixture.replaced(practice, "/client_registration_data/product_id", "other")
	decision := authz.decision with input as question
	fixture.codes(decision.reasons) == {"product_not_allowed"}
}

test_a_resource_gets_the_audience_of_its_guard if {
	question := json.patch(practice, [
		{"op": "remove", "path": "/authorization_request/audience"},
		{"op": "add", "path": "/authorization_request/resource", "value": "https://localhost:8443/vsdservice/v1"},
	])
	decision := authz.decision with input as question
	decision.allow == true
	decision.aud == "https://localhost:8443/"
}

test_a_blocked_institution_is_denied if {
	decision := authz.decision with input as practice with data.users.blocked as {"1-test-institution": "reported stolen"}
	fixture.codes(decision.reasons) == {"user_blocked"}
}

test_every_reason_is_named if {
	decision := authz.decision with input as {}
	decision.allow == false
	fixture.codes(decision.reasons) == {
		"address_unknown", "audience_missing", "product_not_allowed", "profession_not_allowed", "scope_missing",
		"user_unknown",
	}
}
