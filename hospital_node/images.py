"""This node's images: read for a study, and kept sealed on its disk where they are too many for memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hospital_node import live
from medveil.log import get_logger
from medveil.progress import Look, Pace
from medveil.study import Study

if TYPE_CHECKING:
    from hospital_node.settings import Node
    from medveil_imaging.sources.rules import Rules
    from medveil_imaging.sources.site import SiteData

LABEL = "image-cache"
"""What the cache's key is derived for."""
PACS_LABEL = "pacs-images"
"""What the key of images from the PACS is derived for."""
RECTANGLES = "rectangles.toml"
"""In the node's folder: where devices write into films."""
LOG_EVERY_S = 10.0


def read_images(node: Node, study: Study) -> SiteData:
    """Everybody in the images folder, for a study. Raises: Stopped, ReadersMissing, BadFile."""
    from medveil_imaging.sources.workers import workers

    workers().start()  # while this process loads what it needs itself
    from medveil.identity import Identity
    from medveil_imaging.cache import ImageCache
    from medveil_imaging.sources.sealed import open_with
    from medveil_imaging.sources.site import read_site

    identity = Identity.load(node.settings.name, node.key)
    open_with(identity.secret_for(PACS_LABEL))
    _blank(node)
    most_bytes, cache = int(node.settings.cache_gb * 1e9), None
    if most_bytes:
        cache = ImageCache(node.cache, identity.secret_for(LABEL), most_bytes=most_bytes)
    try:
        return read_site(node.settings.data, study, cache=cache, rules=_rules(node))
    finally:
        workers().rest()  # a node may wait for months with what it has read


@contextmanager
def read_once(
    folder: Path, study: Study, node: Node | None = None, *, labelled: bool = True
) -> Iterator[SiteData]:
    """A folder's images for a look that nobody comes back to; they may be looked at inside the block.

    Nothing is kept: images that are too many for memory lie in a folder that goes at the end, sealed under a
    key that is nowhere but in memory.

    Args:
        node: whose key opens images from a PACS, and whose policy holds; None for a folder of files.
        labelled: as for :func:`medveil_imaging.sources.manifest.settled_rows`.
    Raises: Stopped, ReadersMissing, BadFile.
    """
    from medveil_imaging.sources.workers import workers

    workers().start()
    from hospital_node.demand import images_in
    from medveil.identity import Identity
    from medveil_imaging.cache import in_memory, temporary_cache
    from medveil_imaging.sources.sealed import open_with
    from medveil_imaging.sources.site import read_site

    if node is not None:
        open_with(Identity.load(node.settings.name, node.key).secret_for(PACS_LABEL))
    _blank(node)
    rules = _rules(node)
    if in_memory(study, images_in(folder)):
        yield read_site(folder, study, labelled=labelled, rules=rules)
        return
    with temporary_cache() as cache:
        yield read_site(folder, study, cache=cache, labelled=labelled, rules=rules)


def _blank(node: Node | None) -> None:
    """Let the rectangles of films that the policy says be made black. Raises: BadFile."""
    from medveil_imaging.sources.dicom.blanking import blank_with, read_rectangles

    wanted = node is not None and node.settings.policy.burned_in == "blank"
    blank_with(read_rectangles(node.folder / RECTANGLES) if node is not None and wanted else ())


def _rules(node: Node | None) -> Rules:
    """What becomes of images that show writing or a face: the node's policy, or a warning."""
    from medveil_imaging.sources.rules import Rules

    return Rules() if node is None else Rules(node.settings.policy.burned_in, node.settings.policy.faces)


def read_images_logged(node: Node, study: Study, plan: str) -> SiteData:
    """As :func:`read_images`; the log says every ten seconds how far it is, and at the end what it gave."""
    log = get_logger()
    log.info("images.begun", plan=plan)

    def note(look: Look) -> None:
        now = look.now
        log.info(
            "images.reading",
            plan=plan,
            count=now.done,
            total=now.total,
            rate=round(look.rate, 1),
            seconds=round(look.left_s),
            reason="seconds is the time left",
        )

    with live.followed(plan, Pace(note, every_s=LOG_EVERY_S)):
        site = read_images(node, study)
    refused = sum(problem.severity == "error" for problem in site.problems)
    log.info("images.read", plan=plan, count=refused, reason="count is the number of refused items")
    for problem in site.problems:
        if problem.code.startswith("cache-"):
            log.warning("images.cache", plan=plan, code=problem.code)
    return site
