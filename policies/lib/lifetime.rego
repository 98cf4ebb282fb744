# METADATA
# title: Lifetimes
# description: >-
#   data.lifetimes holds access_token and refresh_token in seconds. The configuration of the guard may cap them.
package policies.zeta.lib.lifetime

# METADATA
# description: The lifetimes of a decision; undefined unless both are whole seconds from 1.
ttl := {
	"access_token": data.lifetimes.access_token,
	"refresh_token": data.lifetimes.refresh_token,
} if {
	valid(data.lifetimes.access_token)
	valid(data.lifetimes.refresh_token)
}

valid(seconds) if {
	is_number(seconds)
	seconds == floor(seconds)
	seconds >= 1
}

# METADATA
# scope: document
# description: Says that no token can be made without lifetimes.
# custom:
#   reasons:
#     lifetime_missing: The bundle names no valid lifetimes.
deny contains reason if {
	not ttl
	reason := {
		"code": "lifetime_missing",
		"message": "The policy names no valid token lifetimes",
		"spec": "A_28527",
	}
}
