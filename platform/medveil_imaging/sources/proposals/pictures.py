"""A folder of images with nothing around them that tells what they show: a list says it, or nothing yet."""

from __future__ import annotations

from medveil_imaging.sources.file_patients import owners_of
from medveil_imaging.sources.listed_images import with_list
from medveil_imaging.sources.proposals import LAYOUTS, Layout
from medveil_imaging.sources.proposed import Image, Proposal, Wish
from medveil_imaging.sources.tree import NO_IMAGE, Leavings, Tree, mostly_volumes


def propose_images(tree: Tree, wish: Wish, leavings: Leavings) -> Proposal:
    """A line for each image file."""
    for file in tree.files:
        if not file.kind:
            leavings.leave(NO_IMAGE, file.path)
    files = tree.images
    owners = owners_of([file.path for file in files], wish.pattern)
    images = tuple(Image((file.path,), patient) for file, patient in zip(files, owners.patients, strict=True))
    found = Proposal(
        told=(("patients", owners.told),), images=images, notes=owners.notes, volumes=mostly_volumes(files)
    )
    names = [
        {"path": f.path, "name": f.name, "stem": f.stem, "patient": i.patient}
        for f, i in zip(files, images, strict=True)
    ]
    return with_list(found, names, wish, leavings, patients=True)


LAYOUTS.register("images")(
    Layout(
        what="a folder of images without an order that is known here",
        asked=9,
        fits=lambda _: True,
        propose=propose_images,
    )
)
