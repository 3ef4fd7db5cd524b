"""What a hospital does with images that may show who somebody is: writing in films, faces in volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medveil_imaging.sources.raw import Note, Unusable

WRITING = Note(
    "possible-writing",
    "The picture seems to hold printed text, whatever its header says.",
    "Look at the picture; export it without names, or leave it out.",
)
FACE = Note(
    "possible-face",
    "The volume seems to show a whole head with its face.",
    "Remove the face first (pydeface, mri_deface, quickshear), or set 'faces' of the policy in node.json.",
)
NOT_USED = "Export it without, or change '{key}' of the policy in node.json if your rules allow it."

NO_RECTANGLE = "Say in rectangles.toml of the node's folder where its device writes, or leave it out."

Writing = Literal["warn", "refuse", "blank"]
"""``blank``: a device's rectangles are black already; a film that shows writing all the same is not used."""
Faces = Literal["warn", "refuse", "allow"]


@dataclass(frozen=True)
class Rules:
    """What becomes of an image about which a reader said :data:`WRITING` or :data:`FACE`."""

    writing: Writing = "warn"
    faces: Faces = "warn"

    def judged(self, notes: tuple[Note, ...]) -> tuple[Note, ...]:
        """What an operator is still to be told of an image. Raises: Unusable: it is not to be used."""
        codes = {note.code for note in notes}
        if self.writing == "blank" and WRITING.code in codes:
            raise Unusable(WRITING.code, WRITING.reason, NO_RECTANGLE)
        for note, rule, key in ((WRITING, self.writing, "burned_in"), (FACE, self.faces, "faces")):
            if rule == "refuse" and note.code in codes:
                raise Unusable(note.code, note.reason, NOT_USED.format(key=key))
        return tuple(n for n in notes if n.code != FACE.code or self.faces != "allow")
