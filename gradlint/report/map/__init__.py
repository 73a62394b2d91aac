"""The map of a training setup: modules as nested boxes, the data flow between them, and where gradient stops."""
