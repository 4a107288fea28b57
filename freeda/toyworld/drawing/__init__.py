"""Everything the toy world can draw: one function a kind of thing, one a kind of stuff."""
