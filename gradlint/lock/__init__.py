"""The trainable state of a training setup as a reviewable file."""
