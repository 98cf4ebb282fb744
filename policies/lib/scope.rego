# METADATA
# title: Scopes
# description: >-
#   At least one scope must be asked for and each one must stand in data.scopes.allowed,
#   an object from scope to a description. All or nothing.
package policies.zeta.lib.scope

# METADATA
# scope: document
# description: Says why the requested scopes cannot be granted.
# custom:
#   reasons:
#     scope_missing: No scope was requested.
#     scope_not_allowed: A requested scope is not granted here.
deny contains reason if {
	not requested
	reason := {
		"code": "scope_missing",
		"message": "No scope was requested",
		"spec": "A_28837",
	}
}

deny contains reason if {
	some scope in input.authorization_request.scopes
	not data.scopes.allowed[scope]
	reason := {
		"code": "scope_not_allowed",
		"message": "A requested scope is not granted by this service",
		"spec": "A_28837",
	}
}

default requested := false

requested if {
	is_array(input.authorization_request.scopes)
	count(input.authorization_request.scopes) > 0
}
