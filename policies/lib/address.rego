# METADATA
# title: Address lists
# description: >-
#   data.addresses.blocked is an object from canonical network prefix to the name of the list it comes from
#   (for example tor, vpn). The input names every network that contains the client's address, so that the
#   question is a handful of look-ups, however long the list is. IPv4-mapped addresses are IPv4.
package policies.zeta.lib.address

# METADATA
# scope: document
# description: Says why a token request cannot be answered from this address.
# custom:
#   reasons:
#     address_unknown: The client's address is not known.
#     address_list_missing: The bundle has no address list.
#     address_blocked: The address is in a blocked network.
deny contains reason if some reason in refusals(input.authorization_request)

deny contains not_known if not input.authorization_request

# METADATA
# description: The same for a request at the gateway.
deny_request contains reason if some reason in refusals(input.request)

deny_request contains not_known if not input.request

refusals(request) := unknown(request) | (no_list | blocked(request))

unknown(request) := set() if {
	request.ip_address
	count(request.ip_prefixes) in {33, 129}
} else := {not_known}

not_known := {
	"code": "address_unknown",
	"message": "The address of the client is not known",
	"spec": "A_28837",
}

default no_list := {{
	"code": "address_list_missing",
	"message": "The policy has no address list",
	"spec": "A_28837",
}}

no_list := set() if is_object(data.addresses.blocked)

blocked(request) := {reason |
	some prefix in request.ip_prefixes
	_ = data.addresses.blocked[prefix]
	reason := {
		"code": "address_blocked",
		"message": "The address of the client is in a blocked network",
		"spec": "A_28837",
	}
}
