"""The ledger of gradients: backward passes, clears, clips and optimizer steps, as the hooks report them."""
