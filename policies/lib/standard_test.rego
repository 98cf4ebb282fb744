package policies.zeta.lib.standard_test

import data.policies.zeta.lib.fixture_test as fixture
import data.policies.zeta.lib.standard

# Everything that the fixture needs to pass.
complete := {
	"addresses": {"blocked": {}},
	"audiences": {"of_this_guard": true},
	"lifetimes": {"access_token": 300, "refresh_token": 86400},
	"products": {"allowed": {"product": {"1.0.0": true}}},
	"professions": {"allowed": {"1.2.276.0.76.4.50": "Betriebsstätte Arzt"}},
	"scopes": {"allowed": {"read": "Read"}},
	"users": {"blocked": {}, "allow_only": false, "allowed": {}},
}

denied(lists) := codes if {
	codes := fixture.codes(standard.deny) with input as fixture.token
		with data.addresses as lists.addresses
		with data.audiences as lists.audiences
		with data.lifetimes as lists.lifetimes
		with data.products as lists.products
		with data.professions as lists.professions
		with data.scopes as lists.scopes
		with data.users as lists.users
}

test_complete_data_let_pass if denied(complete) == set()

test_each_missing_list_denies if {
	expected := {
		"addresses": "address_list_missing",
		"audiences": "audience_not_allowed",
		"lifetimes": "lifetime_missing",
		"products": "product_not_allowed",
		"professions": "profession_not_allowed",
		"scopes": "scope_not_allowed",
		"users": "user_lists_missing",
	}
	every name, code in expected {
		denied(json.patch(complete, [{"op": "replace", "path": name, "value": {}}])) == {code}
	}
}

test_a_grant_has_lifetimes if {
	standard.grant == {"ttl": complete.lifetimes} with input as fixture.token
		with data.lifetimes as complete.lifetimes
		with data.audiences as complete.audiences
}

test_a_grant_for_a_resource_has_its_audience if {
	question := json.patch(fixture.token, [{
		"op": "add",
		"path": "/authorization_request/resource",
		"value": "https://guard.example/service",
	}])
	standard.grant == {"ttl": complete.lifetimes, "aud": "https://guard.example/"} with input as question
		with data.lifetimes as complete.lifetimes
		with data.audiences as complete.audiences
}
