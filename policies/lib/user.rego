# METADATA
# title: Institutions
# description: >-
#   data.users.blocked is an object from Telematik-ID to the reason of the block. Where data.users.allow_only is
#   true, only the Telematik-IDs of data.users.allowed may pass.
package policies.zeta.lib.user

id := input.user_info.identifier

# METADATA
# scope: document
# description: Says why this very institution may not pass.
# custom:
#   reasons:
#     user_unknown: The input names no institution.
#     user_lists_missing: The bundle has no list of institutions.
#     user_blocked: The institution is blocked.
#     user_not_allowed: Only listed institutions may pass, and this one is not.
deny contains reason if {
	not id
	reason := {
		"code": "user_unknown",
		"message": "The institution is not known",
		"spec": "A_28837",
	}
}

deny contains reason if {
	not listed
	reason := {
		"code": "user_lists_missing",
		"message": "The policy has no list of institutions",
		"spec": "A_28837",
	}
}

deny contains reason if {
	_ = data.users.blocked[id]
	reason := {
		"code": "user_blocked",
		"message": "The institution is blocked",
		"spec": "A_28837",
	}
}

deny contains reason if {
	data.users.allow_only == true
	not on_the_list
	reason := {
		"code": "user_not_allowed",
		"message": "The institution is not on the list of this service",
		"spec": "A_28837",
	}
}

default listed := false

listed if {
	is_object(data.users.blocked)
	is_object(data.users.allowed)
	is_boolean(data.users.allow_only)
}

# A rule of its own, because "not data.list[input.member]" would be undefined, not true, for an input without the member.
default on_the_list := false

on_the_list if data.users.allowed[id]
