"""What holds for every test: nothing depends on the machine's speed."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "medveil", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("medveil")
