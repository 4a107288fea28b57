"""One image's way from pixels to a label map, and the result."""
