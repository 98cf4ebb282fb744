# METADATA
# title: Products
# description: >-
#   Product id and version of the client software must stand in data.products.allowed,
#   an object from product id to an object of versions.
package policies.zeta.lib.product

# METADATA
# scope: document
# description: Says why the client software does not suffice.
# custom:
#   reasons:
#     product_not_allowed: The software is not known here.
#     product_version_not_allowed: The software is known, this version is not.
deny contains reason if {
	not known
	reason := {
		"code": "product_not_allowed",
		"message": "The client software (product id) is not allowed",
		"spec": "A_28837",
	}
}

deny contains reason if {
	known
	not version_known
	reason := {
		"code": "product_version_not_allowed",
		"message": "This version of the client software is not allowed",
		"spec": "A_28837",
	}
}

# Rules of their own, because "not data.list[input.member]" would be undefined, not true, for an input without the member.
# Members are named in full: who reads the whole client reads its attestation time, and every question is a new one then.
default known := false

known if data.products.allowed[input.client_registration_data.product_id]

default version_known := false

version_known if {
	client := input.client_registration_data
	data.products.allowed[client.product_id][client.product_version]
}
