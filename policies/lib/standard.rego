# METADATA
# title: Standard rules of the token question
# description: >-
#   Every rule of the library about tokens. A bundle starts from these and adds its own, so that a rule that is added here
#   is forgotten nowhere.
package policies.zeta.lib.standard

import data.policies.zeta.lib.address
import data.policies.zeta.lib.audience
import data.policies.zeta.lib.lifetime
import data.policies.zeta.lib.product
import data.policies.zeta.lib.profession
import data.policies.zeta.lib.scope
import data.policies.zeta.lib.user

# METADATA
# scope: document
# description: Every reason why the answer is no.
deny contains reason if some reason in address.deny

deny contains reason if some reason in audience.deny

deny contains reason if some reason in lifetime.deny

deny contains reason if some reason in product.deny

deny contains reason if some reason in profession.deny

deny contains reason if some reason in scope.deny

deny contains reason if some reason in user.deny

# METADATA
# scope: document
# description: What an allowed token looks like - its lifetimes and, where the resource decides it, its audience.
grant := {"ttl": lifetime.ttl} if not audience.of_resource

grant := {"ttl": lifetime.ttl, "aud": audience.of_resource}
