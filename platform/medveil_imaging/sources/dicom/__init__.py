"""How a DICOM file is read: header, stored values, grey scale, films, slices.

:mod:`medveil_imaging.sources.formats.dicom` files it as a format.
"""
