package policies.zeta.lib.scope_test

import data.policies.zeta.lib.fixture_test as fixture
import data.policies.zeta.lib.scope

scopes := {"allowed": {"read": "Read", "write": "Write"}}

test_a_listed_scope_passes if {
	count(scope.deny) == 0 with input as fixture.token with data.scopes as scopes
}

test_all_listed_scopes_pass if {
	question := fixture.replaced(fixture.token, "/authorization_request/scopes", ["read", "write"])
	count(scope.deny) == 0 with input as question with data.scopes as scopes
}

test_one_unlisted_scope_denies_all if {
	question := fixture.replaced(fixture.token, "/authorization_request/scopes", ["read", "admin"])
	fixture.codes(scope.deny) == {"scope_not_allowed"} with input as question with data.scopes as scopes
}

test_an_empty_list_or_none_that_is_a_list_is_denied if {
	every value in [[], "read", null] {
		question := fixture.replaced(fixture.token, "/authorization_request/scopes", value)
		fixture.codes(scope.deny) == {"scope_missing"} with input as question with data.scopes as scopes
	}
}

test_no_scope_is_denied if {
	question := fixture.without(fixture.token, "/authorization_request/scopes")
	fixture.codes(scope.deny) == {"scope_missing"} with input as question with data.scopes as scopes
}

test_no_list_denies if {
	fixture.codes(scope.deny) == {"scope_not_allowed"} with input as fixture.token with data.scopes as {}
}
