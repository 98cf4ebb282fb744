package policies.zeta.lib.profession_test

import data.policies.zeta.lib.fixture_test as fixture
import data.policies.zeta.lib.profession

professions := {"allowed": {"1.2.276.0.76.4.50": "Betriebsstätte Arzt"}}

test_a_listed_profession_passes if {
	count(profession.deny) == 0 with input as fixture.token with data.professions as professions
}

test_an_unlisted_profession_is_denied if {
	question := fixture.replaced(fixture.token, "/user_info/professionOID", "1.2.276.0.76.4.58")
	fixture.codes(profession.deny) == {"profession_not_allowed"} with input as question with data.professions as professions
}

test_no_profession_is_denied if {
	question := fixture.without(fixture.token, "/user_info/professionOID")
	fixture.codes(profession.deny) == {"profession_not_allowed"} with input as question with data.professions as professions
}

test_no_list_denies if {
	fixture.codes(profession.deny) == {"profession_not_allowed"} with input as fixture.token with data.professions as {}
}
