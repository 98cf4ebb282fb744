package policies.zeta.lib.user_test

import data.policies.zeta.lib.fixture_test as fixture
import data.policies.zeta.lib.user

open := {"blocked": {"1-blocked": "reported stolen"}, "allow_only": false, "allowed": {}}

listed := {"blocked": {}, "allow_only": true, "allowed": {"1-test-institution": true}}

test_an_institution_passes if {
	count(user.deny) == 0 with input as fixture.token with data.users as open
}

test_a_blocked_institution_is_denied if {
	question := fixture.replaced(fixture.token, "/user_info/identifier", "1-blocked")
	fixture.codes(user.deny) == {"user_blocked"} with input as question with data.users as open
}

test_a_listed_institution_passes if {
	count(user.deny) == 0 with input as fixture.token with data.users as listed
}

test_an_unlisted_institution_is_denied if {
	question := fixture.replaced(fixture.token, "/user_info/identifier", "1-other")
	fixture.codes(user.deny) == {"user_not_allowed"} with input as question with data.users as listed
}

test_a_block_wins_over_the_list if {
	both := object.union(listed, {"blocked": {"1-test-institution": "reported stolen"}})
	fixture.codes(user.deny) == {"user_blocked"} with input as fixture.token with data.users as both
}

test_no_institution_is_denied if {
	question := fixture.without(fixture.token, "/user_info")
	fixture.codes(user.deny) == {"user_unknown"} with input as question with data.users as open
	"user_not_allowed" in fixture.codes(user.deny) with input as question with data.users as listed
}

test_no_lists_deny if {
	every users in [{}, {"blocked": ["1-blocked"], "allow_only": false, "allowed": {}}, {"blocked": {}, "allowed": {}}] {
		fixture.codes(user.deny) == {"user_lists_missing"} with input as fixture.token with data.users as users
	}
}

test_every_value_blocks if {
	every value in ["", "reported stolen", true, false, null] {
		users := {"blocked": {"1-test-institution": value}, "allow_only": false, "allowed": {}}
		fixture.codes(user.deny) == {"user_blocked"} with input as fixture.token with data.users as users
	}
}
