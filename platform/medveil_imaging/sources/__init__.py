"""Files of a hospital → patients' tensors. Only pixel data and geometry leave a reader, never a tag."""
