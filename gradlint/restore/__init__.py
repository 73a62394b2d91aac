"""Put the user's objects and the global state of torch back as they were."""
