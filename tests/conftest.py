"""What every suite shares: nothing of Hypothesis is judged by the clock, and a run repeats the one before.

`CONCLAVE_EXPLORE=1 make test-unit` tries other examples than the fixed ones.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "conclave",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CONCLAVE_EXPLORE" not in os.environ,
    print_blob=True,
)
settings.load_profile("conclave")
