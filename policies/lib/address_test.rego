package policies.zeta.lib.address_test

import data.policies.zeta.lib.address
import data.policies.zeta.lib.fixture_test as fixture

test_an_unlisted_address_passes if {
	addresses := {"blocked": {"198.51.100.0/24": "tor"}}
	count(address.deny) == 0 with input as fixture.token with data.addresses as addresses
	count(address.deny_request) == 0 with input as fixture.request with data.addresses as addresses
}

test_an_address_in_a_blocked_network_is_denied if {
	addresses := {"blocked": {"192.0.2.0/28": "tor"}}
	fixture.codes(address.deny) == {"address_blocked"} with input as fixture.token with data.addresses as addresses
	fixture.codes(address.deny_request) == {"address_blocked"} with input as fixture.request
		with data.addresses as addresses
}

test_a_blocked_single_address_is_denied if {
	addresses := {"blocked": {"192.0.2.10/32": "vpn"}}
	fixture.codes(address.deny) == {"address_blocked"} with input as fixture.token with data.addresses as addresses
}

test_an_unknown_address_is_denied if {
	addresses := {"blocked": {}}
	question := fixture.without(
		fixture.without(fixture.token, "/authorization_request/ip_address"),
		"/authorization_request/ip_prefixes",
	)
	fixture.codes(address.deny) == {"address_unknown"} with input as question with data.addresses as addresses
	request := fixture.without(fixture.without(fixture.request, "/request/ip_address"), "/request/ip_prefixes")
	fixture.codes(address.deny_request) == {"address_unknown"} with input as request with data.addresses as addresses
}

test_networks_that_are_not_all_networks_are_denied if {
	every prefixes in [[], ["192.0.2.10/32"]] {
		question := fixture.replaced(fixture.token, "/authorization_request/ip_prefixes", prefixes)
		"address_unknown" in fixture.codes(address.deny) with input as question with data.addresses as {"blocked": {}}
	}
}

test_no_list_denies if {
	every addresses in [{}, {"blocked": ["198.51.100.0/24"]}] {
		fixture.codes(address.deny) == {"address_list_missing"} with input as fixture.token
			with data.addresses as addresses
		fixture.codes(address.deny_request) == {"address_list_missing"} with input as fixture.request
			with data.addresses as addresses
	}
}

test_every_value_blocks if {
	every value in ["", "tor", true, false, null] {
		addresses := {"blocked": {"192.0.2.10/32": value}}
		fixture.codes(address.deny) == {"address_blocked"} with input as fixture.token with data.addresses as addresses
	}
}

test_an_empty_question_is_denied if {
	fixture.codes(address.deny) == {"address_unknown"} with input as {} with data.addresses as {"blocked": {}}
	fixture.codes(address.deny_request) == {"address_unknown"} with input as {} with data.addresses as {"blocked": {}}
}
