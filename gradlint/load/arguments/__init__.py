"""What a build() is called with: given by name on the command line or in the configuration, and fitted to its types."""
