"""What in an image a model's answer rests on, and how its outlines compare with an expert's: as one page."""
