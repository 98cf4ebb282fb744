package policies.zeta.lib.lifetime_test

import data.policies.zeta.lib.fixture_test as fixture
import data.policies.zeta.lib.lifetime

test_whole_seconds_pass if {
	lifetimes := {"access_token": 300, "refresh_token": 86400}
	count(lifetime.deny) == 0 with data.lifetimes as lifetimes
	lifetime.ttl == lifetimes with data.lifetimes as lifetimes
}

test_anything_else_is_denied if {
	every seconds in [0, -1, 1.5, "300", true, null] {
		lifetimes := {"access_token": seconds, "refresh_token": 86400}
		fixture.codes(lifetime.deny) == {"lifetime_missing"} with data.lifetimes as lifetimes
	}
}

test_one_alone_is_denied if {
	fixture.codes(lifetime.deny) == {"lifetime_missing"} with data.lifetimes as {"access_token": 300}
}

test_none_is_denied if fixture.codes(lifetime.deny) == {"lifetime_missing"} with data.lifetimes as {}
