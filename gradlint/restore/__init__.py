"""The user's objects and global state, put back as they were."""
