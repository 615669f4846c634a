"""Picture files that people have: formats, metadata, masks, classical fills."""
