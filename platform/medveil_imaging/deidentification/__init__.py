"""De-identification of DICOM: the Basic Application Level Confidentiality Profile of PS3.15 Annex E.

What becomes of each attribute is data (``ps3_15.tsv``, made from the standard's table E.1-1);
:mod:`~medveil_imaging.deidentification.datasets` walks a data set by it, and
:mod:`~medveil_imaging.deidentification.files` turns the bytes of a file into the bytes of a clean one.
"""
