"""From captions with nouns to prototypes, in one process."""
