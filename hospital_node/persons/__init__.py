"""Persons who may be in two hospitals: whom of the patients here this hospital may use."""
