# METADATA
# title: Request question of PoPP
# description: May this request pass? Asked for routes that switch request_policy on.
package policies.zeta.request

import data.policies.zeta.lib.request

# METADATA
# description: Every reason why the answer is no.
reasons := request.deny

default allow := false

# METADATA
# description: Yes, unless there is a reason against it.
allow if count(reasons) == 0

# METADATA
# scope: document
# title: Decision of the request question
# description: What the gateway reads.
# entrypoint: true
decision := {"allow": false, "reasons": reasons} if not allow

decision := {"allow": true, "cache_seconds": request.cache_seconds} if allow
