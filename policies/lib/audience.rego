# METADATA
# title: Audiences
# description: >-
#   Contract 1 (input version 1.0): every requested audience must stand in data.audiences.allowed.
#   Contract 2 (1.1): the resource decides the audience, by data.audiences.resources, an object from
#   the origin of the resource (https://host[:port]) to its audience.
#   With data.audiences.of_this_guard the guard's own check decides: the authorization server asks only
#   for audiences that it protects, and the audience of a resource is its origin with a slash.
package policies.zeta.lib.audience

request := input.authorization_request

default of_this_guard := false

of_this_guard if data.audiences.of_this_guard == true

# METADATA
# scope: document
# description: Says why no token can be made for the requested audience or resource.
# custom:
#   reasons:
#     audience_missing: Neither audience nor resource was requested.
#     audience_not_allowed: A requested audience is not served here.
#     resource_not_allowed: The requested resource is not served here.
deny contains reason if {
	not named
	reason := {
		"code": "audience_missing",
		"message": "Neither an audience nor a resource was requested",
		"spec": "A_29693",
	}
}

deny contains reason if {
	not request.resource
	some audience in request.audience
	not served(audience)
	reason := {
		"code": "audience_not_allowed",
		"message": "A requested audience is not served here",
		"spec": "A_29693",
	}
}

deny contains reason if {
	request.resource
	not of_resource
	reason := {
		"code": "resource_not_allowed",
		"message": "The requested resource is not served here",
		"spec": "A_29693",
	}
}

# METADATA
# description: The audience of the token where the resource decides (contract 2); undefined otherwise.
of_resource := data.audiences.resources[origin]

of_resource := concat("", [origin, "/"]) if {
	of_this_guard
	not data.audiences.resources[origin]
}

# METADATA
# description: Scheme and authority of the requested resource.
origin := concat("/", array.slice(parts, 0, 3)) if {
	parts := split(request.resource, "/")
	count(parts) >= 3
	parts[0] in {"https:", "http:"}
	parts[1] == ""
	parts[2] != ""
}

default named := false

named if request.resource

named if {
	is_array(request.audience)
	count(request.audience) > 0
}

served(_) if of_this_guard

served(audience) if data.audiences.allowed[audience]
