# METADATA
# title: Questions for tests
# description: A complete question that every rule of the library lets pass, and the data that go with it.
package policies.zeta.lib.fixture_test

prefixes := [
	"192.0.2.10/32", "192.0.2.10/31", "192.0.2.8/30", "192.0.2.8/29", "192.0.2.0/28",
	"192.0.2.0/27", "192.0.2.0/26", "192.0.2.0/25", "192.0.2.0/24", "192.0.2.0/23",
	"192.0.0.0/22", "192.0.0.0/21", "192.0.0.0/20", "192.0.0.0/19", "192.0.0.0/18",
	"192.0.0.0/17", "192.0.0.0/16", "192.0.0.0/15", "192.0.0.0/14", "192.0.0.0/13",
	"192.0.0.0/12", "192.0.0.0/11", "192.0.0.0/10", "192.0.0.0/9", "192.0.0.0/8",
	"192.0.0.0/7", "192.0.0.0/6", "192.0.0.0/5", "192.0.0.0/4", "192.0.0.0/3",
	"192.0.0.0/2", "128.0.0.0/1", "0.0.0.0/0",
]

token := {
	"version": "1.0",
	"authorization_request": {
		"scopes": ["read"],
		"audience": ["https://service.example/"],
		"aud": ["https://service.example/"],
		"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
		"http_method": "POST",
		"ip_address": "192.0.2.10",
		"ip_prefixes": prefixes,
		"amr": [],
		"acr": "gematik-ehealth-loa-high",
	},
	"client_registration_data": {
		"client_id": "client",
		"platform": "linux",
		"posture_type": "software",
		"product_id": "product",
		"product_version": "1.0.0",
	},
	"user_info": {
		"identifier": "1-test-institution",
		"professionOID": "1.2.276.0.76.4.50",
		"commonName": "Practice",
	},
	"delegation_context": null,
}

request := {
	"request": {
		"method": "GET",
		"path": ["service"],
		"query": {},
		"route": "/service",
		"ip_address": "192.0.2.10",
		"ip_prefixes": prefixes,
		"websocket": false,
	},
	"token": {"sub": "1-test-institution"},
	"client": {"client_id": "client"},
	"user": {"identifier": "1-test-institution", "professionOID": "1.2.276.0.76.4.50"},
	"time": 1700000000,
}

# METADATA
# description: The codes of reasons.
codes(reasons) := {reason.code | some reason in reasons}

# METADATA
# description: A question with one member replaced (JSON pointer).
replaced(question, path, value) := json.patch(question, [{"op": "replace", "path": path, "value": value}])

# METADATA
# description: A question with one member removed (JSON pointer).
without(question, path) := json.patch(question, [{"op": "remove", "path": path}])

test_the_fixture_has_all_networks_of_an_address if count(prefixes) == 33

test_codes if codes({{"code": "a"}, {"code": "b"}}) == {"a", "b"}

test_replaced if replaced(token, "/version", "1.1").version == "1.1"

test_without if not without(token, "/version").version
