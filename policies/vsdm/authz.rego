# METADATA
# title: Token question of VSDM
# description: >-
#   May this institution have a token for insured data (VSDM 2.0)? Yes, unless a rule of the library has a reason
#   against it. For a guard with this one service: data.scopes grants vsdservice and nothing else.
package policies.zeta.authz

import data.policies.zeta.lib.standard

# METADATA
# description: Every reason why the answer is no.
reasons := standard.deny

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
