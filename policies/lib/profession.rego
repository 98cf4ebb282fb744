# METADATA
# title: Professions
# description: >-
#   The profession OID of the SM(C)-B certificate must stand in data.professions.allowed,
#   an object from OID to the name of the kind of institution.
package policies.zeta.lib.profession

# METADATA
# scope: document
# description: Says why the institution's profession does not suffice.
# custom:
#   reasons:
#     profession_not_allowed: The kind of institution may not use this service.
deny contains reason if {
	not allowed
	reason := {
		"code": "profession_not_allowed",
		"message": "The kind of institution (profession OID) may not use this service",
		"spec": "A_28837",
	}
}

# A rule of its own, because "not data.list[input.member]" would be undefined, not true, for an input without the member.
default allowed := false

allowed if data.professions.allowed[input.user_info.professionOID]
