# METADATA
# title: Demo, request question
# description: >-
#   May this request pass? Asked for routes that name a request policy. Methods come from data.requests.methods,
#   an object from method to true.
# custom:
#   question: request
package policies.zeta.request

import data.policies.zeta.lib.address

# METADATA
# description: Every reason why the answer is no.
# custom:
#   reasons:
#     method_not_allowed: The method is not allowed by the request policy.
#     user_blocked: The institution is blocked.
#     user_lists_missing: The bundle has no list of institutions.
reasons contains reason if some reason in address.deny_request

reasons contains reason if {
	not data.requests.methods[input.request.method]
	reason := {
		"code": "method_not_allowed",
		"message": "The method is not allowed by the request policy",
		"spec": "A_28837",
	}
}

reasons contains reason if {
	is_string(data.users.blocked[input.user.identifier])
	reason := {
		"code": "user_blocked",
		"message": "The institution is blocked",
		"spec": "A_28837",
	}
}

reasons contains reason if {
	not is_object(data.users.blocked)
	reason := {
		"code": "user_lists_missing",
		"message": "The policy has no list of institutions",
		"spec": "A_28837",
	}
}

default allow := false

# METADATA
# description: Yes, unless there is a reason against it.
allow if count(reasons) == 0

# METADATA
# title: Decision of the request question
# description: The answer that the gateway reads; a yes may be remembered for some seconds.
# entrypoint: true
decision := {"allow": false, "reasons": reasons} if not allow

decision := {"allow": true, "cache_seconds": object.get(data.requests, "cache_seconds", 0)} if allow
