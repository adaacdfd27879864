"""What settings are made of: where they come from, the relays they describe, and what operators may see of them."""
