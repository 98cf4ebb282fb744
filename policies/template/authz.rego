# METADATA
# title: Token question of a new service
# description: >-
#   Copy this folder, fill in the lists in its data.json files, and add what only this service asks for, as level_too_low
#   below does. As it stands it denies everything: its lists are empty.
package policies.zeta.authz

import data.policies.zeta.lib.standard

# METADATA
# scope: document
# description: Every reason why the answer is no - those of the library and the service's own.
# custom:
#   reasons:
#     level_too_low: The level of assurance is not one of data.levels.allowed.
reasons contains reason if some reason in standard.deny

reasons contains reason if {
	not level_allowed
	reason := {
		"code": "level_too_low",
		"message": "The level of assurance is too low for this service",
		"spec": "A_28837",
	}
}

# A rule of its own, because "not data.list[input.member]" would be undefined, not true, for an input without the member.
default level_allowed := false

level_allowed if data.levels.allowed[input.authorization_request.acr]

default allow := false

# METADATA
# description: Yes, unless there is a reason against it.
allow if count(reasons) == 0

# METADATA
# scope: document
# title: Decision of the token question
# description: What the authorization server reads.
# entrypoint: true
decision := {"allow": false, "reasons": reasons} if not allow

decision := object.union({"allow": true}, standard.grant) if allow
