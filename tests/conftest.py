"""What every suite shares: Hypothesis without deadlines, since machines are shared and noisy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("conclave", deadline=None, print_blob=True)
settings.load_profile("conclave")
