"""DICOM through pydicom: films, multi-frame volumes and series of slices.

Only pixel values and geometry are returned. Overlay planes, private elements, names and texts are not read.
"""

from __future__ import annotations

from medveil_imaging.sources.dicom.film import read_dicom_film
from medveil_imaging.sources.dicom.header import begins_like_dicom
from medveil_imaging.sources.dicom.series import read_dicom_volume
from medveil_imaging.sources.formats import FORMATS, Format

FORMATS.register("dicom")(
    Format(
        what="a DICOM file",
        begins=begins_like_dicom,
        film=read_dicom_film,
        volume=read_dicom_volume,
        before_others=True,
    )
)
