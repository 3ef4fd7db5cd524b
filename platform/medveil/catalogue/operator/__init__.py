"""What a hospital's own page says."""

from __future__ import annotations

from medveil.catalogue import Texts
from medveil.catalogue.common import COMMON
from medveil.catalogue.operator.errors import ERRORS
from medveil.catalogue.operator.frame import FRAME
from medveil.catalogue.operator.panels import PANELS
from medveil.catalogue.operator.requests import REQUESTS
from medveil.catalogue.operator.verbs import VERBS

OPERATOR: Texts = {**COMMON, **FRAME, **PANELS, **REQUESTS, **VERBS, **ERRORS}
"""Every text of the operator's page."""
