package policies.zeta.lib.product_test

import data.policies.zeta.lib.fixture_test as fixture
import data.policies.zeta.lib.product

products := {"allowed": {"product": {"1.0.0": true, "0.9.0": false}}}

test_a_listed_version_passes if {
	count(product.deny) == 0 with input as fixture.token with data.products as products
}

test_an_unlisted_version_is_denied if {
	question := fixture.replaced(fixture.token, "/client_registration_data/product_version", "2.0.0")
	fixture.codes(product.deny) == {"product_version_not_allowed"} with input as question with data.products as products
}

test_a_version_switched_off_is_denied if {
	question := fixture.replaced(fixture.token, "/client_registration_data/product_version", "0.9.0")
	fixture.codes(product.deny) == {"product_version_not_allowed"} with input as question with data.products as products
}

test_an_unlisted_product_is_denied if {
	question := fixture.replaced(fixture.token, "/client_registration_data/product_id", "other")
	fixture.codes(product.deny) == {"product_not_allowed"} with input as question with data.products as products
}

test_no_client_data_is_denied if {
	question := fixture.without(fixture.token, "/client_registration_data")
	fixture.codes(product.deny) == {"product_not_allowed"} with input as question with data.products as products
}

test_no_list_denies if {
	fixture.codes(product.deny) == {"product_not_allowed"} with input as fixture.token with data.products as {}
}

test_no_version_is_denied if {
	question := fixture.without(fixture.token, "/client_registration_data/product_version")
	fixture.codes(product.deny) == {"product_version_not_allowed"} with input as question with data.products as products
}
