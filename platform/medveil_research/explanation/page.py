"""The page of a gallery."""

from __future__ import annotations

from medveil.profiles import PROFILES
from medveil.study import Study
from medveil.tasks import TASKS
from medveil_research.explanation.gallery import Gallery
from medveil_research.report import base


def render(study: Study, model: str, gallery: Gallery) -> str:
    """HTML with the pictures in it; equal galleries give equal text.

    Args: model: hash of the version.
    Guarantees: no name of a file, patient or hospital is in it; nothing is loaded from anywhere.
    """
    return base.render_page(
        "explanation.html.j2",
        pictures=True,
        study=study,
        model=model,
        gallery=gallery,
        volumes=PROFILES[study.transforms.profile].reads_volumes,
        outlines=TASKS[study.task].outlines,
        shown=sum(len(part) for _, part in gallery.groups),
    )
