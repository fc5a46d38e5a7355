"""Laws: what must hold for every mesh, checked by hypothesis on meshes nobody thought of.

`make check` tries few examples of each; `LAWS=1000 pytest tests/laws` tries that many.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "laws",
    max_examples=int(os.environ.get("LAWS", "20")),
    deadline=None,
    derandomize="LAWS" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("laws")
