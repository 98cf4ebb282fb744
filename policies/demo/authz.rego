# METADATA
# title: Demo, token question
# description: >-
#   May this institution have a token? Grants the scopes of both demo services (vsdservice and popp) to practices,
#   hospitals and pharmacies. A request passes when no rule of the library says no.
# custom:
#   question: token
package policies.zeta.authz

import data.policies.zeta.lib.address
import data.policies.zeta.lib.audience
import data.policies.zeta.lib.lifetime
import data.policies.zeta.lib.product
import data.policies.zeta.lib.profession
import data.policies.zeta.lib.scope
import data.policies.zeta.lib.user

# METADATA
# description: Every reason why the answer is no.
reasons := (((((profession.deny | product.deny) | scope.deny) | audience.deny) | address.deny) | user.deny) | lifetime.deny

default allow := false

# METADATA
# description: Yes, unless there is a reason against it.
allow if count(reasons) == 0

# METADATA
# title: Decision of the token question
# description: The answer that the authorization server reads.
# entrypoint: true
decision := {"allow": false, "reasons": reasons} if not allow

decision := {"allow": true, "ttl": lifetime.ttl} if {
	allow
	not audience.of_resource
}

decision := {"allow": true, "ttl": lifetime.ttl, "aud": audience.of_resource} if allow
