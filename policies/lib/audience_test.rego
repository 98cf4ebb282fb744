package policies.zeta.lib.audience_test

import data.policies.zeta.lib.audience
import data.policies.zeta.lib.fixture_test as fixture

listed := {
	"allowed": {"https://service.example/": true},
	"resources": {"https://guard.example:8443": "https://service.example/"},
}

asks_resource(resource) := json.patch(fixture.token, [
	{"op": "remove", "path": "/authorization_request/audience"},
	{"op": "remove", "path": "/authorization_request/aud"},
	{"op": "add", "path": "/authorization_request/resource", "value": resource},
	{"op": "replace", "path": "/version", "value": "1.1"},
])

test_a_listed_audience_passes if {
	count(audience.deny) == 0 with input as fixture.token with data.audiences as listed
	not audience.of_resource with input as fixture.token with data.audiences as listed
}

test_one_unlisted_audience_denies_all if {
	question := fixture.replaced(
		fixture.token, "/authorization_request/audience",
		["https://service.example/", "https://other.example/"],
	)
	fixture.codes(audience.deny) == {"audience_not_allowed"} with input as question with data.audiences as listed
}

test_the_guards_own_check_can_decide if {
	count(audience.deny) == 0 with input as fixture.token with data.audiences as {"of_this_guard": true}
}

test_neither_audience_nor_resource_is_denied if {
	question := fixture.without(fixture.token, "/authorization_request/audience")
	fixture.codes(audience.deny) == {"audience_missing"} with input as question with data.audiences as listed
}

test_an_empty_audience_or_none_that_is_a_list_is_denied if {
	every value in [[], {}, "https://service.example/", null] {
		question := fixture.replaced(fixture.token, "/authorization_request/audience", value)
		fixture.codes(audience.deny) == {"audience_missing"} with input as question with data.audiences as listed
	}
}

test_a_listed_resource_decides_the_audience if {
	question := asks_resource("https://guard.example:8443/service/v1")
	count(audience.deny) == 0 with input as question with data.audiences as listed
	audience.of_resource == "https://service.example/" with input as question with data.audiences as listed
}

test_the_origin_of_a_resource_can_be_the_audience if {
	question := asks_resource("https://guard.example/service/v1")
	count(audience.deny) == 0 with input as question with data.audiences as {"of_this_guard": true}
	audience.of_resource == "https://guard.example/" with input as question with data.audiences as {"of_this_guard": true}
}

test_a_listed_resource_wins_over_its_origin if {
	question := asks_resource("https://guard.example:8443/service/v1")
	both := object.union(listed, {"of_this_guard": true})
	audience.of_resource == "https://service.example/" with input as question with data.audiences as both
}

test_an_unlisted_resource_is_denied if {
	question := asks_resource("https://other.example/service/v1")
	fixture.codes(audience.deny) == {"resource_not_allowed"} with input as question with data.audiences as listed
}

test_a_resource_that_is_no_url_is_denied if {
	every resource in ["service", "ftp://guard.example/", "https:guard.example/x/y", "https:///service", ""] {
		fixture.codes(audience.deny) == {"resource_not_allowed"} with input as asks_resource(resource)
			with data.audiences as {"of_this_guard": true}
	}
}

test_no_list_denies if {
	fixture.codes(audience.deny) == {"audience_not_allowed"} with input as fixture.token with data.audiences as {}
	fixture.codes(audience.deny) == {"resource_not_allowed"} with input as asks_resource("https://guard.example/x")
		with data.audiences as {}
}
