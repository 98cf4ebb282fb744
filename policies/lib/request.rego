# METADATA
# title: Standard rules of the request question
# description: >-
#   Address lists and blocked institutions also bite while a token lives. Methods come from data.requests.methods, an object
#   from method to true.
package policies.zeta.lib.request

import data.policies.zeta.lib.address

# METADATA
# scope: document
# description: Every reason why the answer is no.
# custom:
#   reasons:
#     method_not_allowed: The method is not allowed by the request policy.
#     user_unknown: The token names no institution.
#     user_blocked: The institution is blocked.
#     user_lists_missing: The bundle has no list of institutions.
deny contains reason if some reason in address.deny_request

deny contains reason if {
	not method_allowed
	reason := {
		"code": "method_not_allowed",
		"message": "The method is not allowed by the request policy",
		"spec": "A_28837",
	}
}

deny contains reason if {
	not input.user.identifier
	reason := {
		"code": "user_unknown",
		"message": "The institution is not known",
		"spec": "A_28837",
	}
}

deny contains reason if {
	_ = data.users.blocked[input.user.identifier]
	reason := {
		"code": "user_blocked",
		"message": "The institution is blocked",
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

default listed := false

listed if is_object(data.users.blocked)

default method_allowed := false

method_allowed if data.requests.methods[input.request.method]

# METADATA
# scope: document
# description: How long the gateway may remember a yes, in seconds; 0 where data.requests.cache_seconds names nothing.
default cache_seconds := 0

cache_seconds := data.requests.cache_seconds
