package policies.zeta.lib.request_test

import data.policies.zeta.lib.fixture_test as fixture
import data.policies.zeta.lib.request

lists := {
	"addresses": {"blocked": {}},
	"requests": {"methods": {"GET": true, "DELETE": false}},
	"users": {"blocked": {"1-blocked": "reported stolen"}},
}

denied(question, known) := codes if {
	codes := fixture.codes(request.deny) with input as question
		with data.addresses as known.addresses
		with data.requests as known.requests
		with data.users as known.users
}

test_a_request_passes if denied(fixture.request, lists) == set()

test_another_method_is_denied if {
	every method in ["POST", "DELETE", "get"] {
		denied(fixture.replaced(fixture.request, "/request/method", method), lists) == {"method_not_allowed"}
	}
}

test_no_method_is_denied if {
	denied(fixture.without(fixture.request, "/request/method"), lists) == {"method_not_allowed"}
}

test_a_blocked_institution_is_denied if {
	denied(fixture.replaced(fixture.request, "/user/identifier", "1-blocked"), lists) == {"user_blocked"}
}

test_no_institution_is_denied if {
	denied(fixture.without(fixture.request, "/user/identifier"), lists) == {"user_unknown"}
}

test_a_blocked_address_is_denied if {
	known := object.union(lists, {"addresses": {"blocked": {"192.0.2.0/24": "tor"}}})
	denied(fixture.request, known) == {"address_blocked"}
}

test_each_missing_list_denies if {
	expected := {
		"addresses": "address_list_missing",
		"requests": "method_not_allowed",
		"users": "user_lists_missing",
	}
	every name, code in expected {
		denied(fixture.request, json.patch(lists, [{"op": "replace", "path": name, "value": {}}])) == {code}
	}
}

test_nothing_is_remembered_unless_said if {
	request.cache_seconds == 0 with data.requests as {}
	request.cache_seconds == 5 with data.requests as {"cache_seconds": 5}
}

test_an_empty_question_is_denied if {
	denied({}, lists) == {"address_unknown", "method_not_allowed", "user_unknown"}
}
